"""What is true and what is said in one picture, and which of it overlaps: what every metric of detection starts from.

Shapes are quadrilaterals x1, y1, …, x4, y4 ("rotated") or boxes x1, y1, x2, y2, all of one data set alike, in pixels of
the original image. Objects are numbered over all pictures, in the order of the pictures, so that a metric is a few
operations on arrays.

Legend: N pictures, M objects that are said, T true ones, P pairs of a said and a true object that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vlm.boxes import pair_ious, pair_quad_ious

TOGETHER = 1 << 18
"""Pairs of objects of one picture each that are compared at once, in some 30 MB."""


@dataclass(frozen=True)
class Picture:
    """One picture: what is true in it, and what is said of it."""

    key: str
    "Names it."
    true: Sequence[Sequence[float]]
    "Shapes of the true objects."
    labels: Sequence[str]
    "What each of them is."
    difficult: Sequence[bool]
    "Whether each is left out of account: DOTA's difficult objects, COCO's crowds."
    said: Sequence[Sequence[float]]
    "Shapes of the objects that are said, in that order."
    said_labels: Sequence[str]
    "What each of them is said to be."
    scores: Sequence[float] | None = None
    "How sure each is; None where nobody says."
    areas: Sequence[float] | None = None
    "Areas of the true objects, where the data states them (COCO: of the segment); None: of the shapes."
    missed: int = 0
    "How many more objects are stated with a shape or class that cannot be read."


@dataclass(frozen=True)
class Pool:
    """The objects of all pictures. Classes are numbers, places in `names`."""

    keys: list[str]
    "(N,) the pictures."
    names: list[str]
    "Every class that is true or said somewhere, sorted."
    picture: np.ndarray
    "(M,) of each said object its picture."
    said: np.ndarray
    "(M,) its class."
    score: np.ndarray
    "(M,)"
    said_area: np.ndarray
    "(M,) in pixels²."
    true_picture: np.ndarray
    "(T,) of each true object its picture."
    true: np.ndarray
    "(T,) its class."
    difficult: np.ndarray
    "(T,)"
    true_area: np.ndarray
    "(T,) in pixels²."
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
    "(P,) said object, (P,) true object of the same picture, of any class, (P,) their IoU, which is above 0."
    missed: np.ndarray
    "(N,) as `Picture.missed`."

    @cached_property
    def classes(self) -> list[int]:
        """Those that have a true object which is not difficult: the others have no recall."""
        return np.unique(self.true[~self.difficult]).tolist()

    @cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(M,) the true object of its class that each said one overlaps most, difficult ones included, -1 for none, and
        (M,) their IoU. Of equal ones the first counts, as with `argmax`."""
        target, overlap = np.full(len(self.picture), -1), np.zeros(len(self.picture))
        said, true, iou = self.of_one_class
        order = np.lexsort((-true, iou, said))  # the best of each said object comes last, and stays
        target[said[order]], overlap[said[order]] = true[order], iou[order]
        return target, overlap

    @cached_property
    def of_one_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The `pairs` whose objects are of one class."""
        said, true, iou = self.pairs
        same = self.said[said] == self.true[true]
        return said[same], true[same], iou[same]


def pool(pictures: Sequence[Picture]) -> Pool:
    """All objects, and which of them overlap."""
    names = sorted({name for one in pictures for name in (*one.labels, *one.said_labels)})
    number = {name: place for place, name in enumerate(names)}
    counts, true_counts = [len(one.said) for one in pictures], [len(one.true) for one in pictures]
    said, true, iou = _overlaps(pictures)
    every = range(len(pictures))
    return Pool(
        keys=[one.key for one in pictures],
        names=names,
        picture=np.repeat(every, counts).astype(np.int64),
        said=np.array([number[name] for one in pictures for name in one.said_labels], dtype=np.int64),
        score=np.concatenate([np.zeros(0), *(_scores(one) for one in pictures)]),
        said_area=np.concatenate([np.zeros(0), *(areas(one.said) for one in pictures)]),
        true_picture=np.repeat(every, true_counts).astype(np.int64),
        true=np.array([number[name] for one in pictures for name in one.labels], dtype=np.int64),
        difficult=np.array([hard for one in pictures for hard in one.difficult], dtype=bool),
        true_area=np.concatenate([np.zeros(0), *(_true_areas(one) for one in pictures)]),
        pairs=(said, true, iou),
        missed=np.array([one.missed for one in pictures], dtype=float),
    )


def _overlaps(pictures: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Pool.pairs`."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    before, true_before, some, pairs = 0, 0, list[Picture](), 0
    for place, one in enumerate(pictures):
        some.append(one)
        pairs += len(one.said) * len(one.true)
        if pairs >= TOGETHER or place == len(pictures) - 1:
            said, true, iou = _together(some)
            found.append((said + before, true + true_before, iou))
            before, true_before = before + sum(len(p.said) for p in some), true_before + sum(len(p.true) for p in some)
            some, pairs = [], 0
    first, second, third = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, third


def _together(pictures: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of a few pictures, all pairs at once."""
    said = [shape for one in pictures for shape in one.said]
    true = [shape for one in pictures for shape in one.true]
    if not said or not true:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int), np.zeros(0)
    counts, true_counts = np.array([(len(one.said), len(one.true)) for one in pictures]).T
    starts = np.cumsum(true_counts) - true_counts
    each = np.repeat(true_counts, counts)  # true objects beside each that is said
    rows = np.repeat(np.arange(len(said)), each)
    columns = (
        np.arange(len(rows)) - np.repeat(np.cumsum(each) - each, each) + np.repeat(np.repeat(starts, counts), each)
    )
    iou = (pair_quad_ious if len(true[0]) == 8 else pair_ious)(said, true, rows, columns)
    kept = np.flatnonzero(iou)
    return rows[kept], columns[kept], iou[kept]


def _scores(one: Picture) -> np.ndarray:
    return np.ones(len(one.said)) if one.scores is None else np.asarray(one.scores, dtype=float)


def _true_areas(one: Picture) -> np.ndarray:
    return areas(one.true) if one.areas is None else np.asarray(one.areas, dtype=float)


def areas(shapes: Sequence[Sequence[float]]) -> np.ndarray:
    """(K,) areas of boxes (K, 4) or, by the shoelace formula, of quadrilaterals (K, 8)."""
    found = np.asarray(shapes, dtype=float)
    if not len(found):
        return np.zeros(0)
    if found.shape[1] == 4:
        return (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    x, y = found[:, ::2] - found[:, :1], found[:, 1::2] - found[:, 1:2]  # near the origin no digit is lost
    return np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2
