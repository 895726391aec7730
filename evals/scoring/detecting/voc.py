"""Right and wrong as PASCAL VOC, DOTA's devkit and MMRotate count, and AP from it, for ties as well as for scores.

A prediction belongs to the true object of its class and picture with which its IoU is greatest; it is right where that
IoU reaches τ and no earlier prediction took the object, wrong otherwise. One that belongs to a difficult object is left
out: neither right nor wrong (`tpfp_default`, mmrotate/evaluation/functional/mean_ap.py of open-mmlab/mmrotate at
2a02038). DOTA's devkit asks IoU > τ, MMRotate IoU >= τ; here >=.

By size, objects of other sizes are left out like difficult ones, and so are predictions that reach no object and are of
another size themselves: they may be meant for one of those (as COCO, and MMDetection's `tpfp_default`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from evals.scoring.detecting.curves import Curve, voc07, weighted
from evals.scoring.detecting.pictures import Pool

Range = tuple[float, float]
"""Areas in pixels², above the first and at most the second."""


@dataclass(frozen=True)
class Hits:
    """Predictions of one class, and the true objects that they belong to. N pictures, M predictions, K thresholds."""

    picture: np.ndarray
    "(M,) of each prediction its picture."
    target: np.ndarray
    "(M,) the true object of the class that it belongs to; -1 for none. Numbers from 0."
    overlap: np.ndarray
    "(M,) its IoU with that."
    left: np.ndarray
    "(M,) whether that object is left out: difficult, or of another size."
    stray: np.ndarray
    "(M,) whether it is left out where its IoU does not reach the threshold: it is of another size."
    truths: np.ndarray
    "(N,) true objects of each picture that count."
    thresholds: tuple[float, ...] = (0.5,)
    "(K,) rising."

    def shuffled(self, rng: np.random.Generator, times: np.ndarray | None = None) -> np.ndarray:
        """(K,) AP (VOC07) of the predictions in a random order.

        times: (N,) how often each picture counts; copies of a picture have true objects of their own, and all copies
        are shuffled together.
        """
        if times is None:
            order = rng.permutation(len(self.target))
            target, truths = self.target[order], float(self.truths.sum())
        else:
            copies = times[self.picture]
            source = np.repeat(np.arange(len(copies)), copies)
            number = np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
            mixed = rng.permutation(len(source))
            order = source[mixed]
            target, truths = self.target[order], float(self.truths @ times)
            target = np.where(target >= 0, target * (int(times.max()) + 1) + number[mixed], -1)
        return self._ranked(order, target, truths)

    def _ranked(self, order: np.ndarray, target: np.ndarray, truths: float) -> np.ndarray:
        """order: (M',) the prediction at each rank. target: (M',) its object."""
        overlap, left = self.overlap[order], self.left[order]
        plain = not (self.left.any() or self.stray.any())
        some = np.flatnonzero((target >= 0) & (overlap >= self.thresholds[0]) & ~left)  # those that may be right
        out = np.zeros(len(self.thresholds))
        for place, threshold in enumerate(self.thresholds):
            some = some[overlap[some] >= threshold]
            first = some[firsts(target[some])]
            found = np.arange(1.0, len(first) + 1)
            seen = first + 1 if plain else np.cumsum(self.counted[place][order])[first]
            out[place] = voc07(found / seen, found, truths)
        return out

    @cached_property
    def counted(self) -> np.ndarray:
        """(K, M) whether a prediction is right or wrong, and not left out."""
        reaches = self.overlap >= np.array(self.thresholds)[:, None]
        return np.where(reaches & (self.target >= 0), ~self.left, ~self.stray)

    @cached_property
    def first(self) -> np.ndarray:
        """(K, M) whether a prediction is right, where they are ranked as they stand."""
        out = np.zeros((len(self.thresholds), len(self.target)), dtype=bool)
        for place, threshold in enumerate(self.thresholds):
            some = np.flatnonzero((self.target >= 0) & (self.overlap >= threshold) & ~self.left)
            out[place, some[firsts(self.target[some])]] = True
        return out

    def as_they_stand(self, curve: Curve = voc07, times: np.ndarray | None = None) -> np.ndarray:
        """(K,) AP of the predictions in their own order. times: as in `shuffled`, copies one behind the other."""
        weight = np.ones(len(self.target)) if times is None else times[self.picture].astype(float)
        truths = float(self.truths.sum() if times is None else self.truths @ times)
        pairs = zip(self.first, self.counted, strict=True)
        return np.array([weighted(right, counted, weight, truths, curve) for right, counted in pairs])

    def together(self) -> np.ndarray:
        """(K,) AP (VOC07) with one rank for all predictions: one point of precision and recall."""
        out, truths = np.zeros(len(self.thresholds)), float(self.truths.sum())
        for place, (right, said) in enumerate(zip(self.first.sum(axis=1), self.counted.sum(axis=1), strict=True)):
            if right:
                out[place] = voc07(np.array([right / said]), np.array([float(right)]), truths)
        return out

    def per_picture(self, flags: np.ndarray) -> np.ndarray:
        """(N,) how many predictions of each picture have a flag (M,)."""
        return np.bincount(self.picture, flags, minlength=len(self.truths))

    def by_score(self, score: np.ndarray) -> Hits:
        """The same, the surest first (M,); equal ones in the order that they have."""
        order = np.argsort(-score, kind="stable")
        parts = {name: getattr(self, name)[order] for name in ("picture", "target", "overlap", "left", "stray")}
        return replace(self, **parts)


def firsts(target: np.ndarray) -> np.ndarray:
    """Places of the first prediction on each object, in their order. target: (M,) objects, numbers from 0."""
    if not len(target):
        return np.zeros(0, dtype=np.int64)
    places = np.arange(len(target))
    first = np.empty(target.max() + 1, dtype=np.int64)
    first[target[::-1]] = places[::-1]  # of several on one object the last to be written stays
    return np.flatnonzero(first[target] == places)


def hits(
    found: Pool, label: int, thresholds: Sequence[float], size: Range | None = None, among: np.ndarray | None = None
) -> Hits:
    """The `Hits` of one class, at rising thresholds.

    size: only true objects with such an area count. among: (M,) which of the said objects are taken, None for all.
    """
    chosen = found.said == label if among is None else (found.said == label) & among
    target, overlap = (part[chosen] for part in found.best)
    of_class = found.true == label
    number = np.append(np.cumsum(of_class) - 1, -1)  # of each true object within the class; the last is for none
    out = np.append(found.difficult, False)
    stray = np.zeros(len(target), dtype=bool)
    if size is not None:
        out[:-1] |= ~_within(found.true_area, size)
        stray = ~_within(found.said_area[chosen], size)
    truths = np.bincount(found.true_picture[of_class & ~out[:-1]], minlength=len(found.keys))
    picture = found.picture[chosen]
    return Hits(picture, number[target], overlap, out[target], stray, truths.astype(float), tuple(thresholds))


def _within(areas: np.ndarray, size: Range) -> np.ndarray:
    return (areas > size[0]) & (areas <= size[1])
