"""What a text states of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vlm.masks.cells import cells, spread, spread_runs
from vlm.masks.runs import Runs, check_runs, overlap, pixels_of, rings_to_runs


@dataclass(frozen=True, slots=True)
class SaidMask:
    """The mask of one answer: on a grid, in rings, or, where it is unreadable, neither."""

    grid: np.ndarray | None = None
    "(gh, gw) bool, over the whole picture (`vlm.masks.cells`); None for rings, and for what is unreadable."
    rings: list[list[float]] | None = None
    "Outlines [x1, y1, x2, y2, …] in pixels of `size`; None for a grid, and for what is unreadable."
    readable: bool = True
    "Whether it states a mask, or that there is nothing."
    repairs: dict[str, int] = field(default_factory=dict)
    "What was mended → how often."
    size: tuple[int, int] = (1, 1)
    "(width, height) of the original image in pixels."

    def runs(self, size: Sequence[int] | None = None) -> Runs:
        """Run lengths in a picture of that size (width, height), by default the original's; empty where unreadable."""
        width, height = size or self.size
        if self.grid is not None:
            return spread_runs(self.grid, (width, height))
        scale = (width / self.size[0], height / self.size[1])
        rings = [(np.reshape(ring, (-1, 2)) * scale).ravel().tolist() for ring in self.rings or ()]
        return rings_to_runs(rings, (width, height))

    def pixels(self, size: Sequence[int] | None = None) -> np.ndarray:
        """(h, w) bool in a picture of that size (width, height), by default the original's."""
        width, height = size or self.size
        return pixels_of(self.runs(size)) if self.grid is None else spread(self.grid, (width, height))

    def overlap(self, truth: Runs) -> tuple[int, int]:
        """(intersection, union) with a true mask, in pixels of the true mask's picture; exact."""
        height, width = check_runs(truth)
        if self.grid is not None:
            true, every = cells(truth, (self.grid.shape[0], self.grid.shape[1]))
            both = int(true[self.grid].sum())
            return both, int(every[self.grid].sum() + true.sum()) - both
        return overlap(self.runs((width, height)), truth)
