"""The numbers of a detector: by its scores, and cut off at θ, where a model without scores can stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from evals.scoring.detecting import curves, f1
from evals.scoring.detecting.pictures import Picture, Pool, pool
from evals.scoring.detecting.score import Numbers
from evals.scoring.detecting.ties import Of, once
from evals.scoring.detecting.voc import Hits, hits
from evals.scoring.detectors.cut import Cut, cut
from evals.scoring.report import Scores
from vlm.common.bootstrap import Statistic, each

VOC_AT = (0.5, 0.75)
"""IoU thresholds of VOC's AP."""
F1_AT = tuple(number / 10 for number in range(10))
"""Score thresholds of the published mF1."""
_RANKED = "ranked by score, equal ones picture by picture, as in the file"


def as_scored(pictures: Sequence[Picture], rotated: bool) -> Scores:
    """AP by VOC07, VOC12 and COCO, and the mean of mF1 over score thresholds."""
    found = pool(pictures)
    numbers = Numbers(found, rotated, "every object, with its score")
    numbers.boxes()
    if not found.classes:
        why = "no picture has a true object that is not difficult"
        numbers.out.missing |= {name: why for name in ("detection/ap_voc07@0.5", "detection/ap_coco")}
        return numbers.out
    classes = [hits(found, label, VOC_AT).by_score(found.score[found.said == label]) for label in found.classes]
    _voc(numbers, classes)
    numbers.coco(_RANKED)
    _f1(numbers)
    return numbers.out


def _voc(numbers: Numbers, classes: Sequence[Hits]) -> None:
    keys, names = numbers.found.keys, [numbers.found.names[label] for label in numbers.found.classes]
    for name, curve, said in (
        ("voc07", curves.devkit07, "VOC07, 11 points, in the floats of DOTA's devkit: 3 of 10 do not reach 0.3"),
        ("voc12", curves.voc12, "VOC12, area under the curve"),
    ):
        found = np.array([one.as_they_stand(curve) for one in classes])  # (C, K)
        resampled = once(partial(_mean_ap, classes, curve))
        for place, at in enumerate(VOC_AT):

            def number(times: np.ndarray, of: Of = resampled, place: int = place) -> float:
                return float(of(times)[place])

            belongs = "a prediction belongs to the true object of its class that it overlaps most"
            text = (
                f"AP, {said}, {belongs}",
                f"{numbers.iou} >= {at:g} (DOTA's devkit: above it)",
                f"mean over {len(classes)} classes with truth; {_RANKED}",
            )
            numbers.add(f"ap_{name}@{at:g}", each(keys, number, point=float(found[:, place].mean())), *text)
        for label, one, value in zip(names, classes, found[:, 0], strict=True):
            numbers.alone(f"ap_{name}@0.5[{label}]", value, int((one.truths > 0).sum()), "of that class")


def _mean_ap(classes: Sequence[Hits], curve: curves.Curve, times: np.ndarray) -> np.ndarray:
    """(K,) of a resample."""
    there = [one.as_they_stand(curve, times) for one in classes if one.truths @ times > 0]
    return np.mean(there, axis=0) if there else np.full(len(VOC_AT), np.nan)


def _f1(numbers: Numbers) -> None:
    found = numbers.found
    ours, theirs = [], []
    for theta in F1_AT:
        among = found.score >= theta
        ours.append(f1.mean_f1([hits(found, label, (f1.IOU,), among=among) for label in found.classes]))
        theirs.append(f1.published(found, among))
    how = "mean over the scores s >= 0, 0.1 … 0.9"
    plain = f"F1 of the mean precision and recall over the classes with truth; {numbers.iou} >= 0.5"
    numbers.add("mf1", _mean(found, ours), how, plain)
    numbers.add("mf1:published", _mean(found, theirs), how, "as f1_metric.py of mllm-mmrotate counts")
    best = max(range(len(F1_AT)), key=lambda place: ours[place].value)
    said = f"the greatest of those, at s >= {F1_AT[best]:g}, chosen on this data: optimistic"
    numbers.alone("mf1:highest", ours[best].value, len(found.keys), said)


def _mean(found: Pool, counts: Sequence[f1.Counts]) -> Statistic:
    return Statistic(found.keys, lambda drawn: np.mean([one.f1(drawn) for one in counts], axis=0))


def at_cut(pictures: Sequence[Picture], rotated: bool, chosen: Cut, where: str) -> Scores:
    """What a model without scores is judged by, of the objects scored above θ. where: on which data it was chosen."""
    numbers = Numbers(pool(cut(pictures, chosen.theta)), rotated, f"scores above θ = {chosen.theta:g}, {where}")
    numbers.all()
    return numbers.out
