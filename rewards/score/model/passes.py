"""From exchanges to forward passes of a score model, in two steps, of which only the second needs the model.

`passes` decodes, preprocesses and tokenises on the CPU, where all that can be wrong with a row shows; `run` is one
forward pass. Exchanges about the same picture are scored together, which share its features, so each picture is encoded
once; similar lengths together, and the longest first, so that a batch that does not fit the memory fails at once and
not after an hour (`batches`).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rewards.score.model.exchange import Exchange, keys_of, preprocess, tokenize
from rewards.score.model.prefixes import Shared, packed, share
from vlm.pictures import images as pictures_of

Features = dict[Hashable, Tensor]
"""Key of a picture → (visual tokens, width), what the vision tower made of it (`vlm.families.Family.features`)."""
CHARACTERS_PER_TOKEN = 4
"""Of English text, about; a wrong guess costs padding only."""


@dataclass(slots=True)
class Pass:
    """One forward pass of B exchanges, on the CPU."""

    rows: list[int]
    "Which exchanges these are."
    tokens: dict[str, Tensor] | Shared
    "`input_ids` and `attention_mask`, (B, L), padded on the right; or one packed row."
    shown: list[int]
    "How many images each row of the tokens has; where they are packed, each prefix."
    keys: list[Hashable] = field(default_factory=list)
    "Of each image of the tokens, in order; equal keys are the same picture."
    grids: Tensor | None = None
    "(images, 3) in patches, as `keys`; None without images."
    fresh: list[Hashable] = field(default_factory=list)
    "Keys of the pictures that the pass before did not have: the vision tower works for these."
    pixel_values: Tensor | None = None
    "(patches, …) of the fresh pictures; None where there are none."
    fresh_grids: Tensor | None = None
    "(pictures, 3) in patches, as `fresh`."


def passes(exchanges: Sequence[Exchange], processor, batch_size: int, share_prefix: bool = False) -> Iterator[Pass]:
    """The passes that score these exchanges, one at a time.

    Raises: DataError naming an image that cannot be read; RecipeError where pad = eos.
    """
    names = [keys_of(exchange.images, processor.sight) for exchange in exchanges]
    seen: dict[Hashable, Tensor] = {}
    for rows in batches(exchanges, names, processor, batch_size, share_prefix):
        images = {
            key: (image, len(names[row]))
            for row in rows
            for key, image in zip(names[row], exchanges[row].images, strict=True)
        }
        seen = {key: seen[key] for key in images if key in seen}
        fresh, inputs = [key for key in images if key not in seen], {}
        if fresh:
            shown, among = zip(*(images[key] for key in fresh), strict=True)
            inputs = preprocess(shown, processor, among)
            seen |= dict(zip(fresh, inputs["image_grid_thw"], strict=True))
        tokens = tokenize(
            [exchanges[row] for row in rows], [seen[key] for row in rows for key in names[row]], processor
        )
        showing = rows
        if share_prefix:
            ids = [row[there.bool()] for row, there in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)]
            image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
            heads = [head(exchanges[row]) for row in rows]
            tokens = share(ids, [names[row] for row in rows], heads, image_token)
            showing = [rows[place] for place in tokens.shown]
        keys = [key for row in showing for key in names[row]]
        yield Pass(
            rows,
            tokens,
            [len(names[row]) for row in showing],
            keys,
            torch.stack([seen[key] for key in keys]) if keys else None,
            fresh,
            inputs.get("pixel_values"),
            inputs.get("image_grid_thw"),
        )


def visual_tokens(image, processor, among: int | None = None) -> int:
    """Tokens that an image takes, from its size alone. among: how many its exchange has (`preprocess`).

    Raises: DataError naming an image that is missing or cannot be read.
    """
    sight = processor.sight if among is None else processor.sight.among(among)
    return sight.tokens(image.size if isinstance(image, Image.Image) else pictures_of.size(image))


def head(exchange: Exchange) -> tuple[tuple[str, str], ...]:
    """What stands before the last turn, which is the one that candidates differ in."""
    return tuple((turn["role"], turn["content"]) for turn in exchange.messages[:-1])


def batches(
    exchanges: Sequence[Exchange],
    keys: Sequence[tuple[Hashable, ...]],
    processor,
    batch_size: int,
    share_prefix: bool = False,
) -> list[list[int]]:
    """Row numbers by batch. `keys` say which exchanges are about the same pictures (they are equal then).

    share_prefix: for packed rows, where a batch saves what its exchanges have in common. Those about a picture are
    then in no more batches than must be, of which some may be smaller, and stand together by question, also without
    a picture.
    """
    visual: dict[Hashable, int] = {}
    for exchange, found in zip(exchanges, keys, strict=True):
        for key, image in zip(found, exchange.images, strict=True):
            if key not in visual:
                visual[key] = visual_tokens(image, processor, len(found))
    lengths = [
        sum(visual[key] for key in found)
        + sum(len(turn["content"]) for turn in exchange.messages) // CHARACTERS_PER_TOKEN
        for exchange, found in zip(exchanges, keys, strict=True)
    ]
    heads: list[Hashable] = list(map(head, exchanges)) if share_prefix else list(range(len(exchanges)))
    # Padded rows without a picture share nothing: each is a group of its own, placed by its length.
    groups = [found or ("text", said) for found, said in zip(keys, heads, strict=True)]
    longest: dict[Hashable, int] = {}
    for group, length in zip(groups, lengths, strict=True):
        longest[group] = max(length, longest.get(group, 0))
    first = {group: row for row, group in reversed(list(enumerate(groups)))}
    asked = {said: row for row, said in reversed(list(enumerate(heads)))} if share_prefix else {}
    order = sorted(
        range(len(exchanges)),
        key=lambda row: (-longest[groups[row]], first[groups[row]], asked.get(heads[row], 0), -lengths[row]),
    )
    return _cut(order, groups if share_prefix else [None] * len(order), batch_size)


def _cut(order: Sequence[int], groups: Sequence[Hashable], size: int) -> list[list[int]]:
    """Rows in this order in batches of at most `size`; a group begins a new one where it is cut into fewer so."""
    found: list[list[int]] = []
    for _, members in itertools.groupby(order, lambda row: groups[row]):
        rows = list(members)
        space = size - len(found[-1]) if found else 0
        if -(-max(len(rows) - space, 0) // size) + 1 > -(-len(rows) // size):
            space = 0
        if space:
            found[-1] += rows[:space]
        found += [rows[start : start + size] for start in range(space, len(rows), size)]
    return found


def run(model: nn.Module, one: Pass, before: Mapping[Hashable, Tensor]) -> tuple[Tensor, Features]:
    """(raw scores (B,), features of this pass's pictures). before: features of the pass before; model: a ScoreModel.

    A packed pass needs a model that `rewards.score.model.prefixes.sharing` says yes to.
    """
    features = dict(before)
    if one.pixel_values is not None:
        found = model.image_features(one.pixel_values.to(model.device), one.fresh_grids.to(model.device))
        # `found` has more than `fresh` names where a blank picture follows (rewards.score.sharded)
        features |= dict(zip(one.fresh, found, strict=False))
    features = {key: features[key] for key in one.keys}
    pictures = [features[key] for key in one.keys] or None
    if isinstance(one.tokens, Shared):
        row = packed(model, one.tokens, one.shown, one.grids)
        return model.forward_packed(row, pictures)[:, 0], features
    inputs: dict[str, Any] = {name: tensor.to(model.device) for name, tensor in one.tokens.items()}
    if pictures:
        inputs |= {"image_grid_thw": one.grids.to(model.device), "image_features": pictures}
    return model(**inputs).logits[:, 0], features


# For a model that is split over several processes: see rewards.score.sharded.


class Forward(nn.Module):
    """Every pass as one forward call of one module, vision tower and language model: DeepSpeed learns the order in
    which weights are needed from the calls of the module that it was given, and gathers them ahead."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer, self.config = scorer, scorer.config

    def forward(self, one: Pass, before: Features) -> tuple[Tensor, Features]:
        return run(self.scorer, one, before)
