"""What vLLM is told, so that it reads the prompt that transformers reads.

vLLM has a processor of its own. It replaces the placeholder of a picture by as many as the picture has visual tokens:
ids in which that has been done already become another prompt, and nothing says so. It resizes pictures by the
checkpoint's pixel limits, with torchvision. So it is given ids with one placeholder a picture, and each picture so that
it sees the pixels that ours sees (`Family.handed`); what it then read is compared with what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from PIL.Image import Image

from vlm.common.errors import RecipeError, UserError
from vlm.families import Family, Sight
from vlm.pictures.images import opaque

FORBIDDEN = -100.0
"""Logit bias that no sampled token survives, the lowest that vLLM takes: exp(-100) is below float32's resolution beside
any other token."""
AROUND = 4
"""Tokens that a message shows on either side of the first difference."""


def arguments(processor: Any) -> dict[str, Any]:
    """Keywords of `vllm.LLM`, for pictures from `as_seen` and sampling that is stated in full.

    generation_config: not the checkpoint's sampling; its ids that end a text still do.
    """
    return {
        "generation_config": "vllm",
        "mm_processor_kwargs": processor.family.as_it_is(processor.sight.plain),
        "limit_mm_per_prompt": {"video": 0},
    }


def check_family(family: Family, instead: str, server: bool = False) -> None:
    """server: whether pictures are sent to one apart from their prompts, as TRL does. Raises: RecipeError for a family
    of which nobody has compared what vLLM reads with what is meant."""
    if server and family.vllm and family.frame:
        raise RecipeError(
            f"{family.name} with vllm_mode: server: TRL finds no place for a picture that has {family.frame[0]} and "
            f"{family.frame[1]} around it; write vllm_mode: colocate, or {instead}"
        )
    if not family.vllm:
        raise RecipeError(
            f"{family.name} with vLLM: what vLLM reads of its prompts and pictures was never compared with what the "
            f"trainer means; write {instead}"
        )


def as_seen(image: Image, processor: Any) -> Image:
    """The picture as vLLM gets it (`Family.handed`)."""
    return processor.family.handed(opaque(image).convert("RGB"), processor)


def frame_of(processor: Any) -> list[int]:
    """Ids of `Family.frame`."""
    return processor.tokenizer.convert_tokens_to_ids(list(processor.family.frame))


def one_placeholder(ids: Sequence[int], token: int, pictures: int, frame: Sequence[int] = ()) -> list[int]:
    """A prompt with each picture's run of placeholders (`token`) as one, in which vLLM writes the run itself, with what
    stands around it (`frame_of`).

    Raises: UserError where there are not as many runs as pictures.
    """
    runs = [(kind, list(run)) for kind, run in groupby(ids, lambda one: one == token)]
    found = sum(kind for kind, _ in runs)
    if found != pictures:
        raise UserError(
            f"vLLM: a prompt of {len(ids)} tokens has {found} runs of picture tokens and {pictures} pictures; expected "
            "one run for each. Does a text hold the picture token, or does the chat template leave pictures out?"
        )
    return [one for kind, run in runs for one in (run[:1] if kind else run) if one not in frame]


def written_out(
    ids: Iterable[int], token: int, pictures: Sequence[Image], sight: Sight, frame: Sequence[int] = ()
) -> list[int]:
    """The other way: each placeholder as many times as its picture, from `as_seen`, has visual tokens."""
    tokens = iter([sight.tokens_of(picture.size) for picture in pictures])
    before, behind = frame[:1], frame[1:]
    return [one for each in ids for one in ((*before, *[each] * next(tokens), *behind) if each == token else [each])]


def ids_of(text: str, tokenizer: Any) -> list[int]:
    """Of what a chat template has written, as `apply_chat_template` makes them: with the tokens that a tokenizer puts
    at the ends, unless the template has begun with the first."""
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer(text, add_special_tokens=not begun)["input_ids"]


def check_room(prompts: Iterable[tuple[str, Sequence[int]]], length: int, completion: int, advice: str) -> None:
    """vLLM cuts a completion short where prompt and completion are longer than its context (`length`), silently.

    prompts: names and ids. Raises: UserError for the first that leaves fewer than `completion` tokens.
    """
    for name, ids in prompts:
        if len(ids) + completion > length:
            raise UserError(
                f"vLLM: {name} has a prompt of {len(ids)} tokens, and its answer may have {completion}, which is more "
                f"than the engine's context of {length}. {advice}, or show fewer pixels (images.max_pixels)"
            )


def check_prompts(asked: Iterable[Sequence[int]], read: Iterable[Sequence[int]], tokenizer: Any) -> None:
    """Compare the prompts that were meant with those that vLLM says it read, placeholders written out in both.

    Raises: UserError with the first place where they part.
    """
    for row, (meant, found) in enumerate(zip(asked, read, strict=True)):
        meant, found = list(meant), list(found)
        if meant == found:
            continue
        pairs = enumerate(zip(meant, found, strict=False))
        place = next((place for place, (one, other) in pairs if one != other), min(len(meant), len(found)))
        near = slice(max(0, place - AROUND), place + AROUND)
        raise UserError(
            f"vLLM reads another prompt than the trainer: row {row} of a batch, {len(meant)} tokens meant and "
            f"{len(found)} read, alike up to token {place}. Meant: …{tokenizer.decode(meant[near])!r}…, read: "
            f"…{tokenizer.decode(found[near])!r}…. Its completions would answer something else. Where the number of "
            "picture tokens differs, the engine has other pixel limits than images.min_pixels and images.max_pixels, "
            "or writes placeholders once more than it should (docs/vllm.md)"
        )
