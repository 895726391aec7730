"""The best of n answers by a score, expected over which n of the M that were drawn: exact, by order statistics.

The mean over *all* n-subsets of M answers is unbiased for n fresh draws and far less noisy than the first n. In a
random n-subset the k-th best of all is the best with probability

    C(M - k, n - 1) / C(M, n),    k = 1 … M,

because the n - 1 others come from the M - k worse ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb

import numpy as np


def sizes(drawn: int) -> list[int]:
    """N along the curve: 1, 2, 4 … up to the number drawn, which is always the last.

    >>> sizes(12)
    [1, 2, 4, 8, 12]
    """
    powers = [2**k for k in range(drawn.bit_length()) if 2**k <= drawn]
    return powers if powers[-1] == drawn else [*powers, drawn]


@lru_cache(maxsize=256)
def rank_weights(drawn: int, n: int) -> np.ndarray:
    """(M,) probability that the k-th best of M = `drawn` is the best of a random n-subset, best first; the sum is 1."""
    if not 1 <= n <= drawn:
        raise ValueError(f"n = {n}; expected 1 to {drawn}, the number drawn")
    return np.array([comb(drawn - k, n - 1) / comb(drawn, n) for k in range(1, drawn + 1)])


def ranked(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M,) `values` by falling score, best first; among equal scores each has their mean, as each is as likely."""
    order = np.argsort(-scores, kind="stable")
    _, block = np.unique(-scores[order], return_inverse=True)  # 0 for the best, the same number for equal scores
    mean = np.bincount(block, values[order]) / np.bincount(block)
    return mean[block]


def best_by_score(scores: np.ndarray, quality: np.ndarray, n: int) -> float:
    """Expected quality of the answer with the highest score among n of M.

    scores: (M,), -inf for an answer that is only chosen where there is no other. quality: (M,).
    """
    scores, quality = np.asarray(scores, dtype=float), np.asarray(quality, dtype=float)
    if scores.shape != quality.shape or np.isnan(scores).any():
        raise ValueError(f"found {scores.shape} scores for {quality.shape} answers, or NaN among them")
    return float(rank_weights(len(scores), n) @ ranked(scores, quality))


def weights(drawn: int, ns: Sequence[int]) -> np.ndarray:
    """(M, K) `rank_weights` of every n, one column each."""
    return np.stack([rank_weights(drawn, n) for n in ns], axis=1)
