"""From ratings, or values of comparison with the truth, to preferences (`rewards.score.training.preferences`)."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.prefer.judge import Ratings
from rewards.prefer.prompts import DIMENSIONS
from rewards.prefer.rows import Item
from rewards.score.training.preferences import Preference

ROUNDING = 1e-9
"""Means of whole numbers differ by multiples of 0.2, which floats do not hold exactly."""


def mean(ratings: Ratings) -> float:
    """Mean over the five dimensions: the higher one is chosen (ScoreRS, arXiv 2503.00743)."""
    return sum(ratings[name] for name in DIMENSIONS) / len(DIMENSIONS)


def above(better: float, worse: float, min_gap: float) -> bool:
    """Whether one value is preferred to another: by the gap or more; equal ones never are."""
    return better > worse + ROUNDING and better - worse >= min_gap - ROUNDING


def lists(values: Sequence[float], shape: str, min_gap: float) -> list[list[int]]:
    """Indices of candidates, best first, in the lists that these values support; ties go in the given order.

    shape: "ranked": the longest list whose neighbours keep the gap; "pairs": every pair that does; "extremes": the best
    and the worst, where they do.
    """
    order = sorted(range(len(values)), key=lambda index: -values[index])  # stable
    if shape == "ranked":
        # from the best down, the next that is far enough below: no list with the gap is longer
        chain = order[:1]
        for index in order[1:]:
            if above(values[chain[-1]], values[index], min_gap):
                chain.append(index)
        return [chain] if len(chain) > 1 else []
    both = [(order[0], order[-1])] if shape == "extremes" else [(a, b) for i, a in enumerate(order) for b in order[i:]]
    return [[a, b] for a, b in both if above(values[a], values[b], min_gap)]


def records(
    item: Item, values: Sequence[float], ratings: Sequence[Ratings] | None, shape: str, min_gap: float
) -> list[Preference]:
    """The preference records of one row; empty where no candidate is better than another by the gap.

    values: one per candidate, the ratings' means or comparisons with the truth.
    """
    found = lists(values, shape, min_gap)
    return [
        Preference(
            images=item.sample.images,
            question=item.question,
            ranked=[item.candidates[index] for index in indices],
            ratings=None if ratings is None else [dict(ratings[index]) for index in indices],
            source=item.sample.source,
            id=item.sample.id if len(found) == 1 else f"{item.sample.id}/{number}",
        )
        for number, indices in enumerate(found, 1)
    ]
