"""How sure a number is: the percentile bootstrap over questions (Efron 1979) and training seeds, for runs and pairs.

Legend: N questions, S seeds, R resamples, K groups. A resample draws N questions with replacement; `drawn` (R, N) says
how often each was drawn, and a `Statistic` turns it into R values. Whatever is a number over questions fits: a mean, a
ratio of sums, BLEU over a corpus, average precision over images.

Several seeds that answered the same questions are a table of S rows and N columns, whose rows and columns are both a
sample. Each resample draws S rows and N columns with replacement, independently, so a question that is drawn counts in
all seeds ("crossed": Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111; a bootstrap of rows and columns that is
exact does not exist, McCullagh 2000). Seeds with questions of their own are drawn first and their questions within
them ("nested": Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 3.8). Runs, not only
questions, are resampled for the reason that Agarwal et al. 2021 (arXiv 2108.13264) give: a few seeds differ by luck.

What it can and cannot do (Owen, section 4, for means): noise of a question within a seed counts up to three times, so
few questions give intervals that are too wide; the variance between seeds counts (S - 1)/S times, so few seeds give
intervals that are too narrow. Where seeds differ and questions hardly matter, the interval of 2 or 3 seeds ends at the
lowest and the highest, between which the truth lies in 50% and 75% of the cases; `seeds_alone` tells for any S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from vlm.common.errors import DataError

CELLS = 4_000_000
"""Resampling counts held at a time (32 MB as float64)."""
FEW = 30
"""Questions below which an interval is told to say little: one answer moves a share by more than 3 points, the
percentile bootstrap is too narrow (where all answers are right it has no width, though 1 in 10 of others may be wrong).
"""
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


def mean_of(parts: Sequence[Statistic]) -> Statistic:
    """The mean of several numbers; one that a resample holds nothing of is left out of it."""
    keys = sorted(set().union(*(part.keys for part in parts)))
    place = {key: number for number, key in enumerate(keys)}
    orders = [[place[key] for key in part.keys] for part in parts]

    def of(drawn: np.ndarray) -> np.ndarray:
        values = np.stack([part.of(drawn[:, order]) for part, order in zip(parts, orders, strict=True)])  # (K, R)
        there = ~np.isnan(values)
        return np.where(there.any(0), np.where(there, values, 0).sum(0) / np.maximum(there.sum(0), 1), np.nan)

    masks = []
    for part, order in zip(parts, orders, strict=True):
        own = np.ones((1, len(order))) if part.design is None else part.design
        spread = np.zeros((len(own), len(keys)))
        spread[:, order] = own
        masks.append(spread)
    return Statistic(keys, of, np.concatenate(masks))


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


def replicates(
    runs: Sequence[Statistic], against: Sequence[Statistic] = (), *, count: int = 10_000, seed: int = 0
) -> np.ndarray:
    """(R,) resampled means over the seeds `runs` of one number: crossed where all have the same questions, else nested.

    against: as many runs, to be subtracted one by one ("paired"); all must have the same questions, and a question, or
    a pair of seeds, that is drawn is drawn for both sides. A resample that has no number is NaN.
    Raises: DataError where runs that are paired differ in questions, or in the groups these belong to.
    """
    everything = [*runs, *against]
    count, rng = min(count, *(statistic.most for statistic in everything)), np.random.default_rng(seed)
    fault = differing_questions(everything)
    if fault and against:
        raise DataError(f"{fault}; a paired comparison needs the same questions in all")
    if fault:
        return _nested(runs, count, rng)
    after, before = ([_on(runs[0].keys, one) for one in side] for side in (runs, against))
    found = []
    for drawn in resamples(rng, len(runs[0].keys), count):
        values = np.stack([of(drawn) for of in after], axis=1)  # (R, S)
        if before:
            values = values - np.stack([of(drawn) for of in before], axis=1)
        found.append(over_seeds(values, rng))
    return np.concatenate(found)


def _on(keys: Sequence[str], other: Statistic) -> Callable[[np.ndarray], np.ndarray]:
    """`other.of` for resamples whose columns are `keys`: another file may hold the same questions in another order."""
    if list(keys) == list(other.keys):
        return other.of
    place = {key: number for number, key in enumerate(keys)}
    order = [place[key] for key in other.keys]
    return lambda drawn: other.of(drawn[:, order])


def over_seeds(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(R, S) → (R,): the mean over S seeds drawn with replacement; of one seed itself."""
    rows, seeds = values.shape
    if seeds == 1:
        return values[:, 0]
    return (values * rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=rows)).sum(axis=1) / seeds


def differing_questions(statistics: Sequence[Statistic]) -> str | None:
    """None where all are over the same questions in the same groups, else what differs."""
    first, *others = statistics
    for other in others:
        if odd := sorted(set(first.keys) ^ set(other.keys)):
            return f"{len(odd)} questions are in one run only (such as {odd[0]!r})"
        if not np.array_equal(first.design, other.design):
            return "the runs give the same questions different types"
    return None


def few_questions(counts: Iterable[int]) -> list[str]:
    """What is said beside intervals of numbers over so few questions, one line for all of them."""
    few = sorted({n for n in counts if 0 < n < FEW})
    return [f"n = {', '.join(map(str, few))}: intervals say little (fewer than {FEW} questions)"] if few else []


@lru_cache
def seeds_alone(seeds: int, level: float = 0.95, trials: int = 4000) -> float:
    """How often the interval holds the truth where normal seeds alone spread: its true level at worst.

    Where so few seeds are drawn that S times the same one has a share of S^-S above a tail, the interval is from the
    lowest to the highest, all of which are on one side of the truth in 2^(1 - S) of the cases; else by simulation.
    """
    if seeds**-seeds > (1 - level) / 2:
        return 1 - 2.0 ** (1 - seeds)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=1000) / seeds  # (R, S), the same for every trial
    means_of = rng.standard_normal((trials, seeds)) @ drawn.T  # (trials, R)
    low, high = np.quantile(means_of, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return float(((low <= 0) & (high >= 0)).mean())


def _nested(runs: Sequence[Statistic], count: int, rng: np.random.Generator) -> np.ndarray:
    """(R,) means over S draws of a seed, the questions drawn again within each."""
    seeds = len(runs)
    picked = rng.integers(0, seeds, size=(count, seeds))
    values = np.empty((count, seeds))
    for place, run in enumerate(runs):
        rows, slots = np.nonzero(picked == place)
        if len(rows):
            values[rows, slots] = np.concatenate([run.of(drawn) for drawn in resamples(rng, len(run.keys), len(rows))])
    return values.mean(axis=1)
