"""In which order to score: exchanges about the same picture together, similar lengths together, the longest first.

The longest first, so that a batch that does not fit the memory fails at once and not after an hour.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

from PIL import Image

from rewards.score.model.exchange import Exchange
from vlm.pictures import images as pictures

CHARACTERS_PER_TOKEN = 4
"""Of English text, about; a wrong guess costs padding only."""


def visual_tokens(image, processor) -> int:
    """Tokens that an image takes, from its size alone.

    Raises: DataError naming an image that is missing or cannot be read.
    """
    width, height = image.size if isinstance(image, Image.Image) else pictures.size(image)
    patches = processor.image_processor.get_number_of_image_patches(height, width)
    return patches // processor.image_processor.merge_size**2


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
                visual[key] = visual_tokens(image, processor)
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
