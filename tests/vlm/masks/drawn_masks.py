"""Masks for tests: blobs, lines, boxes, empty, full, chequerboards and single pixels, of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import numpy as np
from scipy import ndimage


def drawn_masks(count: int, rng: np.random.Generator, sides: tuple[int, int] = (1, 64)) -> Iterator[np.ndarray]:
    """`count` masks (h, w), bool; sides: the shortest and the longest."""
    for number in range(count):
        height, width = (int(side) for side in rng.integers(sides[0], sides[1] + 1, 2))
        yield _KINDS[number % len(_KINDS)](height, width, rng)


def _blobs(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    field = ndimage.uniform_filter(rng.random((height, width)), max(1, min(height, width) // 5))
    return field > np.quantile(field, rng.uniform(0.3, 0.99))


def _line(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    angle, away = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5) * min(height, width)
    return np.abs((x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle) - away) < rng.uniform(0.5, 4)


def _box(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    (y1, y2), (x1, x2) = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
    mask[y1:y2, x1:x2] = True
    return mask


def _pixel(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


_KINDS = (
    _blobs,
    _line,
    _box,
    _blobs,
    lambda height, width, rng: rng.random((height, width)) < rng.random(),  # specks
    _box,
    lambda height, width, rng: np.zeros((height, width), bool),
    _line,
    lambda height, width, rng: np.ones((height, width), bool),
    _blobs,
    lambda height, width, rng: np.indices((height, width)).sum(0) // rng.integers(1, 5) % 2 > 0,  # chequers, stripes
    _pixel,
)


@cache
def pixel_cells(side: int, count: int) -> np.ndarray:
    """The cell of each pixel along a side, by fractions: the one that the pixel's centre lies in."""
    return np.array([int((Fraction(x) + Fraction(1, 2)) * count / side) for x in range(side)])
