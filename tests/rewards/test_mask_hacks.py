"""Masks that are not of the object: none may earn half of what the best mask on the grid earns, in any scene.

`python -m tests.rewards.test_mask_hacks` prints means and maxima (LOG.md).
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest

import rewards
from vlm.masks import runs_of
from vlm.masks.cells import pooled
from vlm.masks.texts import write_values

SIDE, SEEN, CELLS = 126, (504, 504), 18


def scene(seed: int) -> np.ndarray:
    """(126, 126) bool: one to three ellipses and rectangles, as they lie, 0.2% to 40% of the picture in all."""
    draw = random.Random(seed)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    share = 0.002 * 200 ** draw.random()
    while True:
        mask = np.zeros((SIDE, SIDE), bool)
        count = draw.randint(1, 3)
        for _ in range(count):
            radius = SIDE * math.sqrt(share / count / math.pi)
            stretch, turn = 2 ** draw.uniform(-1, 1), draw.uniform(0, math.pi)
            across, down = (x - draw.uniform(0, SIDE)), (y - draw.uniform(0, SIDE))
            u = (across * math.cos(turn) + down * math.sin(turn)) / (radius * stretch)
            v = (down * math.cos(turn) - across * math.sin(turn)) / (radius / stretch)
            mask |= u * u + v * v < 1 if draw.random() < 0.5 else np.maximum(abs(u), abs(v)) < math.sqrt(math.pi) / 2
        if 0.002 <= mask.mean() <= 0.4:
            return mask


# Answers, on the grid: of an honest model that is right, or half right, and of one that plays.

Play = Callable[[np.ndarray], np.ndarray]
"""(18, 18) share of each cell that is object → (18, 18) bool."""


def majority(share: np.ndarray) -> np.ndarray:
    """Cells that are object by half; of a small object the cell with most of it."""
    return share >= min(0.5, share.max())


def half(share: np.ndarray) -> np.ndarray:
    """The first half of these cells, by columns."""
    best = majority(share).T.ravel()
    return (best & (np.cumsum(best) <= (best.sum() + 1) // 2)).reshape(share.T.shape).T


def grown(share: np.ndarray, cells: int) -> np.ndarray:
    padded = np.pad(majority(share), cells)
    turns = range(2 * cells + 1)
    return np.any([padded[i : i + CELLS, j : j + CELLS] for i in turns for j in turns], axis=0)


def disc(share: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:CELLS, :CELLS] - (CELLS - 1) / 2
    return np.hypot(x, y) < CELLS / 4


def noise(share: np.ndarray) -> np.ndarray:
    return np.random.default_rng(int(share.sum() * 1e6)).random(share.shape) < 0.5


def elsewhere(share: np.ndarray) -> np.ndarray:
    return np.roll(majority(share), (CELLS // 2, CELLS // 2), (0, 1))


PLAYED: dict[str, Play] = {
    "all of the picture": lambda share: np.ones(share.shape, bool),
    "nothing": lambda share: np.zeros(share.shape, bool),
    "a checkerboard": lambda share: np.indices(share.shape).sum(0) % 2 == 0,
    "every second row": lambda share: np.indices(share.shape)[0] % 2 == 0,
    "half of the cells, drawn": noise,
    "all but the object": lambda share: ~majority(share),
}
GUESSED: dict[str, Play] = {
    "a disc in the middle": disc,
    "the left half": lambda share: np.indices(share.shape)[1] < CELLS // 2,
    "its form elsewhere": elsewhere,
}
"""Right in a scene whose object happens to lie there; on average they earn little."""
ALSO: dict[str, Play] = {  # what has found the object, and says it badly, earns less than saying it well
    "cells by majority": majority,
    "half of them": half,
    "grown by a cell": lambda share: grown(share, 1),
    "grown by three": lambda share: grown(share, 3),
    "every second of them": lambda share: majority(share) & (np.indices(share.shape).sum(0) % 2 == 0),
}


def earned(scenes: range, **options: float) -> dict[str, list[float]]:
    """Strategy → its reward in each scene. "the best": of three honest grids, for the best one is not searched."""
    reward, found = rewards.resolve("mask", inside="text", **options), defaultdict(list)
    for seed in scenes:
        true = scene(seed)
        share = true.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean((1, 3))
        runs = runs_of(true)
        grids = {name: play(share) for name, play in (ALSO | PLAYED | GUESSED).items()}
        grids |= {"cells with any of it": pooled(runs, (CELLS, CELLS)), "cells with a quarter": share >= 0.25}
        row = {"mask": runs, "resized": SEEN, "form": "rscovlm"}
        said = [write_values(grid) for grid in grids.values()]
        values = reward(completions=said, **{name: [value] * len(said) for name, value in row.items()})
        for name, value in zip(grids, values, strict=True):
            found[name].append(value)
        honest = ("cells by majority", "cells with any of it", "cells with a quarter")
        found["the best"].append(max(found[name][-1] for name in honest))
    return found


@pytest.mark.parametrize(("scenes", "border"), [(range(700), 0.02), (range(700, 900), 0.0), (range(900, 1000), 0.1)])
def test_nothing_that_is_played_earns_half_of_the_best_mask(scenes, border):
    found = earned(scenes, border=border)
    assert np.mean(found["the best"]) > 0.55
    for play in PLAYED:
        won = [
            n for n, (value, best) in enumerate(zip(found[play], found["the best"], strict=True)) if value > best / 2
        ]
        assert not won, (play, won)
    for play in GUESSED:
        assert np.mean(found[play]) < np.mean(found["the best"]) / 10
    for play in ALSO:
        assert np.mean(found[play]) < np.mean(found["the best"])
    assert max(found["nothing"]) == 0


def _report() -> None:
    for border in (0.0, 0.02, 0.1):
        found = earned(range(1000), border=border)
        best = np.array(found["the best"])
        print(f"\nborder {border} | answer | mean | max | of the best, at most |")
        for play, values in found.items():
            print(f"| {play} | {np.mean(values):.3f} | {max(values):.3f} | {(np.array(values) / best).max():.2f} |")


if __name__ == "__main__":
    _report()
