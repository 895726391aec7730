"""A mask on a grid that covers the picture: which cells an object touches, and how much of each it fills.

A pixel belongs to the cell that its centre lies in: of `side` pixels in `cells` parts, pixel p is in cell
floor((p + 1/2) · cells / side).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from vlm.masks.runs import Runs, pixels_of


def cell_of(side: int, cells: int) -> np.ndarray:
    """(side,) the cell of each pixel along one side, in whole numbers."""
    return (2 * np.arange(side) + 1) * cells // (2 * side)


def filled(runs: Runs, grid: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the mask in each cell, and all pixels of each cell; both (rows, columns). grid: (rows, columns)."""
    return _filled(json.dumps(runs, sort_keys=True), int(grid[0]), int(grid[1]))


@lru_cache(maxsize=256)
def _filled(runs: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    mask = pixels_of(json.loads(runs))
    down, across = cell_of(mask.shape[0], rows), cell_of(mask.shape[1], columns)
    found = np.zeros((rows, columns), dtype=np.int64)
    y, x = np.nonzero(mask)
    np.add.at(found, (down[y], across[x]), 1)
    whole = np.bincount(down, minlength=rows)[:, None] * np.bincount(across, minlength=columns)[None]
    for table in (found, whole):
        table.flags.writeable = False  # a group shares it
    return found, whole
