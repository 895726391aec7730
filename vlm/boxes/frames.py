"""The frames that boxes are measured in, and the way from one to another.

| frame     | unit                                     | range         |
|-----------|------------------------------------------|---------------|
| pixel     | pixels of the original image             | 0–w, 0–h      |
| unit      | fraction of the image                    | 0–1           |
| per_mille | thousandths of the image                 | 0–1000        |
| percent   | hundredths of the image                  | 0–100         |
| square    | fraction of the image padded to a square | 0–1           |
| resized   | pixels of the image as the model sees it | 0–rw, 0–rh    |

Coordinates are edges, not pixel centres: the whole image is ``[0, 0, w, h]`` and no "+1" enters the arithmetic.
The padding is as wide on both sides; of an odd number of rows or columns the larger half stands behind the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Frame = Literal["pixel", "unit", "per_mille", "percent", "square", "resized"]
FRAMES: tuple[str, ...] = get_args(Frame)
FIXED = {"unit": 1.0, "per_mille": 1000.0, "percent": 100.0}
"""Extent of the frames that know no image size."""


def padding(size: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """(side of the square that an image is padded to, columns and rows before the image), in pixels."""
    side = max(size)
    return side, ((side - size[0]) // 2, (side - size[1]) // 2)


def extent(frame: str, size: Sequence[float], resized: Sequence[float] | None = None) -> tuple[float, float]:
    """Width and height of the whole image (of "square" padded), measured in ``frame``. Raises ValueError as `convert`
    does."""
    if frame == "square":
        return 1.0, 1.0
    if frame in FIXED:
        return FIXED[frame], FIXED[frame]
    if frame == "pixel":
        found = size
    elif frame == "resized":
        if resized is None:
            raise ValueError('frame "resized" needs resized=(width, height) of the image as the model sees it')
        found = resized
    else:
        raise ValueError(f"unknown frame {frame!r}; known frames: {', '.join(FRAMES)}")
    width, height = found
    if not (width > 0 and height > 0):
        raise ValueError(f"the {frame} size must be (width, height), both positive; found {tuple(found)}")
    return float(width), float(height)


def convert(
    box: Sequence[float],
    source: Frame,
    target: Frame,
    size: Sequence[float],
    resized: Sequence[float] | None = None,
) -> list[float]:
    """``box`` measured in ``source``, measured in ``target`` instead. No rounding and no clipping.

    box: x and y in turn: the two corners of a box, or the four of a quadrilateral. size: (width, height) of the
    original image in pixels; resized: the same of the image the model sees, needed only when one of the frames is
    "resized". Raises ValueError on an unknown frame or a size that is not positive.
    """
    if source == target == "square":
        return [float(value) for value in box]
    if "square" in (source, target):
        extent("pixel", size)
        side, before = padding(size)
        if target == "square":
            return [
                (value + before[n % 2]) / side for n, value in enumerate(convert(box, source, "pixel", size, resized))
            ]
        box, source = [value * side - before[n % 2] for n, value in enumerate(box)], "pixel"
    from_width, from_height = extent(source, size, resized)
    to_width, to_height = extent(target, size, resized)
    if source == target:
        return [float(value) for value in box]
    # Multiplying first keeps whole numbers exact: 400 px of 800 px is 500 per mille, not 499.99….
    ends = ((to_width, from_width), (to_height, from_height))
    return [value * ends[place % 2][0] / ends[place % 2][1] for place, value in enumerate(box)]
