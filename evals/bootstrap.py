"""How sure a number is: the percentile bootstrap over questions (Efron 1979), for one run and for pairs of runs.

Legend: N questions, R resamples, K groups. A resample draws N questions with replacement; `drawn` (R, N) says how
often each was drawn, and a `Statistic` turns it into R values. Whatever is a number over questions fits: a mean, a
ratio of sums, BLEU over a corpus, average precision over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CELLS = 4_000_000
"""Resampling counts held at a time (32 MB as float64)."""
SLOW = 500
"""Resamples of what is computed one at a time: the ends of a 95% interval are then the 13th from either side."""


@dataclass(frozen=True)
class Statistic:
    """A number over questions, as a function of how often each question counts."""

    keys: Sequence[str]
    "The questions, N."
    of: Callable[[np.ndarray], np.ndarray]
    "`drawn` (R, N) → (R,); NaN where a resample holds nothing that the number is about."
    design: Any = field(default=None, compare=False)
    "What two runs must share to be paired, besides the questions: the groups' masks (K, N), or None."
    point: float | None = None
    "The number itself, where `of` is random."
    most: int = 1_000_000
    "Resamples that are worth their time."

    @property
    def value(self) -> float:
        """The number itself: each question once."""
        return float(self.of(np.ones((1, len(self.keys))))[0]) if self.point is None else self.point


def means(groups: Sequence[Mapping[str, float]]) -> Statistic:
    """The mean over groups of the mean within each group, {question: value}. A question has one value in all groups."""
    keys = sorted(set().union(*groups))
    masks = np.array([[float(key in group) for key in keys] for group in groups])  # (K, N)
    found = {key: value for group in groups for key, value in group.items()}
    values = np.array([found[key] for key in keys], dtype=float)  # (N,)

    def of(drawn: np.ndarray) -> np.ndarray:
        total, there = np.zeros(len(drawn)), np.zeros(len(drawn))
        for mask in masks:
            inside = drawn @ mask  # (R,) questions of the group in each resample; where there is none, it is left out
            total += np.where(inside > 0, drawn @ (mask * values) / np.where(inside > 0, inside, 1), 0)
            there += inside > 0
        return np.where(there > 0, total / np.maximum(there, 1), np.nan)

    return Statistic(keys, of, masks)


def ratio(parts: Mapping[str, tuple[float, float]]) -> Statistic:
    """Sum of the first over the sum of the second, {question: (first, second)}; 0 / 0 is no number."""
    keys = sorted(parts)
    first, second = np.array([parts[key] for key in keys], dtype=float).T

    def of(drawn: np.ndarray) -> np.ndarray:
        below = drawn @ second
        return np.where(below > 0, drawn @ first / np.where(below > 0, below, 1), np.nan)

    return Statistic(keys, of)


def each(keys: Sequence[str], number: Callable[[np.ndarray], float], point: float | None = None) -> Statistic:
    """For what takes one resample at a time: `number(times)` with times (N,) as integers."""

    def of(drawn: np.ndarray) -> np.ndarray:
        return np.array([number(times) for times in drawn.astype(np.int64)])

    return Statistic(keys, of, point=point, most=SLOW)


def resamples(rng: np.random.Generator, questions: int, count: int) -> Iterator[np.ndarray]:
    """`count` resamples of N questions in portions of `drawn` (R, N), float."""
    size = max(1, CELLS // questions)
    for start in range(0, count, size):
        rows = min(size, count - start)
        picks = rng.integers(0, questions, size=(rows, questions)) + questions * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * questions).reshape(rows, questions).astype(np.float64)


def quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """Both ends of the percentile interval; values that are no number are left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval(statistic: Statistic, *, level: float = 0.95, count: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The percentile interval of a number over its questions; seeded, so the same for the same predictions."""
    rng = np.random.default_rng(seed)
    drawn = resamples(rng, len(statistic.keys), min(count, statistic.most))
    return quantiles(np.concatenate([statistic.of(portion) for portion in drawn]), level)
