"""An exchange: image(s) + question + answer, as the score model reads it; from there to tensors.

Rendering is the one of the ScoreRS paper's training code: the images before the text of the first user turn, the whole
chat in the checkpoint's own chat template, no generation prompt. Where a question says by `<image>` where its pictures
stand, they stand there (`vlm.pictures.places`). A caption is the answer to an empty question.

An empty answer can be scored (a policy may well say nothing; its score should be low, and that is the model's to say).
Control tokens that a text spells out, such as `<|im_end|>`, are broken by a space: an answer can neither end its turn
early nor claim an image. The marks of box notations are text like any other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from samples import Sample
from stage.planning.control import MARKS
from vlm.common.errors import DataError, RecipeError
from vlm.families import Sight
from vlm.pictures.digests import digest
from vlm.pictures.places import Misplaced, blocks, named, settled, texts
from vlm.pictures.resizing import fitted, shown
from vlm.prompts import options_text, picture_names, replied


@dataclass(frozen=True, slots=True)
class Exchange:
    """One thing to score.

        Exchange.of("How many ships are there?", "Two.", images=["harbor.png"])

    Raises: DataError where the turns are not user first, assistant last, with plain texts.
    """

    messages: tuple[dict[str, str], ...]
    """Turns {"role": "user" | "assistant", "content": plain text}; the last one is the assistant's. `<image>` in a
    user's text is where an image stands."""
    images: tuple[Any, ...] = ()
    "Paths, encoded bytes or PIL images, in order; without tags they come before the first user text."

    def __post_init__(self):
        object.__setattr__(self, "images", tuple(self.images))
        for turn in self.messages:
            if "zoom" in turn:
                raise DataError(
                    f"exchange: found a turn that zooms into {turn['zoom']}; expected a conversation without: the "
                    "score model reads no crops"
                )
            if turn.get("role") not in ("user", "assistant") or not isinstance(turn.get("content"), str):
                raise DataError(
                    f"exchange: found the turn {turn!r}; expected a user's or assistant's with a plain text"
                )
        try:
            object.__setattr__(self, "messages", tuple(settled(list(self.messages), len(self.images))))
        except Misplaced as error:
            raise DataError(f"exchange: {error}") from error
        roles = [turn["role"] for turn in self.messages]
        if not roles or roles[0] != "user" or roles[-1] != "assistant":
            raise DataError(
                f"exchange: found the turns {roles}; expected the user's first and the assistant's, which is scored, "
                "last (a caption answers an empty question)"
            )

    @classmethod
    def of(cls, question: str, answer: str, images: Iterable[Any] = ()) -> Exchange:
        """One question and its answer; a caption has the question ""."""
        return cls(
            ({"role": "user", "content": question}, {"role": "assistant", "content": answer}),
            tuple(images),
        )

    @classmethod
    def from_messages(cls, messages: Iterable[Mapping[str, Any]], images: Iterable[Any] = ()) -> Exchange:
        """From a conversation whose contents may be lists of blocks, `{"type": "text" | "image", ...}`.

        System turns are left out: the score model was trained without. Images that all stand behind the text of the
        first question come before it, as in training: clients send blocks in either order, and mean nothing by it.

        Args:
            messages: an image block either holds its `image` or is a placeholder.
            images: for the placeholders, in order; or for a conversation of plain texts.

        Raises: DataError where an image would be lost or be there twice, or for another type of block.
        """
        given, held, placeholders, turns = (
            list(images),
            [],
            0,
            [dict(role=turn["role"], content=turn["content"]) for turn in messages],
        )
        asked = next((turn for turn in turns if turn["role"] == "user"), None)
        for turn in turns:
            content = turn["content"]
            if not isinstance(content, str):
                types = [block["type"] for block in content]
                if others := {*types} - {"text", "image"}:
                    raise DataError(f"exchange: found a block of type {min(others)!r}; expected text or image")
                if "image" in types and turn["role"] != "user":
                    raise DataError(f"exchange: found an image in a turn of {turn['role']!r}; expected it in a user's")
                held += [block["image"] for block in content if block.get("image") is not None]
                placeholders += sum(block["type"] == "image" and block.get("image") is None for block in content)
                if turn is asked and types == sorted(types, reverse=True):
                    turn["content"] = sorted(content, key=lambda block: block["type"])
        if (held and (given or placeholders)) or (placeholders and placeholders != len(given)):
            raise DataError(
                f"exchange: found {len(held)} images in blocks, {placeholders} placeholders and {len(given)} images "
                "outside them; expected all images in blocks, or one outside for each placeholder"
            )
        return cls(tuple(turn for turn in texts(turns) if turn["role"] != "system"), tuple(held or given))

    @classmethod
    def from_sample(cls, sample: Sample, answer: str | None = None) -> Exchange:
        """The sample's question with `answer`, or with its own: the reference answer, else its last assistant turn.

        The question stands as it is in the data, and is followed by the options where there are some; pictures with
        dates are named, as the policy is told of them (`vlm.prompts.picture_names`).

        Raises: DataError where there is no answer, and where a turn of the question zooms.
        """
        first = replied(sample.messages)
        turns = [turn for turn in sample.messages[:first] if turn["role"] != "system"]
        said = sample.messages[-1]["content"] if first < len(sample.messages) else None
        text = next((text for text in (answer, sample.answer, said) if text is not None), None)
        if text is None:
            raise DataError(
                f"{sample.source}, sample {sample.id}: no answer to score; expected `answer` or a last turn"
            )
        if sample.choices and turns:
            question = f"{turns[-1]['content']}\n{options_text(sample.choices)}"
            turns[-1] = {"role": "user", "content": question}
        if (names := picture_names(sample, "dated")) is not None:
            turns = named(turns, names)
        return cls((*turns, {"role": "assistant", "content": text}), tuple(sample.images))


def check_padding(tokenizer) -> None:
    """Raise RecipeError unless the tokenizer pads with another token than the one that ends a turn.

    With pad = eos a model that looks for the last non-pad token reads a turn end somewhere before the answer, and all
    candidates tie (the published best-of-N).
    """
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if pad is None or pad == eos:
        raise RecipeError(
            f"score model: the tokenizer's pad token is {pad!r} and its eos token {eos!r}; expected two tokens "
            "(Qwen2-VL: '<|endoftext|>' and '<|im_end|>'), else padding hides the end of the answer. Set pad_token in "
            "tokenizer_config.json"
        )


def _plain(text: str, tokenizer) -> str:
    """The text with every control token broken by a space after its first character."""
    control = [token for token in tokenizer.all_special_tokens if token not in MARKS]
    return re.sub("|".join(map(re.escape, control)), lambda found: f"{found[0][0]} {found[0][1:]}", text)


def render(exchange: Exchange, processor) -> str:
    """The chat as text: an image placeholder where each image stands, no generation prompt."""
    messages = blocks(exchange.messages, len(exchange.images))
    for block in (block for turn in messages for block in turn["content"] if block["type"] == "text"):
        block["text"] = _plain(block["text"], processor.tokenizer)
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)


def key_of(image: Any) -> Any:
    """What tells pictures apart: the path, the bytes, or a digest of a PIL image's pixels."""
    if isinstance(image, Image.Image):
        return digest(image)
    return image if isinstance(image, bytes) else os.fspath(image)


def keys_of(images: Sequence[Any], sight: Sight) -> tuple[Hashable, ...]:
    """`key_of` of an exchange's pictures; where they share a budget with what they share it with, for a picture is seen
    at another size then. Raises: Crowded for too many."""
    keys = tuple(map(key_of, images))
    return tuple((len(keys), key) for key in keys) if sight.among(len(keys)).fits else keys


def preprocess(images: Sequence[Any], processor, among: Sequence[int] | None = None) -> dict[str, Any]:
    """`pixel_values` (patches, channels · patch volume) and `image_grid_thw` (images, 3) of pictures, in order.

    among: how many pictures the exchange of each has, where they may share a budget (`vlm.pictures.budget`).

    Raises: DataError naming an image that is missing or cannot be read.
    """
    import torch

    # one after another: decoded pictures may be many times larger than what the model sees of them
    sights = [processor.sight] * len(images) if among is None else map(processor.sight.among, among)
    opened = (_ready(image, sight) for image, sight in zip(images, sights, strict=True))
    read = [processor.image_processor([one], return_tensors="pt") for one in opened]
    return {name: torch.cat([one[name] for one in read]) for name in read[0]}


def _ready(image: Any, sight: Sight) -> Image.Image:
    """For the image processor."""
    if not isinstance(image, Image.Image):
        return shown(key_of(image), sight)
    picture = image.convert("RGB")
    return fitted(picture, sight) if sight.fits else picture


def tokenize(exchanges: Sequence[Exchange], grids: Sequence[Any], processor) -> dict[str, Any]:
    """`input_ids` and `attention_mask` (B, L) of exchanges, padded on the right.

    Args:
        grids: (t, h, w) in patches of each image of the batch, row by row; each image takes t·h·w / merge² tokens.
    """
    check_padding(processor.tokenizer)
    merged, grids, texts = processor.image_processor.merge_size**2, iter(grids), []
    for exchange in exchanges:
        text, *rest = render(exchange, processor).split(processor.image_token)
        for part in rest:
            text += processor.image_token * (int(next(grids).prod()) // merged) + part
        texts.append(text)
    return dict(processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))


def encode(exchanges: Sequence[Exchange], processor, share_images: bool = False) -> dict[str, Any]:
    """A batch for `ScoreModel.forward`.

    Args:
        exchanges: one row each; with and without images may be mixed.
        share_images: keep each picture of the batch once, and say in `image_index` (images,) which one each image of
            the batch is: the vision tower then works once per picture (a chosen and a rejected answer share theirs).

    Returns:
        `input_ids`, `attention_mask` (B, L), right-padded; where there are images, `pixel_values` (patches, …),
        `image_grid_thw` (images or pictures, 3), and with `share_images` `image_index`.

    Raises: DataError for an unreadable image; RecipeError where pad = eos.
    """
    import torch

    images = [image for exchange in exchanges for image in exchange.images]
    if not images:
        return tokenize(exchanges, (), processor)
    keys = [key for exchange in exchanges for key in keys_of(exchange.images, processor.sight)]
    among = [len(exchange.images) for exchange in exchanges for _ in exchange.images]
    distinct = dict(zip(keys, zip(images, among, strict=True), strict=True))
    place = {key: number for number, key in enumerate(distinct)}
    index = torch.tensor([place[key] for key in keys])
    each, among_each = zip(*distinct.values(), strict=True)
    inputs = preprocess(each, processor, among_each)
    batch = tokenize(exchanges, inputs["image_grid_thw"][index], processor) | inputs
    if share_images:
        return batch | {"image_index": index}
    patches = inputs["pixel_values"].split(inputs["image_grid_thw"].prod(-1).tolist())
    batch["pixel_values"] = torch.cat([patches[number] for number in index.tolist()])
    batch["image_grid_thw"] = inputs["image_grid_thw"][index]
    return batch
