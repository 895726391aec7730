"""Masks on grids: pixels of the original picture counted by cell, from the runs.

A grid of gh x gw cells covers the picture evenly, whatever its sides. A pixel belongs to the cell that its centre lies
in: column x to cell floor((x + 1/2) · gw / w). So every pixel has one cell, sums over cells are sums over pixels, and a
grid that is spread over the picture is what Pillow's NEAREST makes of it (whose sums round, where a centre lies right
on a border). A grid may be finer than its picture: a cell that no pixel's centre lies in takes the pixels that its own
centre lies in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from vlm.masks.runs import Runs, check_runs, runs_from_spans, spans

Grid = tuple[int, int]
"""(rows, columns)."""


@functools.lru_cache(maxsize=256)
def borders(side: int, count: int) -> np.ndarray:
    """The first pixel of each of `count` cells along a side, and the side: (count + 1,) int64, read-only."""
    return _kept(-((count - 2 * side * np.arange(count + 1)) // (2 * count)))


@functools.lru_cache(maxsize=256)
def owners(side: int, count: int) -> np.ndarray:
    """The cell of each pixel along a side, (side,) int64, read-only."""
    return _kept((2 * np.arange(side) + 1) * count // (2 * side))


def _kept(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)  # caches hand it to several
    return array


def sampled(side: int, count: int) -> np.ndarray:
    """The pixel along a side that the centre of each cell lies in, (count,) int64: what NEAREST takes."""
    return owners(count, side)


def cells(truth: Runs, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the object and all pixels in each cell, (gh, gw) int64 each; read-only, and kept for the next call.

    Takes time and memory linear in runs, sides and cells: no mask is expanded.
    """
    height, width = check_runs(truth)
    return _cells(truth["counts"], height, width, *grid)


@functools.lru_cache(maxsize=256)
def _cells(counts: str, height: int, width: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    true = _counted(*spans({"size": [height, width], "counts": counts}), height, width, rows, columns)
    every = np.diff(borders(height, rows))[:, None] * np.diff(borders(width, columns))
    return _kept(true), _kept(every)


def _counted(starts: np.ndarray, ends: np.ndarray, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """(rows, columns): pixels of each cell before the ends, less those before the starts, down the columns."""
    places, sign = np.concatenate((ends, starts)), np.repeat((1.0, -1.0), len(starts))
    x, y = places // height, places % height
    across, down = borders(width, columns), borders(height, rows)
    column, row = np.append(owners(width, columns), columns)[x], owners(height, rows)[y]  # x = width at the end
    # Whole columns of pixels before x, by column of cells: all of those further left, a part of x's own. Floats hold
    # these sums exactly: they are whole numbers far below 2^53.
    at, part = (np.bincount(column, what, columns + 1) for what in (sign, sign * (x - across[column])))
    whole = np.diff(across) * (at.sum() - np.cumsum(at)[:columns]) + part[:columns]
    # Pixels above y in x's own column, likewise by row of cells.
    both, shape = column * rows + row, (columns + 1, rows)
    at, part = (
        np.bincount(both, what, shape[0] * rows).reshape(shape)[:columns] for what in (sign, sign * (y - down[row]))
    )
    above = np.diff(down) * (at.sum(1, keepdims=True) - np.cumsum(at, 1)) + part
    return (np.diff(down)[:, None] * whole + above.T).round().astype(np.int64)


def pooled(truth: Runs, grid: Grid) -> np.ndarray:
    """(gh, gw) bool: cells in which the object has a pixel, however small (max-pool)."""
    height, width = check_runs(truth)
    some = cells(truth, grid)[0] > 0
    return some[_filled(height, grid[0])][:, _filled(width, grid[1])]


def _filled(side: int, count: int) -> np.ndarray:
    """For each cell along a side, itself, or the cell of the pixel that its centre lies in, where it has no pixel."""
    own = np.diff(borders(side, count)) > 0
    return np.where(own, np.arange(count), owners(side, count)[sampled(side, count)])


def nearest(truth: Runs, grid: Grid) -> np.ndarray:
    """(gh, gw) bool: the pixel at each cell's centre, as Pillow's NEAREST takes it. Objects between centres vanish."""
    height, width = check_runs(truth)
    starts, ends = spans(truth)
    places = sampled(width, grid[1]) * height + sampled(height, grid[0])[:, None]
    which = np.searchsorted(starts, places, side="right") - 1
    return (which >= 0) & (places < np.append(ends, 0)[which])


def spread(grid: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(h, w) bool: each pixel with the value of its cell; size: (width, height)."""
    width, height = size
    return grid[owners(height, grid.shape[0])][:, owners(width, grid.shape[1])]


def spread_runs(grid: np.ndarray, size: Sequence[int]) -> Runs:
    """`spread` as run lengths, without expanding it."""
    width, height = size
    down = borders(height, grid.shape[0])
    padded = np.zeros((grid.shape[1], grid.shape[0] + 2), np.int8)
    padded[:, 1:-1] = grid.T
    step = np.diff(padded, axis=1)  # (gw, gh + 1): 1 where a run begins, -1 behind its end
    column, row = np.nonzero(step == 1)
    end = np.nonzero(step == -1)[1]
    each = np.bincount(column, minlength=grid.shape[1])[owners(width, grid.shape[1])]  # runs of each column of pixels
    first = np.searchsorted(column, owners(width, grid.shape[1]))
    x = np.repeat(np.arange(width), each)
    which = np.repeat(first, each) + np.arange(len(x)) - np.repeat(np.cumsum(each) - each, each)
    top, bottom = x * height + down[row[which]], x * height + down[end[which]]
    some = top < bottom
    return runs_from_spans(top[some], bottom[some], size)
