"""Which rows are kept: the best by share, count or threshold, of all files together or of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rewards.curate.recipe import KeepSection
from vlm.common.errors import UserError


def quota(scored: int, keep: KeepSection) -> int:
    """How many of `scored` rows are kept; a share is rounded to the nearest row, half upwards, and at least 1.

    >>> quota(10, KeepSection(share=0.3)), quota(5, KeepSection(share=0.3)), quota(5, KeepSection(count=9))
    (3, 2, 5)
    """
    if keep.count is not None:
        return min(keep.count, scored)
    assert keep.share is not None  # the recipe's check says so
    return min(scored, max(1, math.floor(keep.share * scored + 0.5)))


def best(values: np.ndarray, count: int) -> np.ndarray:
    """(rows,) mask of the `count` highest scores; among equal ones at the edge the earlier rows.

    Rows without a score (NaN, -inf) are never in it. Memory: one copy of `values`.
    """
    mask = np.zeros(len(values), dtype=bool)
    have = np.isfinite(values)
    if count == 0:
        return mask
    scored = values[have]
    edge = np.partition(scored, len(scored) - count)[len(scored) - count]
    mask[have] = scored > edge
    ties = np.flatnonzero(values == edge)
    mask[ties[: count - int(mask.sum())]] = True
    return mask


def choose(values: Sequence[np.ndarray], keep: KeepSection) -> list[np.ndarray]:
    """A mask per source. Raises: UserError where nothing has a score, or nothing reaches the threshold."""
    scored = [int(np.isfinite(v).sum()) for v in values]
    if not sum(scored):
        raise UserError("curation: no row has a score; every row is faulty or of another task than data.tasks")
    if keep.threshold is not None:
        masks = [v >= keep.threshold for v in values]
        if not any(mask.any() for mask in masks):
            top = max(float(v[np.isfinite(v)].max()) for v, n in zip(values, scored, strict=True) if n)
            raise UserError(
                f"curation: no row reaches keep.threshold = {keep.threshold:g}; the best score is {top:g}. Look at "
                "scores.png, or keep a share"
            )
        return masks
    if keep.per_source:
        return [best(v, quota(n, keep) if n else 0) for v, n in zip(values, scored, strict=True)]
    everything = best(np.concatenate(values), quota(sum(scored), keep))
    return np.split(everything, np.cumsum([len(v) for v in values])[:-1])


def extremes(values: Sequence[np.ndarray], count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The `count` best, best first, and the `count` worst, worst first, as (source, row number); no row is in both."""
    joined = np.concatenate(values)
    have = np.flatnonzero(np.isfinite(joined))
    starts = np.cumsum([0, *(len(v) for v in values)])
    count = min(count, len(have) // 2)
    if count == 0:
        return [], []

    def named(places: np.ndarray) -> list[tuple[int, int]]:
        sources = np.searchsorted(starts, places, side="right") - 1
        return [(int(s), int(p - starts[s]) + 1) for s, p in zip(sources, places, strict=True)]

    scores = joined[have]
    order = np.argpartition(scores, [count - 1, len(scores) - count])
    low, high = order[:count], order[len(scores) - count :]
    worst = have[low[np.argsort(scores[low], kind="stable")]]
    top = have[high[np.argsort(-scores[high], kind="stable")]]
    return named(top), named(worst)
