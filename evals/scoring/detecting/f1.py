"""mF1: F1 of the mean precision and the mean recall over the classes, at IoU >= 0.5.

`mean_f1` is over the classes that have true objects; a prediction is right as for AP (`evals.scoring.detecting.voc`).

`published` counts as VisionXLab/mllm-mmrotate does, which RSCoVLM is evaluated with (lmmrotate/modules/f1_metric.py at
9475a93): a confusion matrix of the classes and the background. It differs in that

    the background      counts as one more class, of precision and recall 0: with 15 classes a perfect answer has
                        15/16, which is 93.75%
    several at once     a box that overlaps several true objects counts once for each, and any number of boxes on one
                        object are all right
    confusion           a box on an object of another class adds to that object's row, so that an object may be counted
                        several times as missed, or as missed though it is found
    difficult objects   are not there: a box on one is wrong

There, its mean over the score thresholds 0, 0.1 … 0.9 is reported; without scores all ten are one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.scoring.detecting.pictures import Pool
from evals.scoring.detecting.voc import Hits
from vlm.common.bootstrap import Statistic

IOU = 0.5


@dataclass(frozen=True)
class Counts:
    """What F1 is made of, by picture and class."""

    right: np.ndarray
    "(N, C)"
    said: np.ndarray
    "(N, C) what precision divides by."
    true: np.ndarray
    "(N, C) what recall divides by."
    background: bool = False
    "Whether there is one more class, with neither precision nor recall."

    def f1(self, drawn: np.ndarray) -> np.ndarray:
        """(R, N) how often each picture counts → (R,)."""
        right, said, true = (drawn @ part for part in (self.right, self.said, self.true))  # (R, C) each
        there = np.ones_like(true) if self.background else true > 0
        count = there.sum(axis=1) + self.background
        precision = (there * right / np.where(said > 0, said, 1)).sum(axis=1) / np.maximum(count, 1)
        recall = (there * right / np.where(true > 0, true, 1)).sum(axis=1) / np.maximum(count, 1)
        both = precision + recall
        found = 2 * precision * recall / np.where(both > 0, both, 1)
        return np.where(count > 0, found, np.nan)

    def statistic(self, keys: Sequence[str]) -> Statistic:
        return Statistic(keys, self.f1)

    @property
    def value(self) -> float:
        """Each picture once."""
        return float(self.f1(np.ones((1, len(self.right))))[0])


def mean_f1(classes: Sequence[Hits]) -> Counts:
    """classes: the `Hits` of each, the first threshold being 0.5."""
    right = np.array([one.per_picture(one.first[0]) for one in classes]).T
    said = np.array([one.per_picture(one.counted[0]) for one in classes]).T
    return Counts(right, said, np.array([one.truths for one in classes]).T)


def published(found: Pool, among: np.ndarray | None = None) -> Counts:
    """Over the classes that have true objects: there, up to the last of the data set's that has. among: (M,) which of
    the said objects are taken, None for all."""
    labels = found.classes
    taken = np.ones(len(found.picture), dtype=bool) if among is None else among
    said, true, iou = found.pairs
    hit = (iou >= IOU) & ~found.difficult[true] & taken[said]
    said, true = said[hit], true[hit]
    same = found.said[said] == found.true[true]
    alone = taken.copy()
    alone[said] = False
    missed = ~found.difficult
    missed[true[same]] = False
    picture, true_picture = found.picture, found.true_picture
    right = _table(found, labels, [(picture[said[same]], found.said[said[same]])])
    column = [(picture[said], found.said[said]), (picture[alone], found.said[alone])]
    row = [(true_picture[true], found.true[true]), (true_picture[missed], found.true[missed])]
    return Counts(right, _table(found, labels, column), _table(found, labels, row), background=True)


def _table(found: Pool, labels: Sequence[int], parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(N, C) how often each picture and class comes in (pictures, classes)."""
    out = np.zeros((len(found.keys), len(found.names)))
    for pictures, classes in parts:
        np.add.at(out, (pictures, classes), 1)
    return out[:, labels]
