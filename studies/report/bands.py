"""Runs of one recipe with other seeds as one curve with a band.

At each step the curve is the mean over the runs that are active there (from a run's first value to its last), and
the band is either

    range      the least and the greatest of them
    bootstrap  the 95% percentile interval of their mean, runs drawn with replacement (Efron & Tibshirani 1993, ch. 13);
               with S runs it shows (S-1)/S of the variance, so with three it is too narrow by a fifth

A step that one of these runs did not log is left out, so the curve never jumps because the runs that make it up take
turns. Where a run ends before the others the curve continues over the rest (`Band.counts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from studies.report.runs.folders import Series

Kind = Literal["range", "bootstrap"]
SAID = {"range": "least and greatest of the seeds", "bootstrap": "95% bootstrap interval of the mean over seeds"}
RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 1024
"""Steps that are resampled at a time: 2000 × 1024 doubles are 16 MB."""


@dataclass(frozen=True)
class Band:
    """Arrays (N,): steps, mean, lower and upper edge, and how many runs there are at each step."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray


def band(series: Sequence[Series], kind: Kind = "range", seed: int = 0) -> Band:
    """The curve of at least one run. seed: of the resampling."""
    steps = np.unique(np.concatenate([found for found, _ in series]))
    values = np.full((len(series), len(steps)), np.nan)
    active = np.zeros(values.shape, dtype=bool)
    for number, (own, measured) in enumerate(series):
        values[number, np.searchsorted(steps, own)] = measured
        active[number] = (steps >= own[0]) & (steps <= own[-1])
    whole = (np.isfinite(values) == active).all(0)
    steps, values = steps[whole], values[:, whole]
    counts = np.isfinite(values).sum(0)
    mean = np.nanmean(values, 0) if len(steps) else np.zeros(0)
    low, high = _edges(values, counts, kind, seed) if len(steps) else (mean, mean)
    return Band(steps, mean, low, high, counts)


def _edges(values: np.ndarray, counts: np.ndarray, kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if kind == "range" or len(values) == 1:
        return np.nanmin(values, 0), np.nanmax(values, 0)
    low, high = np.nanmean(values, 0), np.nanmean(values, 0)
    rng = np.random.default_rng(seed)
    present = np.isfinite(values)
    for pattern in np.unique(present[:, counts > 1], axis=1).T:  # which runs there are; changes where one ends
        size = int(pattern.sum())
        weights = rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) / size  # (R, S)
        places = np.flatnonzero((present == pattern[:, None]).all(0))
        for chunk in np.split(places, range(CHUNK, len(places), CHUNK)):
            means = weights @ values[np.ix_(pattern, chunk)]  # (R, N)
            low[chunk], high[chunk] = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
