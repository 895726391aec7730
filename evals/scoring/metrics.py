"""Numbers from predictions, each with the convention it was computed by, because projects differ.

Grounding   plain IoU in pixels of the original image (no "+1"), threshold >=; an answer that does not parse or
            names another number of boxes than the truth counts as IoU 0 and stays in the denominator. A box that
            overhangs the image by at most 2% of the side is cut to the border; one that overhangs it further, or is
            inverted, is a miss of that box (`vlm.boxes.said`, as in the rewards). The VHM and ScoreRS evaluators use
            the same threshold and arithmetic.
VQA         exact match after `vlm.answers.normalise` over all questions (micro), per question type, and the
            mean of the types (RSVQA). An empty answer is never right.
Choice      the answer must name exactly one option (`vlm.answers.option`).
Open ended  mean of what the recipe's `gold` judge gave when the question was answered; captions count with them.
Lenient     beside each strict number of VQA, choice and classification one by `evals.scoring.lenient`: announced,
            set-off and explained answers count, too.
Detection   `evals.scoring.detecting.score`.
Segmentation  `evals.scoring.masks`.
Format      share of completions that are exactly <think>…</think><answer>…</answer>.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from evals.predictions import Prediction
from evals.scoring import lenient as lenient_reading
from evals.scoring import masks
from evals.scoring.detecting.score import Detection, f1_of
from evals.scoring.reading import Inside, Reading, truth
from evals.scoring.report import Scores
from samples import kinds_of
from vlm import answers, boxes
from vlm.common.bootstrap import Statistic, means
from vlm.common.errors import DataError

OPEN = ("open_ended", "caption")
"""Tasks without a closed answer."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One prediction, judged. What does not apply to its task is None."""

    key: str
    task: str
    kinds: tuple[str, ...] = ()
    iou: float | None = None
    "Of boxes, or of masks."
    correct: bool | None = None
    lenient: bool | None = None
    gold: float | None = None
    well_formed: bool | None = None
    f1: float | None = None
    "Of detection, at IoU 0.5 in this picture (`evals.scoring.detecting.score.f1_of`)."


def evaluate(
    predictions: Iterable[Prediction], notation: str, inside: Inside = "answer", form: str = Reading.form
) -> Report:
    """Judge every prediction.

    notation: how the model writes boxes (`vlm.boxes.NOTATIONS`). inside: "answer" reads what is in the
    one <answer>…</answer>; "text" reads the whole completion (base models asked directly). form: how it writes masks
    (`vlm.masks.FORMS`).
    Raises: DataError where there is nothing to score, a question comes twice, or a truth is missing.
    """
    if inside not in ("answer", "text"):
        raise ValueError(f"inside is 'answer' or 'text', not {inside!r}")
    predictions = list(predictions)
    reading = Reading(notation, inside, form)
    judgements = [judge(prediction, reading) for prediction in predictions]
    if not judgements:
        raise DataError("no predictions to score")
    keys: set[str] = set()
    for judgement in judgements:
        if judgement.key in keys:
            raise DataError(f"question {judgement.key!r} was predicted twice, expected once")
        keys.add(judgement.key)
    report = Report(judgements, reading)
    if detected := [prediction for prediction in predictions if prediction.task == "detection"]:
        report.join(Detection()(detected, reading))
    if masked := [prediction for prediction in predictions if prediction.task == "segmentation"]:
        report.join(masks.Masks()(masked, reading))
    return report


def judge(prediction: Prediction, reading: Reading) -> Judgement:
    """One prediction against its truth."""
    task, text = prediction.task, reading.text(prediction)
    well_formed = answers.parse(prediction.completion).well_formed if reading.inside == "answer" else None
    overlap = correct = lenient = None
    if task == "grounding":
        overlap = _iou(prediction, reading)
    elif task == "segmentation":
        overlap = masks.judged(prediction, reading).iou
    elif task == "choice":
        options = _truth(prediction, "choices")
        right = answers.option(_truth(prediction, "answer"), options)
        if right is None:
            raise DataError(f"question {prediction.key!r}: the answer {prediction.answer!r} is not among {options}")
        correct = answers.option(text, options) == right
        lenient = correct or lenient_reading.option(text, options) == right
    elif task in ("vqa", "classification"):
        truly = _truth(prediction, "answer")
        said, true = answers.normalise(text), answers.normalise(truly)
        correct = said != "" and said == true
        lenient = correct or lenient_reading.equal(text, truly)
    kinds = tuple(kinds_of(prediction.kind))
    gold = prediction.gold if task in OPEN else None
    f1 = f1_of(prediction, reading) if task == "detection" else None
    return Judgement(prediction.key, task, kinds, overlap, correct, lenient, gold, well_formed, f1)


def _truth(prediction: Prediction, name: str) -> Any:
    return truth(prediction, name, f"{prediction.task} is scored by")


def _iou(prediction: Prediction, reading: Reading) -> float:
    """Plain IoU; with several true boxes the mean over the best one-to-one matching of as many predictions.

    Another number of boxes is a miss: otherwise naming two boxes for one object would be a hedge.
    """
    true, said = _truth(prediction, "boxes"), reading.said(prediction)
    if said is None or len(said) != len(true):
        return 0.0
    return sum(boxes.match_ious(said.boxes, true)) / len(true)


_GROUNDING = (
    "plain IoU in pixels; unparsable or wrong number of boxes = {zero}, kept in the denominator; " + boxes.CONVENTION
)
_EXACT = "exact match after normalising; empty = wrong"
_LENIENT = (
    "lenient: what is announced (The answer is B), set off (**B**, $35$, \\boxed{B}), explained (B, because …; yes, "
    "there is) or equal as a number (1,200; 35 m²) counts, too; two options, or a denied one, = wrong"
)
CONVENTIONS = {
    "grounding/acc@0.5": "IoU >= 0.5, " + _GROUNDING.format(zero="miss"),
    "grounding/acc@0.7": "IoU >= 0.7, " + _GROUNDING.format(zero="miss"),
    "grounding/miou": "mean IoU, " + _GROUNDING.format(zero="0"),
    "vqa/exact": f"{_EXACT}; over all questions",
    "vqa/exact:lenient": f"{_LENIENT}; over all questions",
    "vqa/mean_of_kinds": f"{_EXACT}; mean over question types of each type's share",
    "vqa/mean_of_kinds:lenient": f"{_LENIENT}; mean over question types of each type's share",
    "choice/accuracy": "the answer names exactly the right option, by letter or text; anything else = wrong",
    "choice/accuracy:lenient": _LENIENT,
    "choice/mean_of_kinds": "choice/accuracy per question type, mean over the types",
    "choice/mean_of_kinds:lenient": "choice/accuracy:lenient per question type, mean over the types",
    "classification/accuracy": _EXACT,
    "classification/accuracy:lenient": _LENIENT,
    "open_ended/gold": "mean of the values that the recipe's `gold` judge gives",
    "format": "share of completions that are exactly one <think> block and one non-empty <answer> block",
}
"""What is computed, in the order of the tables. Metrics of one type are named `vqa/exact[count]`."""

LENIENT = ":lenient"
_PER_KIND = {
    f"{name}{how}": task
    for name, task in (("vqa/exact", "vqa"), ("choice/accuracy", "choice"))
    for how in ("", LENIENT)
}


class Report(Scores):
    """The judgements of one run and the metrics over them.

    Every metric is a mean over groups of the mean within the group: one group of all its questions, or (for
    `mean_of_kinds`) one per question type. `vlm.common.bootstrap` resamples the questions of the same groups.
    """

    def __init__(self, judgements: list[Judgement], reading: Reading):
        super().__init__()
        self.judgements = judgements
        read = f"; {reading.convention}"
        for name, text in CONVENTIONS.items():
            if name not in ("format", "open_ended/gold"):
                text += read + (f"; boxes written as {reading.notation}" if name.startswith("grounding") else "")
            for one in (name, *(f"{name}[{kind}]" for kind in self.kinds(name))):
                if groups := self.groups(one):
                    self.add(one, means(groups), text)

    def groups(self, metric: str) -> list[dict[str, float]]:
        """The groups of a metric, each {question: value}; none where it does not apply to any question."""
        name, _, kind = metric.removesuffix("]").partition("[")
        if name not in CONVENTIONS or (kind and name not in _PER_KIND):
            raise DataError(f"unknown metric {metric!r}; metrics are {', '.join(CONVENTIONS)}")
        if "/mean_of_kinds" in name:
            task, how = name.partition("/")[0], name.partition(":")[2]
            plain = next(plain for plain, its in _PER_KIND.items() if its == task and plain.partition(":")[2] == how)
            return [group for one in self.kinds(plain) for group in self.groups(f"{plain}[{one}]")]
        group = {
            judgement.key: value
            for judgement in self.judgements
            if (value := _value(judgement, name)) is not None and (not kind or kind in judgement.kinds)
        }
        return [group] if group else []

    def kinds(self, metric: str) -> list[str]:
        """The question types within a metric, sorted."""
        task = _PER_KIND.get(metric)
        return sorted({kind for judgement in self.judgements if judgement.task == task for kind in judgement.kinds})

    def statistic(self, metric: str) -> Statistic:
        """A metric as the bootstrap resamples it. Raises: DataError where it is unknown or applies to no question."""
        if metric not in self.found and not self.groups(metric):
            raise DataError(f"the metric {metric!r} applies to no question; there are {', '.join(self.metrics)}")
        return super().statistic(metric)


def _value(judgement: Judgement, name: str) -> float | None:
    """What one question contributes to a metric; None where the metric is not about it."""
    if name == "format":
        return None if judgement.well_formed is None else float(judgement.well_formed)
    if name == "open_ended/gold":
        return judgement.gold
    task, _, what = name.partition("/")
    if judgement.task != task:
        return None
    if task != "grounding":
        right = judgement.lenient if what.endswith(LENIENT) else judgement.correct
        return None if right is None else float(right)
    if judgement.iou is None or what == "miou":
        return judgement.iou
    return float(judgement.iou >= float(what.removeprefix("acc@")))
