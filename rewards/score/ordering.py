"""In which order to score: exchanges about the same picture together, similar lengths together, the longest first.

The longest first, so that a batch that does not fit the memory fails at once and not after an hour.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from PIL import Image

from rewards.score.exchange import Exchange
from vlm import images as pictures

CHARACTERS_PER_TOKEN = 4
"""Of English text, about; a wrong guess costs padding only."""


def visual_tokens(image, processor) -> int:
    """Tokens that an image takes, from its size alone.

    Raises: DataError naming an image that is missing or cannot be read.
    """
    width, height = image.size if isinstance(image, Image.Image) else pictures.size(image)
    patches = processor.image_processor.get_number_of_image_patches(height, width)
    return patches // processor.image_processor.merge_size**2


def batches(
    exchanges: Sequence[Exchange], keys: Sequence[tuple[Hashable, ...]], processor, batch_size: int
) -> list[list[int]]:
    """Row numbers by batch. `keys` say which exchanges are about the same pictures (they are equal then)."""
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
    # Rows without a picture share nothing: each is a group of its own, placed by its length.
    groups = [found or (row,) for row, found in enumerate(keys)]
    longest: dict[Hashable, int] = {}
    for group, length in zip(groups, lengths, strict=True):
        longest[group] = max(length, longest.get(group, 0))
    first = {group: row for row, group in reversed(list(enumerate(groups)))}
    order = sorted(
        range(len(exchanges)),
        key=lambda row: (-longest[groups[row]], first[groups[row]], -lengths[row]),
    )
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
