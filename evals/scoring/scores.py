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
from evals.scoring import lenient, metrics, wordnet
from evals.scoring.overlap import CONVENTIONS, SIZES, quad_parts, size_class
from evals.scoring.reading import Reading, truth
from evals.scoring.report import Scores
from samples import kinds_of
from vlm import answers, boxes
from vlm.common.bootstrap import mean_of, means, ratio

FAILED = (
    "unparsable or wrong number of boxes = IoU 0 (the true area as union), kept in the denominator; " + boxes.CONVENTION
)


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
    not_computed: Mapping[str, str] = field(default_factory=dict)
    "What projects report and is not computed here, with the reason."
    tasks: tuple[str, ...] = ("grounding",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores(missing=dict(self.not_computed))
        for number, name in enumerate(self.conventions):
            self._one(out, predictions, reading, name, ":" + name if number else "")
        return out

    def _one(
        self, out: Scores, predictions: Sequence[Prediction], reading: Reading, convention: str, suffix: str
    ) -> None:
        rule = CONVENTIONS[convention]
        judged = {p.key: self._judge(p, reading, convention) for p in predictions}
        parts = {"": list(judged)} | {f"[{part}]": keys for part, keys in self._parts(predictions).items()}
        reach, arithmetic = rule.text.split(", ", 1)
        if self.rotated:
            arithmetic = "areas of polygons in pixels"
        behind = f"{arithmetic}; {FAILED}; {reading.convention}; boxes written as {reading.notation}"
        for threshold in self.thresholds:
            hits = {key: float(rule.reaches(one.iou, threshold)) for key, one in judged.items()}
            said = f"{reach.format(t=threshold)}, {behind}"
            for part, keys in parts.items():
                out.add(f"grounding/acc@{threshold}{suffix}{part}", means([{key: hits[key] for key in keys}]), said)
        if self.every:
            hits = {key: float(all(rule.reaches(iou, 0.5) for iou in one.ious)) for key, one in judged.items()}
            said = f"each true box has a predicted one of its own with {reach.format(t=0.5)}, none is left over"
            out.add(f"grounding/every@0.5{suffix}", means([hits]), f"{said} (GeoChat: F1 = 1); {behind}")
        if suffix:  # thresholds are what projects differ in; means and sums stand once
            return
        for part, keys in parts.items():
            out.add(f"grounding/miou{part}", means([{key: judged[key].iou for key in keys}]), f"mean IoU, {behind}")
        for part, keys in parts.items():
            areas = {key: (judged[key].inner, judged[key].outer) for key in keys}
            out.add(f"grounding/ciou{part}", ratio(areas), f"sum of intersections / sum of unions, {behind}")

    def _judge(self, prediction: Prediction, reading: Reading, convention: str) -> Judged:
        from scipy.optimize import linear_sum_assignment

        size = _truth(prediction, "size")
        true = _truth(prediction, "quads" if self.rotated else "boxes")
        said = reading.said(prediction)
        rule = CONVENTIONS[convention]

        def parts(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
            return quad_parts(a, b) if self.rotated else rule.parts(a, b, size)

        if said is None or len(said) != len(true):
            return Judged([0.0], 0.0, sum(parts(one, one)[1] for one in true))
        shapes = said.quads if self.rotated else said.boxes
        table = np.array([[parts(a, b) for b in true] for a in shapes]).reshape(len(shapes), len(true), 2)  # (P, T, 2)
        ious = table[..., 0] / np.maximum(table[..., 1], 1e-12)  # a flat truth may have no union
        pairs = linear_sum_assignment(ious, maximize=True)
        inner, outer = table[pairs].sum(axis=0).tolist()
        alone = set(range(len(true))) - set(pairs[1].tolist())  # what a missed box was stated for
        outer += sum(parts(true[number], true[number])[1] for number in alone)
        return Judged([*ious[pairs].clip(max=1.0).tolist(), *[0.0] * said.missed], inner, outer)

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
    """VQA: exact match after `vlm.answers.normalise` over all questions, per type, and the mean of the types; each also
    leniently."""

    left_out: tuple[str, ...] = ()
    "Types that are usually left out of the mean (RSVQA: counts and areas); both means are given, by name."
    not_computed: Mapping[str, str] = field(default_factory=dict)
    "What the project reports and is not computed here, with the reason."
    sources: Mapping[str, str] = field(default_factory=dict)
    "How ids of questions begin → the data set that they are from: also by it, and the mean of these."
    synonyms: bool = False
    "Also with WordNet's synonyms as right (LRS-VQA)."
    lemmas: bool = False
    "For that, words are first brought to their noun without inflection, and full stops stand (LRS-GRO)."
    leading: bool = False
    "A question's first type alone counts in the mean of the types (LRS-GRO: global, region, object)."
    tasks: tuple[str, ...] = ("vqa",)

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        report = metrics.evaluate(predictions, reading.notation, reading.inside, reading.form)
        out = _taken(report, "vqa/")
        out.missing |= self.not_computed
        kept = [kind for kind in report.kinds("vqa/exact") if kind not in self.left_out]
        for how in ("", metrics.LENIENT) if kept and len(kept) < len(report.kinds("vqa/exact")) else ():
            groups = [group for kind in kept for group in report.groups(f"vqa/exact{how}[{kind}]")]
            said = f"as vqa/mean_of_kinds{how}, over {', '.join(kept)} only; {', '.join(self.left_out)} left out"
            name = f"vqa/mean_of_kinds:no_{'_'.join(self.left_out)}{how}"
            out.add(name, means(groups), f"{said}; {reading.convention}")
        for how in ("", metrics.LENIENT) if self.leading else ():
            (values,) = report.groups(f"vqa/exact{how}")
            self._by_first(out, predictions, values, how, f"right as in vqa/exact{how}; {reading.convention}")
        if self.sources:
            for how in ("", metrics.LENIENT):
                (values,) = report.groups(f"vqa/exact{how}")
                said = f"right as in vqa/exact{how}; {reading.convention}"
                self._by_source(out, predictions, values, how, said)
        if self.synonyms:
            self._with_synonyms(out, predictions, reading)
        return out

    def _by_source(
        self, out: Scores, predictions: Sequence[Prediction], values: Mapping[str, float], how: str, said: str
    ) -> None:
        """The mean of the sources' shares, that of the means of their types, and the shares themselves."""
        asked: dict[str, list[Prediction]] = {}
        for prediction in predictions:
            asked.setdefault(self._source(prediction), []).append(prediction)
        names = (f"vqa/mean_of_sources{how}", f"vqa/mean_of_sources_and_kinds{how}")
        if "" in asked:
            odd = asked[""][0].id
            out.missing |= dict.fromkeys(
                names,
                f"{len(asked[''])} questions, such as {odd!r}, do not say where they are from; expected ids that begin "
                f"with {', '.join(self.sources)}",
            )
            return
        order = [name for name in self.sources.values() if name in asked]
        groups = {name: {one.key: values[one.key] for one in asked[name]} for name in order}
        for name, group in groups.items():
            out.add(f"vqa/exact{how}[source {name}]", means([group]), said)
        over = f"the sources {', '.join(order)}"
        out.add(names[0], means(list(groups.values())), f"mean over {over} of each one's share; {said}")
        parts = {name: _by_kind(asked[name], values) for name in order}
        if all(parts.values()):
            means_of_kinds = [means(list(kinds.values())) for kinds in parts.values()]
            told = f"mean over {over} of the mean over the question types in each; {said}"
            out.add(names[1], mean_of(means_of_kinds), told)

    @staticmethod
    def _by_first(
        out: Scores, predictions: Sequence[Prediction], values: Mapping[str, float], how: str, said: str
    ) -> None:
        """The mean over the first types of questions, in the place of that over all types."""
        groups: dict[str, dict[str, float]] = {}
        for prediction in predictions:
            for kind in kinds_of(prediction.kind)[:1]:
                groups.setdefault(kind, {})[prediction.key] = values[prediction.key]
        if groups:
            told = f"mean over {', '.join(sorted(groups))} of each one's share; {said}"
            out.add(f"vqa/mean_of_kinds{how}", means(list(groups.values())), told)

    def _source(self, prediction: Prediction) -> str:
        """Where a question is from; empty where its id does not say."""
        return next((name for start, name in self.sources.items() if prediction.id.startswith(start)), "")

    def _with_synonyms(self, out: Scores, predictions: Sequence[Prediction], reading: Reading) -> None:
        how = ":wordnet"
        names = [f"vqa/{name}{how}" for name in ("exact", "mean_of_kinds")]
        names += [f"vqa/{name}{how}" for name in ("mean_of_sources", "mean_of_sources_and_kinds") if self.sources]
        if (words := wordnet.at_hand()) is None:
            out.missing |= dict.fromkeys(names, wordnet.ABSENT)
            return
        values = {}
        stops, form = ("", words.lemma) if self.lemmas else (".", str)
        for prediction in predictions:
            text, true = (
                one.lower().strip().strip(stops) for one in (reading.text(prediction), _truth(prediction, "answer"))
            )
            values[prediction.key] = float(text == true or words.synonyms(form(true), form(text)))
        said = "equal in lower case without outer full stops, or in one synset of WordNet (path similarity > 0.8)"
        if self.lemmas:
            said = "equal in lower case, or their lemmas are in one synset of WordNet (path similarity >= 0.8)"
        said += f"; {reading.convention}"
        out.add(names[0], means([values]), said)
        if kinds := _by_kind(predictions, values):
            for kind, group in kinds.items():
                out.add(f"{names[0]}[{kind}]", means([group]), said)
            out.add(names[1], means(list(kinds.values())), f"mean over question types of each one's share; {said}")
        if self.leading:
            self._by_first(out, predictions, values, how, said)
        if self.sources:
            self._by_source(out, predictions, values, how, said)


def _by_kind(predictions: Sequence[Prediction], values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Question type → its questions' values; a question counts in each of its types."""
    found: dict[str, dict[str, float]] = {}
    for prediction in predictions:
        for kind in kinds_of(prediction.kind):
            found.setdefault(kind, {})[prediction.key] = values[prediction.key]
    return dict(sorted(found.items()))


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
        return _taken(metrics.evaluate(named, reading.notation, reading.inside, reading.form), "choice/")


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
