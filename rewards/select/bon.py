"""The arithmetic of best-of-N: how good is the answer that a selector picks out of N, expected over which N were drawn.

M answers to a question were drawn once. For every N ≤ M the curve is the mean over *all* subsets of N of them. A
selector that ranks the M answers has a closed form (`vlm.common.best_of`); ranked by the truth itself this is the
oracle, pass@N (for right or wrong answers the estimator of Chen et al. 2021, arXiv 2107.03374, section 2.1). A vote
depends on who else is in the subset and has no such form: its subsets are enumerated where they are few, and drawn by a
seed where they are many.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from vlm.common.best_of import best_by_score

TIED = 1e-9
"""Votes that differ by less are tied: sums of the same IoUs in another order differ by rounding."""


def oracle(quality: np.ndarray, n: int) -> float:
    """Expected quality of the truly best among n of M: pass@n where quality is 0 or 1. No selector can be better."""
    return best_by_score(quality, quality, n)


def subsets(drawn: int, n: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """(S, M) of 0 and 1: every n-subset of M where there are at most `limit`, else `limit` random ones."""
    if comb(drawn, n) <= limit:
        members = np.array(list(combinations(range(drawn), n)))
    else:
        members = rng.random((limit, drawn)).argsort(axis=1)[:, :n]
    inside = np.zeros((len(members), drawn))
    np.put_along_axis(inside, members, 1.0, axis=1)
    return inside


def best_by_vote(agreement: np.ndarray, quality: np.ndarray, n: int, limit: int, rng: np.random.Generator) -> float:
    """Expected quality of the answer that agrees most with the others of its n-subset; ties averaged.

    agreement: (M, M) in [0, 1], symmetric; a proper answer agrees with itself by 1, an unreadable one with none by 0.
    With 0 and 1 this is the majority vote, with IoUs the medoid. limit: as in `subsets`.
    """
    agreement, quality = np.asarray(agreement, dtype=float), np.asarray(quality, dtype=float)
    inside = subsets(len(quality), n, limit, rng)
    votes = np.where(inside > 0, inside @ agreement, -np.inf)  # (S, M)
    winners = votes >= votes.max(axis=1, keepdims=True) - TIED
    return float(((winners @ quality) / winners.sum(axis=1)).mean())
