"""The metrics of one task each, as benchmarks put them together: `Grounding(...)(predictions, reading)` → `Scores`.

Names are those of `evals.scoring.metrics` where the number is the same. A number by another convention has its name
behind a colon (`grounding/acc@0.5:rscovlm`), one over part of the questions has the part in brackets
(`vqa/exact[count]`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evals.predictions import Prediction
from evals.scoring import lenient, metrics
from evals.scoring.overlap import CONVENTIONS, SIZES, quad_parts, size_class
from evals.scoring.reading import Reading, truth
from evals.scoring.report import Scores
from samples import kinds_of
from vlm import answers
from vlm.common.bootstrap import means, ratio

FAILED = "unparsable, inverted or wrong number of boxes = IoU 0 (the true area as union), kept in the denominator"


@dataclass(frozen=True, slots=True)
class Judged:
    """One grounding answer: IoUs of the one-to-one matching, and the areas of its intersections and unions."""

    ious: list[float]
    inner: float
    outer: float

    @property
    def iou(self) -> float:
        return sum(self.ious) / len(self.ious)


@dataclass(frozen=True)
class Grounding:
    """Accuracy at IoU thresholds, mean IoU (failures 0) and cIoU, the sum of intersections over the sum of unions."""

    conventions: tuple[str, ...] = ("plain",)
    "Of `evals.scoring.overlap.CONVENTIONS`; the first gives the plain names, mean IoU and cIoU, others accuracies."
    thresholds: tuple[float, ...] = (0.5, 0.7)
    sizes: bool = False
    "Also by the true box's area: S, M, L."
    rotated: bool = False
    "Compare quadrilaterals (the truth's `quads`), with plain areas."
    kinds: bool = False
    "Also by question type."
    every: bool = False
    "Also the share of questions with all boxes right, for those that ask for several."
    tasks: tuple[str, ...] = ("grounding",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        for number, name in enumerate(self.conventions):
            self._one(out, predictions, reading, name, ":" + name if number else "")
        return out

    def _one(
        self, out: Scores, predictions: Sequence[Prediction], reading: Reading, convention: str, suffix: str
    ) -> None:
        rule = CONVENTIONS[convention]
        judged = {p.key: self._judge(p, reading, convention) for p in predictions}
        reach, arithmetic = rule.text.split(", ", 1)
        if self.rotated:
            arithmetic = "areas of polygons in pixels"
        behind = f"{arithmetic}; {FAILED}; {reading.convention}; boxes written as {reading.notation}"
        for threshold in self.thresholds:
            hits = {key: float(rule.reaches(one.iou, threshold)) for key, one in judged.items()}
            said = f"{reach.format(t=threshold)}, {behind}"
            out.add(f"grounding/acc@{threshold}{suffix}", means([hits]), said)
            for part, keys in self._parts(predictions).items():
                out.add(f"grounding/acc@{threshold}{suffix}[{part}]", means([{key: hits[key] for key in keys}]), said)
        if self.every:
            hits = {key: float(all(rule.reaches(iou, 0.5) for iou in one.ious)) for key, one in judged.items()}
            said = f"each true box has a predicted one of its own with {reach.format(t=0.5)}, none is left over"
            out.add(f"grounding/every@0.5{suffix}", means([hits]), f"{said} (GeoChat: F1 = 1); {behind}")
        if suffix:  # thresholds are what projects differ in; means and sums stand once
            return
        out.add("grounding/miou", means([{k: one.iou for k, one in judged.items()}]), f"mean IoU, {behind}")
        areas = {key: (one.inner, one.outer) for key, one in judged.items()}
        out.add("grounding/ciou", ratio(areas), f"sum of intersections / sum of unions, {behind}")

    def _judge(self, prediction: Prediction, reading: Reading, convention: str) -> Judged:
        from scipy.optimize import linear_sum_assignment

        size = _truth(prediction, "size")
        true = _truth(prediction, "quads" if self.rotated else "boxes")
        said = (reading.quads if self.rotated else reading.boxes)(prediction)
        rule = CONVENTIONS[convention]

        def parts(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
            return quad_parts(a, b) if self.rotated else rule.parts(a, b, size)

        if said is None or len(said) != len(true):
            return Judged([0.0], 0.0, sum(parts(one, one)[1] for one in true))
        table = np.array([[parts(a, b) for b in true] for a in said])  # (P, T, 2)
        ious = table[..., 0] / np.maximum(table[..., 1], 1e-12)  # the union holds the truth, which has an area
        pairs = linear_sum_assignment(ious, maximize=True)
        return Judged(ious[pairs].clip(max=1.0).tolist(), *table[pairs].sum(axis=0).tolist())

    def _parts(self, predictions: Sequence[Prediction]) -> dict[str, list[str]]:
        """Names of parts of the questions → their keys."""
        found: dict[str, list[str]] = {name: [] for name in SIZES} if self.sizes else {}
        for prediction in predictions:
            if self.sizes:
                found[size_class(_truth(prediction, "boxes")[0])].append(prediction.key)
            for kind in kinds_of(prediction.kind) if self.kinds else ():
                found.setdefault(kind, []).append(prediction.key)
        return {name: keys for name, keys in found.items() if keys}


@dataclass(frozen=True)
class Answers:
    """VQA: exact match after `vlm.answers.normalise` over all questions, per type, and the mean of the types."""

    left_out: tuple[str, ...] = ()
    "Types that are usually left out of the mean (RSVQA: counts and areas); both means are given, by name."
    not_computed: Mapping[str, str] = field(default_factory=dict)
    "What the project reports and is not computed here, with the reason."
    tasks: tuple[str, ...] = ("vqa",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        report = metrics.evaluate(predictions, reading.notation, reading.inside)
        out = _taken(report, "vqa/")
        out.missing |= self.not_computed
        kept = [kind for kind in report.kinds("vqa/exact") if kind not in self.left_out]
        for how in ("", metrics.LENIENT) if kept and len(kept) < len(report.kinds("vqa/exact")) else ():
            groups = [group for kind in kept for group in report.groups(f"vqa/exact{how}[{kind}]")]
            said = f"as vqa/mean_of_kinds{how}, over {', '.join(kept)} only; {', '.join(self.left_out)} left out"
            name = f"vqa/mean_of_kinds:no_{'_'.join(self.left_out)}{how}"
            out.add(name, means(groups), f"{said}; {reading.convention}")
        return out


@dataclass(frozen=True)
class Choice:
    """Multiple choice: over all questions, per type, and the mean of the types; a question counts in each of its."""

    names: Mapping[str, str] = field(default_factory=dict)
    "What types are called in the data → in the table."
    tasks: tuple[str, ...] = ("choice",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        named = [
            replace(p, kind=",".join(self.names.get(kind, kind) for kind in kinds_of(p.kind))) for p in predictions
        ]
        return _taken(metrics.evaluate(named, reading.notation, reading.inside), "choice/")


@dataclass(frozen=True)
class Classes:
    """Scene classification: over all pictures, and the mean over the true classes of each one's share."""

    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        for how, right, said in (
            (
                "",
                _spelt,
                "exact match of class names without case, blanks, hyphens and underscores; anything more = wrong",
            ),
            (metrics.LENIENT, _named, "the same, but an answer that is announced or set off counts, too (lenient)"),
        ):
            found: dict[str, float] = {}
            groups: dict[str, dict[str, float]] = {}
            for prediction in predictions:
                text, true = reading.text(prediction), _truth(prediction, "answer")
                value = float(right(text, true))
                found[prediction.key] = groups.setdefault(class_key(true), {})[prediction.key] = value
            out.add(f"classification/accuracy{how}", means([found]), f"{said}; {reading.convention}")
            said = f"mean over the {len(groups)} true classes of each one's share; {said}; {reading.convention}"
            out.add(f"classification/mean_of_classes{how}", means(list(groups.values())), said)
        return out


def _spelt(text: str, true: str) -> bool:
    return class_key(text) == class_key(true)


def _named(text: str, true: str) -> bool:
    return lenient.same_class(text, true, class_key)


def class_key(name: str) -> str:
    """What two spellings of a class share: "Dense-Residential" and "dense residential" are one."""
    return re.sub(r"[\s_-]+", "", answers.normalise(name))


def formatted(predictions: Sequence[Prediction], reading: Reading) -> Scores:
    """The share in the R1 format, where that is asked for."""
    out = Scores()
    if reading.inside == "answer":
        kept = {p.key: float(answers.parse(p.completion).well_formed) for p in predictions}
        out.add("format", means([kept]), metrics.CONVENTIONS["format"])
    return out


def _taken(report: metrics.Report, prefix: str) -> Scores:
    """The numbers of a recipe's report that begin so."""
    out = Scores()
    for name, (statistic, convention) in report.found.items():
        if name.startswith(prefix):
            out.add(name, statistic, convention)
    return out


def _truth(prediction: Prediction, name: str) -> Any:
    return truth(prediction, name, f"this benchmark's {prediction.task} needs")
