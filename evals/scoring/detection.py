"""Average precision without confidences: AP_nc of RSCoVLM, for models that list objects and score none of them.

For each class: a prediction belongs to the true object of its image with which its IoU is greatest; it is right where
that IoU >= τ and no earlier prediction took the object; predictions on objects marked difficult are left out (VOC, as
MMRotate's `eval_rbbox_map` counts). AP is VOC07's: the mean over recalls t = 0, 0.1, …, 1 of the greatest precision at
a recall of at least t. mAP is the mean over the classes that have true objects.

Ties. AP ranks predictions by confidence, and here all are equal, so the rank is arbitrary, and AP depends on it. Public
tools take whatever order their sort leaves. Here

    detection/ap_nc@τ                the mean over ORDERS seeded random orders of all predictions
    detection/ap_nc@τ:lowest         the lowest and the highest of those orders: how far an arbitrary order can be off
    detection/ap_nc@τ:highest
    detection/ap_nc@τ:file_order     the order of the file: questions, and objects as they were said
    detection/ap_nc@τ:together       all predictions enter at one rank: one point of precision and recall

How many predictions are right does not depend on the order; which of several on one object it is, does. Precision and
recall over all classes stand beside, for they need no rank.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np

from evals.predictions import Prediction
from evals.scoring.reading import Reading
from evals.scoring.report import Scores
from evals.scoring.scores import class_key
from vlm.boxes import quad_ious
from vlm.common.bootstrap import Statistic, each, ratio
from vlm.common.errors import DataError

ORDERS = 20
POINTS = np.linspace(0, 1, 11)


def voc07(right: np.ndarray, truths: float) -> float:
    """11-point AP of ranked predictions (M,), right or not, against this many true objects (VOC2007, section 3.4.1)."""
    if not len(right) or not truths:
        return 0.0
    found = np.cumsum(right)
    return _eleven(found / truths, found / np.arange(1, len(right) + 1))


def _eleven(recall: np.ndarray, precision: np.ndarray) -> float:
    # 0.3 as 3 / 10 and as 0.1 * 3 differ in the last bit: a recall that reaches a point must count as reaching it
    return float(np.mean([precision[recall >= t - 1e-9].max(initial=0.0) for t in POINTS]))


@dataclass(frozen=True)
class Hits:
    """Predictions of one class in the order of the file, and the true objects they fall on."""

    question: np.ndarray
    "(M,) number of the question of each prediction that counts."
    target: np.ndarray
    "(M,) number of the true object it falls on, over all questions; -1 for none."
    truths: np.ndarray
    "(N,) true objects of each question, without difficult ones."

    def average_precision(self, order: np.ndarray | None = None, times: np.ndarray | None = None) -> float:
        """order: (M,) a permutation of the predictions, None for that of the file. times: (N,) how often each question
        counts; copies of a question have true objects of their own."""
        question, target = self.question, self.target
        truths = self.truths.sum()
        if times is not None:
            copies = times[question]
            number = np.concatenate([np.arange(n) for n in copies]) if len(copies) else copies
            question, target = np.repeat(question, copies), np.repeat(target, copies)
            target = np.where(target >= 0, target * (times.max() + 1) + number, -1)
            truths = self.truths @ times
        if order is not None:
            target = target[order]
        return voc07(first_on_each(target), truths)

    @cached_property
    def found(self) -> np.ndarray:
        """(N,) predictions of each question that are right, in any order."""
        return np.bincount(self.question, first_on_each(self.target), minlength=len(self.truths))

    @property
    def right(self) -> float:
        """How many those are."""
        return float(self.found.sum())

    @property
    def together(self) -> float:
        """AP with one rank for all."""
        truths = self.truths.sum()
        if not len(self.target):
            return 0.0
        return _eleven(np.array([self.right / truths]), np.array([self.right / len(self.target)]))


def first_on_each(target: np.ndarray) -> np.ndarray:
    """(M,) 1 where a prediction is the first on its object, else 0."""
    objects, first = np.unique(target, return_index=True)
    out = np.zeros(len(target))
    out[first[objects >= 0]] = 1
    return out


@dataclass(frozen=True)
class Detection:
    """AP_nc at rotated IoU thresholds, with the spread over orders, precision and recall."""

    thresholds: tuple[float, ...] = (0.5,)
    tasks: tuple[str, ...] = ("grounding",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        keys = [prediction.key for prediction in predictions]
        read = [reading.objects(prediction) for prediction in predictions]
        out = Scores()
        for threshold in self.thresholds:
            by_class = hits(predictions, [found for found, _ in read], threshold)
            if not by_class:
                raise DataError("no true object is without the mark 'difficult'; there is nothing to detect")
            behind = f"{reading.convention}; boxes written as {reading.notation}"
            _add(out, keys, by_class, threshold, behind)
            _add_shares(out, keys, list(by_class.values()), threshold, behind)
        unread = {key: (lost, lost + len(found)) for key, (found, lost) in zip(keys, read, strict=True)}
        said = "share of the answers' lines that could not be read as an object; they count as not said"
        if any(total for _, total in unread.values()):
            out.add("detection/unread", ratio(unread), f"{said}; {reading.convention}")
        return out


def hits(predictions: Sequence[Prediction], found: Sequence[Sequence], threshold: float) -> dict[str, Hits]:
    """`Hits` by class that has true objects. found: the objects read from each prediction."""
    true = [_truth(prediction) for prediction in predictions]
    classes = sorted({name for objects in true for name, _, difficult in objects if not difficult})
    out = {}
    for wanted in classes:
        question, target, truths, base = [], [], np.zeros(len(predictions)), 0
        for number, (objects, said) in enumerate(zip(true, found, strict=True)):
            quads = [(quad, difficult) for name, quad, difficult in objects if name == wanted]
            truths[number] = sum(not difficult for _, difficult in quads)
            chosen = [one.quad for one in said if class_key(one.label or "") == wanted]
            overlaps = quad_ious(chosen, [quad for quad, _ in quads])  # (predicted, true)
            for row in overlaps:
                best = int(row.argmax()) if quads else -1
                hit = best >= 0 and row[best] >= threshold
                if hit and quads[best][1]:
                    continue  # on a difficult object: neither right nor wrong
                question.append(number)
                target.append(base + best if hit else -1)
            base += len(quads)
        out[wanted] = Hits(np.array(question, dtype=np.int64), np.array(target, dtype=np.int64), truths)
    return out


def _add(out: Scores, keys: Sequence[str], by_class: dict[str, Hits], threshold: float, behind: str) -> None:
    name, classes = f"detection/ap_nc@{threshold}", list(by_class.values())
    rng = np.random.default_rng(0)
    orders = [[rng.permutation(len(one.target)) for one in classes] for _ in range(ORDERS)]
    drawn = [[one.average_precision(order) for one, order in zip(classes, o, strict=True)] for o in orders]
    per_order = np.mean(drawn, axis=1)  # (ORDERS,)
    plain = f"VOC07 11-point AP at rotated IoU >= {threshold}, mean over {len(classes)} classes with truth; no scores"
    said = f"{plain}, so all tie: mean over {ORDERS} random orders (seed 0); the interval is over pictures and orders"
    out.add(name, _statistic(keys, classes, float(per_order.mean())), f"{said}; {behind}")
    for label, value in (("lowest", per_order.min()), ("highest", per_order.max())):
        out.alone(f"{name}:{label}", value, len(keys), f"the {label} of those orders; {behind}")
    in_file = fmean(one.average_precision() for one in classes)
    out.alone(f"{name}:file_order", in_file, len(keys), f"{plain}: ranked as in the file; {behind}")
    at_once = fmean(one.together for one in classes)
    out.alone(f"{name}:together", at_once, len(keys), f"{plain}: all at one rank; {behind}")
    for (label, one), values in zip(by_class.items(), np.transpose(drawn), strict=True):
        out.alone(f"{name}[{label}]", values.mean(), int((one.truths > 0).sum()), said)


def _add_shares(out: Scores, keys: Sequence[str], classes: Sequence[Hits], threshold: float, behind: str) -> None:
    right = np.sum([one.found for one in classes], axis=0)
    said = np.sum([np.bincount(one.question, minlength=len(keys)) for one in classes], axis=0)
    truths = np.sum([one.truths for one in classes], axis=0)
    for name, whole, of in (
        ("recall", truths, "true objects"),
        ("precision", said, "predictions of classes with truth"),
    ):
        text = (
            f"right ones of all {of} at rotated IoU >= {threshold}, classes together, each true object once; {behind}"
        )
        if whole.sum():
            parts = dict(zip(keys, zip(right, whole, strict=True), strict=True))
            out.add(f"detection/{name}@{threshold}", ratio(parts), text)


def _statistic(keys: Sequence[str], classes: Sequence[Hits], value: float) -> Statistic:
    """mAP over random orders as a function of the questions; each resample is ranked in an order of its own."""

    def one_resample(times: np.ndarray) -> float:
        rng = np.random.default_rng(zlib.crc32(times.tobytes()))  # by the resample: who asks first does not matter
        there = [one for one in classes if one.truths @ times > 0]
        found = [one.average_precision(rng.permutation(int(times[one.question].sum())), times) for one in there]
        return float(np.mean(found)) if found else np.nan

    return each(keys, one_resample, point=value)


DIFFICULT = " (difficult)"


def labels(names: Sequence[str], difficult: Sequence[bool]) -> str:
    """The classes of a question's true `quads`, one a line, as `Sample.answer` holds them for detection."""
    return "\n".join(name + DIFFICULT * hard for name, hard in zip(names, difficult, strict=True))


def _truth(prediction: Prediction) -> list[tuple[str, list[float], bool]]:
    """(class, quadrilateral, difficult) of each true object."""
    quads, lines = prediction.quads or [], (prediction.answer or "").splitlines()
    if len(quads) != len(lines):
        raise DataError(
            f"question {prediction.key!r}: found {len(lines)} classes in 'answer' for {len(quads)} quads; detection "
            "needs the class of each"
        )
    return [
        (class_key(line.removesuffix(DIFFICULT)), quad, line.endswith(DIFFICULT))
        for line, quad in zip(lines, quads, strict=True)
    ]
