"""The numbers of the task `detection`: AP_nc, COCO's AP, mF1, precision and recall, and how answers were read.

    detection/ap_nc@0.5, @0.75, @0.5-0.95     `evals.scoring.detecting.ties`, with the spread over orders; at 0.5 also
                                              by class `[ship]` and by size of the true object `[S] [M] [L]`
    detection/ap_coco, @0.5, @0.75, [S] …     `evals.scoring.detecting.coco`
    detection/mf1, :published                 `evals.scoring.detecting.f1`
    detection/precision@0.5, recall@0.5       of all objects that are said, and of all that are true: these need no rank
    detection/boxes_said, boxes_true          objects in a picture, mean; numbers, no shares
    detection/empty_right                     pictures without objects of which just that is said
    detection/unreadable, unread, repaired    answers and objects that cannot be read, and answers that were mended

A picture without objects adds its predictions, all wrong, to each of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.predictions import Prediction
from evals.scoring.detecting import coco, f1
from evals.scoring.detecting.pictures import Picture, Pool, pool
from evals.scoring.detecting.ties import ORDERS, Tied, once
from evals.scoring.detecting.voc import Hits, Range, hits
from evals.scoring.reading import Reading
from evals.scoring.report import Scores
from vlm.boxes import Detected, corners, spoken
from vlm.common.bootstrap import Statistic, each, means, ratio
from vlm.common.errors import DataError

THRESHOLDS = tuple(float(one) for one in coco.THRESHOLDS)
SIZES: dict[str, Range] = {"S": (-1.0, 32.0**2), "M": (32.0**2, 96.0**2), "L": (96.0**2, np.inf)}
"""COCO's, by the true object's area in pixels² of the original image: S at most 32², M at most 96²."""
CHOSEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0.5": lambda found: found[..., 0],
    "0.75": lambda found: found[..., 5],
    "0.5-0.95": lambda found: found.mean(axis=-1),
}
"""Name → the AP of those at all `THRESHOLDS`."""
MAX_MODE = (
    "RSCoVLM's paper names a Max Mode; neither its code (VisionXLab/RSCoVLM at bfc2ff7, VisionXLab/mllm-mmrotate at "
    "9475a93) nor any text of it that could be read says what that is"
)
_VOC = "VOC07, 11 points, a prediction belongs to the true object of its class that it overlaps most"
_SIZE = "objects of other sizes are left out, and predictions on them or, of other sizes, on none (S <= 32², M <= 96²)"


@dataclass(frozen=True)
class Detection:
    """All numbers of detection."""

    rotated: bool | None = None
    "Compare quadrilaterals, or upright boxes; None: quadrilaterals where the truth has any."
    tasks: tuple[str, ...] = ("detection",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        turned = any(one.quads for one in predictions) if self.rotated is None else self.rotated
        read = [reading.detections(prediction) for prediction in predictions]
        found = pool([picture(one, said, turned) for one, said in zip(predictions, read, strict=True)])
        numbers = Numbers(found, turned, f"{reading.convention}; boxes written as {reading.notation}")
        numbers.all()
        numbers.reading(read)
        numbers.out.missing["detection/max_mode"] = MAX_MODE
        return numbers.out


def picture(prediction: Prediction, said: Detected, rotated: bool) -> Picture:
    """Truth and answer of a question. Raises: DataError where the truth has no classes, or too few."""
    shapes = prediction.quads if prediction.quads is not None else prediction.boxes
    labels = prediction.labels
    if shapes is None or labels is None or len(labels) != len(shapes):
        found = "none" if labels is None else len(labels)
        raise DataError(
            f"question {prediction.key!r}: found {found} 'labels' for {0 if shapes is None else len(shapes)} true "
            "objects; detection needs the class of each, in rows of the task detection"
        )
    if rotated:
        true = shapes if prediction.quads is not None else [corners(box) for box in shapes]
    else:
        true = prediction.boxes or []
        if len(true) != len(labels):
            raise DataError(f"question {prediction.key!r}: found {len(true)} 'boxes' for {len(labels)} 'labels'")
    asked = f" ({', '.join(prediction.classes)})" if prediction.classes else ""
    return Picture(
        key=prediction.key + asked,  # of another list of classes it is another question, not to be paired with this one
        true=true,
        labels=[spoken(name) for name in labels],
        difficult=prediction.difficult or [False] * len(labels),
        said=said.quads if rotated else said.boxes,
        said_labels=[spoken(one.label or "") for one in said.objects],
        missed=said.missed,
    )


def f1_of(prediction: Prediction, reading: Reading) -> float:
    """F1 of one picture at IoU 0.5, all its classes together; where nothing is true, whether just that is said.

    Right and wrong as in `evals.scoring.detecting.voc`: difficult objects, and what is said of them, are left out.
    """
    said = reading.detections(prediction)
    found = pool([picture(prediction, said, prediction.quads is not None)])
    target, overlap = found.best
    hit = (target >= 0) & (overlap >= f1.IOU)
    left = np.zeros_like(hit)
    left[hit] = found.difficult[target[hit]]
    right = len(np.unique(target[hit & ~left]))
    stated, true = int((~left).sum()) + said.missed, int((~found.difficult).sum())
    if not true:
        return float(said.readable and not stated)
    return 2 * right / (stated + true)


class Numbers:
    """Adds one family of numbers after the other to `out`."""

    def __init__(self, found: Pool, rotated: bool, behind: str):
        """behind: goes behind each number's convention."""
        self.found, self.behind, self.out = found, behind, Scores()
        self.iou = "rotated IoU" if rotated else "IoU of upright boxes"

    def all(self) -> None:
        """Those that need no score."""
        if self.found.classes:
            classes = [hits(self.found, label, THRESHOLDS) for label in self.found.classes]
            self.tied(classes)
            self.sizes()
            self.f1(classes)
            self.together(classes)
            self.coco()
        else:
            why = "no picture has a true object that is not difficult"
            self.out.missing |= dict.fromkeys(("detection/ap_nc@0.5", "detection/mf1"), why)
        self.boxes()

    def add(self, name: str, statistic: Statistic, *said: str) -> None:
        self.out.add(f"detection/{name}", statistic, "; ".join([*said, self.behind]))

    def alone(self, name: str, value: float, n: int, *said: str) -> None:
        self.out.alone(f"detection/{name}", float(value), n, "; ".join([*said, self.behind]))

    def means(self, name: str, values: Sequence[float] | np.ndarray, *said: str) -> None:
        found = {key: float(value) for key, value in zip(self.found.keys, values, strict=True)}
        self.add(name, means([found]), *said)

    def ratio(self, name: str, parts: np.ndarray, whole: np.ndarray, *said: str) -> None:
        pairs = zip(parts.tolist(), whole.tolist(), strict=True)
        self.add(name, ratio(dict(zip(self.found.keys, pairs, strict=True))), *said)

    def tied(self, classes: Sequence[Hits]) -> None:
        """AP_nc with the spread over orders, and by class."""
        found, tied = self.found, Tied(classes)
        over = f"mean over {len(classes)} classes with truth"
        random = f"no scores, so all tie: mean over {ORDERS} random orders (seed 0)"
        for name, which in CHOSEN.items():
            at = f"{self.iou} >= {'0.5, 0.55 … 0.95, mean' if '-' in name else name}"
            interval = "the interval is over pictures and orders"
            self.add(f"ap_nc@{name}", tied.statistic(found.keys, which), f"AP, {_VOC}", at, over, random, interval)
            values = which(tied.drawn.mean(axis=1))  # (ORDERS,)
            others = {
                "lowest": (values.min(), "the lowest of those orders"),
                "highest": (values.max(), "the highest of those orders"),
                "file_order": (which(tied.in_file), "ranked as in the file"),
                "together": (which(tied.together), "all at one rank"),
            }
            for how, (value, said) in others.items():
                self.alone(f"ap_nc@{name}:{how}", float(value), len(found.keys), f"AP, {_VOC}", at, over, said)
        for label, one, drawn in zip(found.classes, classes, tied.drawn.mean(axis=0), strict=True):
            there = int((one.truths > 0).sum())
            self.alone(f"ap_nc@0.5[{found.names[label]}]", drawn[0], there, "of that class")

    def sizes(self) -> None:
        """AP_nc by size of the true object."""
        for part, size in SIZES.items():
            every = [hits(self.found, label, THRESHOLDS[:1], size) for label in self.found.classes]
            if classes := [one for one in every if one.truths.any()]:
                there = int(np.any([one.truths > 0 for one in classes], axis=0).sum())
                self.alone(f"ap_nc@0.5[{part}]", Tied(classes).drawn.mean(), there, f"of that size: {_SIZE}")

    def f1(self, classes: Sequence[Hits]) -> None:
        """mF1, ours and as it is published."""
        keys, count = self.found.keys, len(classes)
        self.add(
            "mf1",
            f1.mean_f1(classes).statistic(keys),
            f"F1 of the mean precision and the mean recall over {count} classes with truth",
            f"{self.iou} >= 0.5, each true object once, difficult ones left out, the background is no class",
        )
        self.add(
            "mf1:published",
            f1.published(self.found).statistic(keys),
            "as f1_metric.py of mllm-mmrotate counts: the background is a class with precision and recall 0, so that "
            f"{count}/{count + 1} is the most there is",
            "a box counts for each object it overlaps, all boxes on an object are right, difficult objects are none",
        )

    def together(self, classes: Sequence[Hits]) -> None:
        """Precision and recall, which need no rank."""
        right = np.sum([one.per_picture(one.first[0]) for one in classes], axis=0)
        true = np.sum([one.truths for one in classes], axis=0)
        how = f"{self.iou} >= 0.5, classes together, each true object once"
        self.ratio("recall@0.5", right, true, "right ones of all true objects", how)
        target, overlap = self.found.best
        left = (target >= 0) & (overlap >= 0.5)
        left[left] = self.found.difficult[target[left]]
        said = np.bincount(self.found.picture, ~left, minlength=len(true)) + self.found.missed
        if said.any():
            what = "right ones of all that is said, whatever its class, readable or not; on difficult objects left out"
            self.ratio("precision@0.5", right, said, what, how)

    def coco(self, ranks: str = "no scores: ranked as in the file") -> None:
        """What pycocotools says. ranks: how predictions are ranked, in words."""
        found, matched = self.found, coco.match(self.found)
        resampled = once(lambda times: coco.precision(matched, times=times))
        say = (
            f"COCO's AP, 101 points, the free true object with the greatest {self.iou}, {coco.MOST} predictions of a "
            "class and picture at most",
            f"{ranks}; difficult objects are crowds",
        )
        whole = coco.precision(matched)
        for name, which in (("", "0.5-0.95"), ("@0.5", "0.5"), ("@0.75", "0.75")):
            choose = CHOSEN[which]

            def number(times: np.ndarray, choose: Callable[[np.ndarray], np.ndarray] = choose) -> float:
                return float(choose(resampled(times)))

            at = "mean over IoU 0.5, 0.55 … 0.95" if not name else f"at IoU {which}"
            self.add(f"ap_coco{name}", each(found.keys, number, float(choose(whole))), at, *say)
        for truths, part in zip(matched.truths, coco.SIZES, strict=True):
            if part and truths.any():
                there = len(np.unique(found.true_picture[truths]))
                value = coco.precision(matched, part).mean()
                self.alone(f"ap_coco[{part}]", value, there, "of that size, both ends included")

    def boxes(self) -> None:
        """How much is said, and how much there is."""
        pictures = len(self.found.keys)
        number = "mean of the pictures; a number, no percentage"
        said, true = self.said(), np.bincount(self.found.true_picture, minlength=pictures)
        self.means("boxes_said", said, "objects that are said, readable or not", number)
        self.means("boxes_true", true, "true objects, difficult ones too", number)

    def said(self) -> np.ndarray:
        """(N,) objects that are said of each picture."""
        return np.bincount(self.found.picture, minlength=len(self.found.keys)) + self.found.missed

    def reading(self, read: Sequence[Detected]) -> None:
        """How answers were read."""
        found, said = self.found, self.said()
        full = set(found.true_picture.tolist())
        empty = {
            key: float(one.readable and not len(one))
            for number, (key, one) in enumerate(zip(found.keys, read, strict=True))
            if number not in full
        }
        if empty:
            self.add("empty_right", means([empty]), "pictures without true objects of which just that is said")
        unreadable = [not one.readable for one in read]
        self.means("unreadable", unreadable, "answers that state neither objects nor that there are none")
        if said.any():
            what = "stated objects without a readable shape: they count as said, but for AP and mF1, as of no class"
            self.ratio("unread", found.missed, said, what)
        self.means("repaired", [bool(one.repairs) for one in read], "answers that were mended (`vlm.boxes.detections`)")
        for kind in sorted({kind for one in read for kind in one.repairs}):
            times = [one.repairs.get(kind, 0) for one in read]
            self.means(f"repaired[{kind}]", np.array(times) > 0, f"answers that needed this, {sum(times)} times in all")
