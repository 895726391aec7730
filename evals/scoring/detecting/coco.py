"""COCO's average precision: 101 recall points, mean over IoU 0.5, 0.55 … 0.95, by size (pycocotools' COCOeval, bbox).

Where VOC has a prediction belong to the object that it overlaps most, COCO goes through the predictions of a picture
and class, the surest first and `MOST` at most, and gives each the object still free with the greatest IoU of at least
τ. One that counts is preferred to one that is left out: a difficult object (COCO: a crowd), which any number of
predictions may take, with the intersection over their own area for IoU; or, by size, one of another size. A prediction
on such an object is left out, as is one on none that is itself of another size. Sizes include both their ends.

Matching a few thousand pictures by the loop of pycocotools takes minutes. Most predictions overlap one object and are
alone on it: for these the loop is not needed, and the others go through it for all thresholds and sizes at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evals.scoring.detecting.curves import coco, weighted
from evals.scoring.detecting.pictures import Pool

THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIZES = {"": (0.0, 1e10), "S": (0.0, 32.0**2), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}
"""Part → areas in pixels², both ends included; "" is all."""
MOST = 100
"""Predictions that count of a class in a picture."""


@dataclass(frozen=True)
class Matched:
    """The predictions of all classes, matched. A sizes, K thresholds, M predictions, T true objects."""

    found: Pool
    taken: np.ndarray
    "(M,) whether a prediction is among the surest of its class and picture."
    right: np.ndarray
    "(A, K, M) whether it is on an object that counts."
    counted: np.ndarray
    "(A, K, M) whether it is right or wrong, and not left out."
    truths: np.ndarray
    "(A, T) whether an object counts."

    def average_precisions(self, part: str = "", times: np.ndarray | None = None) -> np.ndarray:
        """(C, K) AP of each class that has objects that count. times: (N,) how often each picture counts, copies of a
        prediction one behind the other."""
        size = list(SIZES).index(part)
        weights = np.ones(len(self.found.keys)) if times is None else times.astype(float)
        out = []
        for label in self.found.classes:
            truths = float(weights[self.found.true_picture] @ (self.truths[size] & (self.found.true == label)))
            if not truths:
                continue
            ranks = self._ranks[label]
            weight = weights[self.found.picture[ranks]]
            pairs = zip(self.right[size][:, ranks], self.counted[size][:, ranks], strict=True)
            out.append([weighted(right, counted, weight, truths, coco) for right, counted in pairs])
        return np.array(out).reshape(-1, len(THRESHOLDS))

    @cached_property
    def _ranks(self) -> dict[int, np.ndarray]:
        """Class → its predictions, the surest first; equal ones by picture, and as they are said."""
        order = np.argsort(-self.found.score, kind="stable")
        order = order[self.taken[order]]
        return {label: order[self.found.said[order] == label] for label in self.found.classes}


def match(found: Pool) -> Matched:
    """As pycocotools matches."""
    count = len(found.picture)
    taken = _surest(found)
    said, true, overlap = found.of_one_class
    crowd = found.difficult
    inner = overlap * (found.said_area[said] + found.true_area[true]) / (1 + overlap)
    overlap = np.where(crowd[true], np.minimum(inner / found.said_area[said], 1.0), overlap)
    some = taken[said] & (overlap >= _least(THRESHOLDS[:1])[0])
    said, true, overlap = said[some], true[some], overlap[some]
    ends = np.array(list(SIZES.values()))  # (A, 2)
    ignored = crowd | (found.true_area < ends[:, :1]) | (found.true_area > ends[:, 1:])  # (A, T)
    stray = (found.said_area < ends[:, :1]) | (found.said_area > ends[:, 1:])  # (A, M)
    # of each prediction: on an object that counts, on one that is left out, or (neither) on none
    right = np.zeros((len(ends), len(THRESHOLDS), count), dtype=bool)
    left = np.zeros_like(right)
    alone = (np.bincount(said, minlength=count)[said] == 1) & (
        (np.bincount(true, minlength=len(crowd))[true] == 1) | crowd[true]
    )
    reached = overlap[alone] >= _least(THRESHOLDS)[:, None]  # (K, P)
    out = ignored[:, None, true[alone]]  # (A, 1, P)
    right[:, :, said[alone]], left[:, :, said[alone]] = reached & ~out, reached & out
    _contested(found, said[~alone], true[~alone], overlap[~alone], ignored, right, left)
    return Matched(found, taken, right, right | ~(left | stray[:, None]), ~ignored)


def _least(thresholds: np.ndarray) -> np.ndarray:
    return np.minimum(thresholds, 1 - 1e-10)


def _surest(found: Pool) -> np.ndarray:
    """(M,) the `MOST` with the highest scores of each class and picture; of equal ones those that are said first."""
    order = np.lexsort((-found.score, found.said, found.picture))
    group = found.picture[order] * (len(found.names) + 1) + found.said[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    out = np.zeros(len(order), dtype=bool)
    out[order] = rank < MOST
    return out


def _contested(
    found: Pool,
    said: np.ndarray,
    true: np.ndarray,
    overlap: np.ndarray,
    ignored: np.ndarray,
    right: np.ndarray,
    left: np.ndarray,
) -> None:
    """The loop itself, for pairs (P,) that share an object or a prediction; writes into `right` and `left`."""
    order = np.lexsort((true, said, -found.score[said]))  # no two pictures share an object: all can be mixed
    said, true, overlap = said[order], true[order], overlap[order]
    bounds = np.append(np.flatnonzero(np.diff(said, prepend=-1)), len(said)) if len(said) else np.zeros(1, int)
    objects, number = np.unique(true, return_inverse=True)
    free = np.ones((*right.shape[:2], len(objects)), dtype=bool)  # (A, K, objects)
    sizes, levels = np.indices(right.shape[:2])
    for start, stop in itertools.pairwise(bounds.tolist()):
        one, places, them = said[start], number[start:stop], true[start:stop]
        fits = free[:, :, places] & (overlap[start:stop] >= _least(THRESHOLDS)[:, None])  # (A, K, objects of this one)
        counts = ~ignored[:, None, them] & fits
        fits = np.where(counts.any(axis=2, keepdims=True), counts, fits)
        # of equal IoUs the later object wins, as there: look from behind
        best = fits.shape[2] - 1 - np.where(fits, overlap[start:stop], -1.0)[:, :, ::-1].argmax(axis=2)  # (A, K)
        hit = fits.any(axis=2)
        out = ignored[sizes, them[best]]
        right[:, :, one], left[:, :, one] = hit & ~out, hit & out
        free[sizes, levels, places[best]] &= ~hit | found.difficult[them[best]]


def precision(matched: Matched, part: str = "", times: np.ndarray | None = None) -> np.ndarray:
    """(K,) mean over the classes; NaN where no class has objects that count."""
    found = matched.average_precisions(part, times)
    return found.mean(axis=0) if len(found) else np.full(len(THRESHOLDS), np.nan)


def summary(matched: Matched) -> dict[str, float]:
    """pycocotools' first six numbers by name: ap, ap@0.5, ap@0.75, ap[S], ap[M], ap[L]; NaN for one of nothing."""
    whole = precision(matched)
    found = {"ap": whole.mean(), "ap@0.5": whole[0], "ap@0.75": whole[5]}
    found |= {f"ap[{part}]": precision(matched, part).mean() for part in SIZES if part}
    return {name: float(value) for name, value in found.items()}


__all__: Sequence[str] = ["MOST", "SIZES", "THRESHOLDS", "Matched", "match", "precision", "summary"]
