"""AP_nc: the average precision of models that list objects and score none of them (RSCoVLM, arXiv 2511.21272).

AP ranks predictions by confidence, and here all are equal, so the rank is arbitrary, and AP depends on it. Public tools
take whatever order their sort leaves. Here

    ap_nc@τ                the mean over ORDERS seeded random orders of all predictions
    ap_nc@τ:lowest         the lowest and the highest of those orders: how far an arbitrary order can be off
    ap_nc@τ:highest
    ap_nc@τ:file_order     the order of the file: pictures, and objects as they were said
    ap_nc@τ:together       all predictions enter at one rank: one point of precision and recall

How many predictions are right does not depend on the order; which of several on one object it is, does.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from evals.scoring.detecting.voc import Hits
from vlm.common.bootstrap import Statistic, each

ORDERS = 20
Choice = Callable[[np.ndarray], np.ndarray]
"""Of APs (…, K) at all thresholds the one that is meant: (…)."""
Of = Callable[[np.ndarray], np.ndarray]
"""(N,) how often each picture counts → (K,)."""


class Tied:
    """The predictions of all classes that have true objects, C of them, at K thresholds."""

    def __init__(self, classes: Sequence[Hits]):
        self.classes = list(classes)
        self.resampled = once(self._resample)

    @cached_property
    def drawn(self) -> np.ndarray:
        """(ORDERS, C, K) AP by class in each of the random orders (seed 0)."""
        rng = np.random.default_rng(0)
        return np.array([[one.shuffled(rng) for one in self.classes] for _ in range(ORDERS)])

    @cached_property
    def in_file(self) -> np.ndarray:
        """(K,) in the order of the file."""
        return np.mean([one.as_they_stand() for one in self.classes], axis=0)

    @cached_property
    def together(self) -> np.ndarray:
        """(K,) with one rank for all."""
        return np.mean([one.together() for one in self.classes], axis=0)

    def _resample(self, times: np.ndarray) -> np.ndarray:
        """(K,) mean over the classes of a resample, in a random order of its own. times: (N,) integers."""
        rng = np.random.default_rng(zlib.crc32(times.tobytes()))  # by the resample: who asks first does not matter
        there = [one.shuffled(rng, times) for one in self.classes if one.truths @ times > 0]
        return np.mean(there, axis=0) if there else np.full(len(self.classes[0].thresholds), np.nan)

    def statistic(self, keys: Sequence[str], which: Choice) -> Statistic:
        """The mean over the classes as a function of the pictures."""
        point = float(which(self.drawn.mean(axis=(0, 1))))
        return each(keys, lambda times: float(which(self.resampled(times))), point=point)


def once(compute: Of) -> Of:
    """The same, computed once for each resample and kept: APs at several thresholds ask for the same ones."""
    kept: dict[bytes, np.ndarray] = {}

    def of(times: np.ndarray) -> np.ndarray:
        digest = hashlib.blake2b(times.tobytes(), digest_size=16).digest()
        if digest not in kept:
            kept[digest] = compute(times)
        return kept[digest]

    return of
