"""How well scores order candidates, by dimension, how honest their differences are, and whether the image matters.

A record of n ranked candidates holds n(n-1)/2 pairs; every number below is over pairs. With s⁺ and s⁻ the scores of a
pair's better and worse candidate:

pair_accuracy[dimension]   over the pairs about a dimension: those the record names it for; in a record that names none,
                           the pairs rated differently in it, against the order of those ratings
nll                        what is trained, without margin or centring
calibration/ece            expected calibration error (Guo et al. 2017, arXiv 1706.04599): the model says with
                           confidence c = σ(|s⁺ - s⁻|) which is better; |mean c - share right| over 10 equal bins of
                           [0.5, 1], weighted by their pairs. A tie is a fair coin: half right at c = 0.5

The others: CONVENTIONS. With several sources, each pair accuracy is also given per source, `<source>/pair_accuracy`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from rewards.score.training.preferences import Preference
from vlm.common.errors import DataError

BINS = 10


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over n pairs."""

    value: float
    n: int
    convention: str


_ACCURACY = "share of pairs whose better candidate scores higher; a tie is wrong"
CONVENTIONS = {
    "pair_accuracy": _ACCURACY,
    "nll": "mean of -log sigmoid(s+ - s-), in nats",
    "calibration/ece": f"expected calibration error of sigmoid(|s+ - s-|), {BINS} equal bins of [0.5, 1]",
    "calibration/brier": "mean of (1 - sigmoid(s+ - s-))²; 0.25 knows nothing",
    "shuffled/pair_accuracy": f"{_ACCURACY}; each record with another record's images",
    "image_gain": "pair_accuracy minus shuffled/pair_accuracy over the same pairs",
}
"""What is computed, in the order of the table. Over one dimension: `pair_accuracy[relevance]`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two candidates of one record by their place in `ranked`, the better one first."""

    record: int
    better: int
    worse: int


def derange(preferences: Sequence[Preference], seed: int) -> dict[int, Preference]:
    """The shuffled-image control: {place: the record there with the images of another}, drawn by `seed`.

    No record gets images equal to its own. Records without images have no place in it. Records that share their images
    are one group; should a group be larger than all others together, some of it stays out.
    """
    groups: dict[tuple, list[int]] = {}
    for place, preference in enumerate(preferences):
        if preference.images:
            groups.setdefault(tuple(preference.images), []).append(place)
    members, rng = list(groups.values()), random.Random(seed)
    rng.shuffle(members)
    for group in members:
        rng.shuffle(group)
    order = [place for group in members for place in group]
    # Groups are contiguous, so a step as long as the longest one leads out of each.
    step = max(map(len, members), default=0)
    donors = {place: order[(index + step) % len(order)] for index, place in enumerate(order)}
    return {
        place: replace(preferences[place], images=preferences[donor].images)
        for place, donor in sorted(donors.items())
        if preferences[place].images != preferences[donor].images
    }


def pairs(preferences: Sequence[Preference], dimension: str | None = None) -> Iterator[Pair]:
    """All pairs in the order of the records; with `dimension`, those about it, ordered as it orders them."""
    for record, preference in enumerate(preferences):
        rated = preference.ratings if dimension is not None and not preference.dimensions else None
        if dimension is not None and rated is None and dimension not in preference.dimensions:
            continue
        for first, second in combinations(range(len(preference.ranked)), 2):
            if rated is None:
                yield Pair(record, first, second)
            elif dimension in rated[first] and dimension in rated[second]:
                gap = rated[first][dimension] - rated[second][dimension]
                if gap:
                    yield Pair(record, first, second) if gap > 0 else Pair(record, second, first)


def dimensions(preferences: Sequence[Preference]) -> list[str]:
    """The dimensions that some pair is about, in the order in which they first appear."""
    named = [name for p in preferences for name in (*p.dimensions, *(key for one in p.ratings or () for key in one))]
    return [name for name in dict.fromkeys(named) if next(pairs(preferences, name), None) is not None]


def evaluate(
    preferences: Sequence[Preference],
    scores: Sequence[Sequence[float]],
    shuffled: Mapping[int, Sequence[float]] | None = None,
) -> dict[str, Metric]:
    """Every metric that applies, by name, in the order of CONVENTIONS.

    scores: for each record its candidates' scores in the order of `ranked`. shuffled: for the control's records
    (`derange`) the scores with the other images, by place.
    Raises: DataError where there is nothing to measure, or a score is not finite.
    """
    _check(preferences, dict(enumerate(scores)), len(preferences))
    differences = _differences(pairs(preferences), scores)
    out = {"pair_accuracy": _accuracy(differences)}
    for name in (names := dimensions(preferences)):
        out[f"pair_accuracy[{name}]"] = _accuracy(_differences(pairs(preferences, name), scores))
    sources = list(dict.fromkeys(preference.source for preference in preferences))
    for source in sources if len(sources) > 1 else ():
        chosen = [pair for pair in pairs(preferences) if preferences[pair.record].source == source]
        out[f"{source}/pair_accuracy"] = _accuracy(_differences(chosen, scores))
    likelihood = np.logaddexp(0, -differences)
    out["nll"] = Metric(float(likelihood.mean()), len(differences), CONVENTIONS["nll"])
    out |= _calibration(differences)
    if shuffled:
        _check(preferences, shuffled, len(shuffled))
        for dimension in (None, *names):
            out |= _control(preferences, scores, shuffled, dimension)
    return out


def _check(preferences: Sequence[Preference], scores: Mapping[int, Sequence[float]], expected: int) -> None:
    if not preferences or len(scores) != expected:
        raise DataError(f"scores of {len(scores)} records for {len(preferences)} preferences; nothing to measure")
    for place, found in scores.items():
        preference = preferences[place]
        if len(found) != len(preference.ranked) or not np.isfinite(found).all():
            raise DataError(
                f"{preference.source}/{preference.id}: found the scores {list(found)}; expected a finite one for "
                f"each of {len(preference.ranked)} candidates"
            )


def _differences(found: Iterator[Pair] | Sequence[Pair], scores) -> np.ndarray:
    """s⁺ - s⁻ of each pair, float64."""
    return np.array([float(scores[p.record][p.better]) - float(scores[p.record][p.worse]) for p in found])


def _accuracy(differences: np.ndarray, convention: str = _ACCURACY) -> Metric:
    return Metric(float((differences > 0).mean()), len(differences), convention)


def _control(preferences, scores, shuffled, dimension: str | None) -> dict[str, Metric]:
    """The control over the pairs about a dimension (None: all), beside what looking was worth there."""
    chosen = [pair for pair in pairs(preferences, dimension) if pair.record in shuffled]
    if not chosen:
        return {}
    suffix = "" if dimension is None else f"[{dimension}]"
    blind = _accuracy(_differences(chosen, shuffled), CONVENTIONS["shuffled/pair_accuracy"])
    gain = _accuracy(_differences(chosen, scores)).value - blind.value
    return {
        f"shuffled/pair_accuracy{suffix}": blind,
        f"image_gain{suffix}": Metric(gain, blind.n, CONVENTIONS["image_gain"]),
    }


def _calibration(differences: np.ndarray) -> dict[str, Metric]:
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    right = np.where(differences == 0, 0.5, differences > 0)
    bins = np.minimum((confidence - 0.5) * 2 * BINS, BINS - 1).astype(int)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    better = np.exp(-np.logaddexp(0, -differences))  # σ(s⁺ - s⁻) without overflow
    n = len(differences)
    return {
        "calibration/ece": Metric(float(np.abs(gaps).sum() / n), n, CONVENTIONS["calibration/ece"]),
        "calibration/brier": Metric(float(((1 - better) ** 2).mean()), n, CONVENTIONS["calibration/brier"]),
    }


def markdown(metrics: Mapping[str, Metric], title: str) -> str:
    """The metrics as a Markdown table, with their conventions below."""
    lines = [f"| metric | {title} | pairs |", "|---|---:|---:|"]
    lines += [f"| {name} | {metric.value:.4f} | {metric.n} |" for name, metric in metrics.items()]
    used = dict.fromkeys(name.partition("[")[0] for name in metrics)
    notes = [f"- {name}: {CONVENTIONS[name]}" for name in used if name in CONVENTIONS]
    return "\n".join([*lines, "", *notes, ""])
