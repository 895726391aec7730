"""The frames that boxes are measured in, and the way from one to another.

| frame     | unit                                     | range         |
|-----------|------------------------------------------|---------------|
| pixel     | pixels of the original image             | 0–w, 0–h      |
| unit      | fraction of the image                    | 0–1           |
| per_mille | thousandths of the image                 | 0–1000        |
| percent   | hundredths of the image                  | 0–100         |
| resized   | pixels of the image as the model sees it | 0–rw, 0–rh    |

Coordinates are edges, not pixel centres: the whole image is ``[0, 0, w, h]`` and no "+1" enters the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Frame = Literal["pixel", "unit", "per_mille", "percent", "resized"]
FRAMES: tuple[str, ...] = get_args(Frame)
FIXED = {"unit": 1.0, "per_mille": 1000.0, "percent": 100.0}
"""Extent of the frames that know no image size."""


def extent(frame: str, size: Sequence[float], resized: Sequence[float] | None = None) -> tuple[float, float]:
    """Width and height of the whole image, measured in ``frame``. Raises ValueError as `convert` does."""
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
    from_width, from_height = extent(source, size, resized)
    to_width, to_height = extent(target, size, resized)
    if source == target:
        return [float(value) for value in box]
    # Multiplying first keeps whole numbers exact: 400 px of 800 px is 500 per mille, not 499.99….
    ends = ((to_width, from_width), (to_height, from_height))
    return [value * ends[place % 2][0] / ends[place % 2][1] for place, value in enumerate(box)]
