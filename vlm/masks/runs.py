"""Masks as run lengths, the form in which they are stored and compared.

`Runs` is COCO's compressed form, ``{"size": [h, w], "counts": "text"}``: lengths of runs down the columns, column by
column from the left (Fortran order), of zeros first, in the text of pycocotools (common/maskApi.c, rleToString, of
cocodataset/cocoapi). A picture of 30,000² pixels is a few thousand runs, so nothing here expands a mask unless it has
to: `spans` gives the ends of the runs of ones, and counts are made from those.

Rings are outlines ``[x1, y1, x2, y2, …]`` in pixels, where pixel (x, y) is the square from (x, y) to (x + 1, y + 1). A
pixel is inside where its centre is. Several rings are one mask, their union, as in COCO; one that crosses itself has
inside what an odd number of its turns go around. Rings have no holes; run lengths have.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from vlm.common.errors import DataError

Runs = dict[str, Any]

_MOST = 2**32 - 1
"""Pixels that COCO's counts hold."""


def runs_of(mask: np.ndarray) -> Runs:
    """Run lengths of a mask (h, w); all but 0 is object."""
    return _text(coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def pixels_of(runs: Runs) -> np.ndarray:
    """The mask (h, w), bool. Takes a few times h · w bytes."""
    (height, width), (starts, ends) = check_runs(runs), spans(runs)
    steps = np.zeros(height * width + 1, np.int8)
    steps[starts], steps[ends] = 1, -1  # runs do not touch
    return np.ascontiguousarray(np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(width, height).T)


def area(runs: Runs) -> int:
    """Pixels of the object."""
    starts, ends = spans(runs)
    return int((ends - starts).sum())


def check_runs(runs: Runs) -> tuple[int, int]:
    """(h, w) of run lengths that are some.

    Raises: DataError that says what was found and expected, for the caller to say where.
    """
    spans(runs)
    height, width = runs["size"]
    return height, width


def checked_runs(value: dict[str, Any]) -> Runs:
    """Run lengths of ours from what others write: counts as COCO's text, or as a list of numbers.

    pycocotools trusts its input, and writes beyond its memory where that is wrong: here it is read first.
    Raises: DataError, as `check_runs`.
    """
    size, counts = value.get("size"), value.get("counts")
    if isinstance(counts, list) and isinstance(size, list) and len(size) == 2 and all(type(x) is int for x in size):
        if not all(type(x) is int and x >= 0 for x in counts) or sum(counts) != size[0] * size[1] or min(size) < 1:
            raise DataError(f"found counts {str(counts)[:60]}, expected run lengths of {size[0]} x {size[1]} pixels")
        return _text(coco.frPyObjects({"size": size, "counts": counts}, *size))
    check_runs(value)
    return value


def spans(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of ones begin and end, (n,) int64 each: places x · h + y, the end excluded.

    Raises: DataError, as `check_runs`.
    """
    height: Any
    width: Any
    counts: Any
    try:
        (height, width), counts = runs["size"], runs["counts"]
    except (KeyError, TypeError, ValueError):
        height = width = counts = None
    if not all(isinstance(side, int) and side > 0 for side in (height, width)) or not isinstance(counts, str):
        raise DataError(f'found {str(runs)[:80]}, expected run lengths {{"size": [height, width], "counts": "text"}}')
    return _spans(counts, height, width)


@functools.lru_cache(maxsize=64)
def _spans(counts: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = _lengths(counts)
    if lengths is None or lengths.min(initial=0) < 0 or lengths.sum() != height * width:
        found = "no run lengths" if lengths is None else f"run lengths of {lengths.sum()} pixels"
        raise DataError(
            f"{counts[:40]!r}: found {found}, expected COCO's compressed text of {height} x {width} = "
            f"{height * width} pixels"
        )
    places = np.cumsum(lengths)
    starts, ends = places[:-1:2], places[1::2]
    some = starts < ends
    starts, ends = starts[some], ends[some]
    for one in (starts, ends):
        one.setflags(write=False)  # the cache hands them to several
    return starts, ends


def _lengths(counts: str) -> np.ndarray | None:
    """The run lengths in COCO's text: groups of five bits and one that says that more follow, low ones first, the last
    one's fifth bit the sign; from the fourth number on, what is added to the number two before."""
    codes = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    places = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if places.max() > 7:
        return None  # over 40 bits: no count of pixels
    numbers = np.add.reduceat((codes & 31) << 5 * places, first)
    numbers -= np.where(codes[last] & 16, np.int64(1) << 5 * (places[last] + 1), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def runs_from_spans(starts: np.ndarray, ends: np.ndarray, size: Sequence[int]) -> Runs:
    """Run lengths of the union of runs of ones, places as `spans` gives them, in any order; size: (width, height)."""
    width, height = size
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    gaps = starts[1:] > ends[:-1]
    some = np.full(min(len(starts), 1), True)
    pairs = np.stack((starts[np.append(some, gaps)], ends[np.append(gaps, some)]), 1)
    counts = np.diff(np.concatenate(([0], pairs.ravel(), [width * height]))).tolist()
    if not counts[-1]:
        counts.pop()  # as COCO's encoder has it: one text for one mask
    return _text(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def rings_to_runs(rings: Sequence[Sequence[float]], size: Sequence[int]) -> Runs:
    """The union of rings ``[x1, y1, x2, y2, …]`` in pixels, as far as it lies in the picture; size: (width, height).

    Raises: DataError for a ring of fewer than three points, of an odd count of numbers, or of such as are no number.
    """
    width, height = size
    if not 0 < width * height <= _MOST:
        raise DataError(f"a picture of {width} x {height} pixels: masks have 1 to {_MOST} pixels")
    some = [_ring_spans(np.asarray(ring, dtype=np.float64), width, height) for ring in map(_checked, rings)]
    nothing = np.zeros(0, np.int64)
    return runs_from_spans(
        np.concatenate([nothing, *(one[0] for one in some)]), np.concatenate([nothing, *(one[1] for one in some)]), size
    )


def _checked(ring: Sequence[float]) -> Sequence[float]:
    if len(ring) < 6 or len(ring) % 2:
        raise DataError(f"a ring of {len(ring)} numbers: expected x and y of three points or more, [x1, y1, x2, y2, …]")
    if not np.isfinite(np.asarray(ring, dtype=np.float64)).all():
        raise DataError(f"a ring with {[n for n in ring if not np.isfinite(n)][0]}: expected numbers of pixels")
    return ring


def _ring_spans(ring: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of ones within the columns that one ring crosses, unsorted; they may touch, and do not overlap."""
    x, y = ring[::2], ring[1::2]
    x2, y2 = np.append(x[1:], x[0]), np.append(y[1:], y[0])
    # An edge crosses the centres of columns first … last - 1; half open, so that a corner on a centre counts once.
    first = np.clip(np.ceil(np.minimum(x, x2) - 0.5), 0, width).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(x, x2) - 0.5), 0, width).astype(np.int64)
    often = last - first
    edge = np.repeat(np.arange(len(x)), often)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(often) - often, often) + first[edge]
    along = (column + 0.5 - x[edge]) / (x2[edge] - x[edge])
    crossing = y[edge] + along * (y2[edge] - y[edge])
    order = np.lexsort((crossing, column))
    column = column[order][::2]  # a closed ring crosses each column an even number of times
    rows = np.clip(np.ceil(crossing[order] - 0.5), 0, height).astype(np.int64)
    top, bottom = rows[::2], rows[1::2]
    some = top < bottom
    return (column * height + top)[some], (column * height + bottom)[some]


def overlap(one: Runs, other: Runs) -> tuple[int, int]:
    """(intersection, union) of two masks of one size, in pixels.

    Raises: DataError for two sizes.
    """
    if list(one["size"]) != list(other["size"]):
        raise DataError(f"masks of {one['size']} and {other['size']} (height, width): only those of one size overlap")
    both = int(coco.area(coco.merge([one, other], intersect=True)))
    return both, int(coco.area(one)) + int(coco.area(other)) - both


def _text(found: dict[str, Any]) -> Runs:
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}
