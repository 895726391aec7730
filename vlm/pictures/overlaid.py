"""Masks laid over a picture: a light fill and an outline each, so that both are told apart where they agree.

The true mask's outline runs along its outside, the said mask's along its inside: where both end at the same pixels the
two lines lie side by side. Each has a dark line on its far side, so that it shows on any ground. Masks are (h, w) bool
arrays of the pixels of the picture as it is drawn, y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from vlm.masks import Runs, pixels_of
from vlm.masks.cells import borders, nearest, sampled

TRUE, PREDICTED, HALO = "#35d05a", "#ff8a1f", "#101418"
FILL = 0.24
"""Of a mask's colour in what it covers."""
LINE = 2
"""Pixels of an outline; the dark line beside it takes one more."""
EXPANDED = 16_000_000
"""Pixels up to which a mask is expanded as a whole (16 MB); of a larger one, what is drawn is looked up in its runs."""
FINER = 4
"""Places along a side of each drawn pixel where a larger one is looked up."""


def scaled(mask: Runs, size: Sequence[int]) -> np.ndarray:
    """A mask's run lengths (`vlm.masks`) as (h, w) bool, for its picture drawn at ``size`` = (w, h).

    Where pixels are drawn together, one is marked as soon as the mask holds any of them: a road that is thinner than a
    drawn pixel stays visible. (In pictures of more than EXPANDED pixels, where it is as wide as a FINERth of one.)
    """
    width, height = size
    whole = math.prod(mask["size"]) <= EXPANDED
    pixels = pixels_of(mask) if whole else nearest(mask, (FINER * height, FINER * width))
    return _along(_along(pixels, height, 0), width, 1)


def _along(pixels: np.ndarray, count: int, axis: int) -> np.ndarray:
    """`count` pixels instead of those along an axis; a pixel belongs to the one that its centre lies in."""
    there = pixels.shape[axis]
    if count >= there:
        return pixels.take(sampled(there, count), axis)
    return np.logical_or.reduceat(pixels, borders(there, count)[:-1], axis)


def laid(picture: Image.Image, true: np.ndarray | None, said: np.ndarray | None) -> Image.Image:
    """The picture (RGB) with one or both of the masks over it, either of its (h, w)."""
    drawn = np.asarray(picture.convert("RGB"), dtype=np.float32)
    for mask, colour in ((true, TRUE), (said, PREDICTED)):
        if mask is not None:
            drawn = np.where(mask[..., None], (1 - FILL) * drawn + FILL * _rgb(colour), drawn)
    if true is not None:
        line, far = _grown(true, LINE), _grown(true, LINE + 1)
        drawn = _inked(_inked(drawn, far & ~line, HALO), line & ~true, TRUE)
    if said is not None:
        line, far = (~_grown(~said, by, outside=True) for by in (LINE, LINE + 1))
        drawn = _inked(_inked(drawn, line & ~far, HALO), said & ~line, PREDICTED)
    return Image.fromarray(drawn.round().astype(np.uint8))


def _grown(mask: np.ndarray, by: int, outside: bool = False) -> np.ndarray:
    """With all pixels that are at most so many from it, along either axis. outside: what the mask is beyond the
    picture's border."""
    shown = Image.fromarray(np.pad(mask, by, constant_values=outside)).convert("L")
    return np.asarray(shown.filter(ImageFilter.MaxFilter(2 * by + 1)))[by:-by, by:-by] > 0


def _inked(drawn: np.ndarray, where: np.ndarray, colour: str) -> np.ndarray:
    return np.where(where[..., None], _rgb(colour), drawn)


def _rgb(colour: str) -> np.ndarray:
    return np.array(ImageColor.getrgb(colour), dtype=np.float32)
