"""Masks as COCO's run lengths, and the geometry on them.

    {"size": [height, width], "counts": "…"}        compressed text, column by column (pycocotools)

Run lengths are small, whatever the picture's size, stand in JSON, and are what COCO, LVIS and SAM publish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from vlm.common.errors import DataError

Runs = dict[str, Any]


def runs_of(pixels: np.ndarray) -> Runs:
    """Run lengths of a mask; pixels: (height, width), true where the object is."""
    found = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode()}


def pixels_of(runs: Runs) -> np.ndarray:
    """(height, width) booleans. runs: checked, or ours."""
    return coco.decode(runs).astype(bool)


def area(runs: Runs) -> int:
    """How many pixels it has."""
    return int(coco.area(runs))


def checked_runs(value: Mapping[str, Any]) -> Runs:
    """Run lengths that came from outside, as compressed text. value: `size` [height, width], `counts` text or numbers.

    pycocotools trusts its input, and writes beyond its memory where that is wrong: here it is read first.
    Raises: DataError for what is no run lengths of so many pixels.
    """
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list) or len(size) != 2 or not all(type(x) is int and 0 < x < 2**31 for x in size):
        raise DataError(f"found the size {size!r}, expected [height, width] in pixels")
    if isinstance(counts, str):
        lengths = _lengths(counts)
    elif isinstance(counts, list) and all(type(x) is int and x >= 0 for x in counts):
        lengths = counts
    else:
        raise DataError(f"found counts {str(counts)[:60]!r}, expected text, or a list of whole numbers from 0")
    if sum(lengths) != size[0] * size[1]:
        raise DataError(f"found run lengths of {sum(lengths)} pixels, expected {size[0]} · {size[1]}")
    if isinstance(counts, str):
        return {"size": size, "counts": counts}
    found = coco.frPyObjects({"size": size, "counts": counts}, *size)
    return {"size": size, "counts": found["counts"].decode()}


def _lengths(text: str) -> list[int]:
    """COCO's compressed counts: numbers of 5 bits a letter, from the third on as differences to the last but one."""
    lengths: list[int] = []
    number = place = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise DataError(f"found {letter!r} in counts, expected COCO's letters 0 to o")
        number |= (bits & 31) << 5 * place
        place += 1
        if bits & 32:
            if place > 8:
                raise DataError("found a run length of more than 40 bits in counts")
            continue
        if bits & 16:
            number |= -1 << 5 * place
        number += lengths[-2] if len(lengths) > 2 else 0
        if number < 0:
            raise DataError(f"found a run length of {number} in counts, expected 0 or more")
        lengths.append(number)
        number = place = 0
    if place:
        raise DataError("found counts that break off")
    return lengths


def rings_to_runs(rings: Sequence[Sequence[float]], size: Sequence[int]) -> Runs:
    """The union of rings, x1, y1, x2, y2, … in pixels of an image of `size` (width, height).

    A pixel is inside where its centre is, by the even-odd rule in each ring; what exceeds the image is cut off.
    """
    width, height = size
    found = np.zeros((height, width), dtype=bool)
    for ring in rings:
        found |= _filled(np.asarray(ring, dtype=float).reshape(-1, 2), width, height)
    return runs_of(found)


def _filled(ring: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width) pixels whose centres are inside; ring: (N, 2) corners."""
    out = np.zeros((height, width), dtype=bool)
    x1, y1 = ring.T
    x2, y2 = np.roll(ring, -1, axis=0).T
    low, high = max(0, int(np.floor(y1.min() - 0.5))), min(height, int(np.ceil(y1.max() + 0.5)))
    for row in range(low, high):
        y = row + 0.5
        crosses = (y1 <= y) != (y2 <= y)
        at = np.sort(x1[crosses] + (y - y1[crosses]) / (y2[crosses] - y1[crosses]) * (x2[crosses] - x1[crosses]))
        starts = np.clip(np.ceil(at - 0.5), 0, width).astype(int)  # the first centre at or right of each crossing
        for left, right in zip(starts[::2], starts[1::2], strict=True):
            out[row, left:right] = True
    return out
