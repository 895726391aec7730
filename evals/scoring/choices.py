"""CHOICE (ShawnAn-WHU/CHOICE, arXiv 2411.18145): accuracy of each task and level, by our reading and by its own script.

Its script (ms-swift/infer_vlm/evaluator.py at 32cbf41) gives `:choice`:

    options     the answer is a letter, or begins with one before a blank or a full stop; else the first of A to D
                behind "answer", "Answer", "could be", "would be" or "Correct option"; else it is a part of the right
                option's text (up to a full stop, in lower case), or the first word of that is a part of the answer.
                An empty answer, which its script takes for right, is wrong here
    grounding   the first four numbers, all divided by 10 until none is above 1, are an upright box in fractions of the
                image; right is an IoU with the true quadrilateral above 0.5; above 0.3, and a centre inside, stand
                beside it

It asks for boxes in fractions; numbers in thousandths come out right by the divisions, and pixels do not.

    choice/mean_of_tasks                 mean of the tasks' accuracies, visual grounding counted as IoU above 0.5 (as in
                                         its tables); segmentation, which its script does not score, is not among them
    choice/mean_of_tasks[perception]     the same of a level's tasks (infer_choice.py states the levels); how its tables
                                         average over tasks stands in no code
    choice/accuracy[object_counting]     of one task
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.predictions import Prediction
from evals.scoring import letters, metrics
from evals.scoring.overlap import quad_parts
from evals.scoring.reading import Reading, truth
from evals.scoring.report import Scores
from samples import kinds_of
from vlm.common.bootstrap import means

LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "perception": {
        "image_level_comprehension": (
            "image_modality", "image_quality", "map_recognition", "scene_classification", "image_caption",
        ),
        "single_instance_identification": (
            "landmark_recognition", "object_counting", "object_localization", "object_presence",
            "attribute_recognition", "visual_grounding", "hallucination_detection",
        ),
        "cross_instance_discerment": (
            "attribute_comparison", "spatial_relationship", "change_detection", "referring_expression_segmentation",
        ),
    },
    "reasoning": {
        "assessment_reasoning": ("environmental_assessment", "resource_assessment"),
        "attribute_reasoning": ("physical_property", "time_property"),
        "common_sense_reasoning": ("disaster_discrimination", "geospatial_determination", "situation_inference"),
    },
}  # fmt: skip
"""Level 1 → level 2 → tasks, by the names of its folders."""
OWN = ":choice"
_ANNOUNCES = re.compile(r"answer|Answer|could be|would be|Correct option")
_NUMBER = re.compile(r"(?<![a-zA-Z/])([-+]?\d*\.\d+|\d+)(?!\s?meter)(?![a-zA-Z/\d])")
_READ = "its own script's reading of the answer (CHOICE; empty = wrong)"


def right_option(text: str, choices: Sequence[str], true: str) -> bool:
    """Whether CHOICE's script takes an answer for the option of the letter `true`."""
    if not text.strip():
        return False
    starts = (text.strip(), text.split(" ")[0], text.split(".")[0] if "." in text else "")
    if letter := next((start for start in starts if start in ("A", "B", "C", "D")), None):
        return letter == true
    if announced := _ANNOUNCES.search(text):
        found = re.search("[ABCD]", text[announced.end() :])
        return found is not None and found[0] == true
    option = choices[string.ascii_uppercase.index(true)].split(".")[0].replace("_", " ").lower()
    return text.lower() in option or option.split(" ")[0] in text.lower()


def box_in(text: str) -> list[float] | None:
    """The box, in fractions of the image, that CHOICE's script finds in an answer; None for fewer than four numbers."""
    numbers = [float(number) for number in _NUMBER.findall(text)[:4]]
    if len(numbers) < 4 or not all(map(math.isfinite, numbers)):
        return None
    while max(numbers) > 1:
        numbers = [number / 10 for number in numbers]
    return numbers


def overlap(box: Sequence[float], quad: Sequence[float]) -> tuple[float, bool]:
    """(IoU, whether the box's centre is inside) of an upright box and a quadrilateral, in one frame.

    box: x1, y1, x2, y2, its corners in any order.
    """
    import shapely

    said = shapely.box(min(box[::2]), min(box[1::2]), max(box[::2]), max(box[1::2]))
    true = shapely.Polygon(list(zip(quad[::2], quad[1::2], strict=True)))
    inner = said.intersection(true).area
    centre = shapely.Point((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return inner / (said.area + true.area - inner), true.contains(centre)


@dataclass(frozen=True)
class Levels:
    """Accuracy by task and by level; `:lenient` as elsewhere, of options."""

    tasks: tuple[str, ...] = ("choice", "grounding")

    def __call__(self, predictions: Sequence[Prediction], reading: Reading) -> Scores:
        out = Scores()
        asked = [one for one in predictions if one.task == "choice"]
        placed = [one for one in predictions if one.task == "grounding"]
        judged = {one.key: metrics.judge(one, reading) for one in asked}
        boxed = {one.key: _judged(one, reading) for one in placed}
        strict = {key: float(bool(one.correct)) for key, one in judged.items()}
        lenient = {key: float(bool(one.lenient)) for key, one in judged.items()}
        own = {one.key: float(_own(one, reading)) for one in asked}
        hits = {one.key: float(_ours(one, reading) > 0.5) for one in placed}
        said = f"boxes written as {reading.notation} against the true quadrilateral, IoU > 0.5"
        self._add(out, "", strict | hits, predictions, f"{letters.STRICT}; {said}; {reading.convention}")
        self._add(
            out, metrics.LENIENT, lenient | hits, predictions,
            f"{letters.STRICT}; announced, set off or explained, too (lenient); {said}; {reading.convention}",
        )  # fmt: skip
        own |= {key: float(iou > 0.5) for key, (iou, _) in boxed.items()}
        self._add(out, OWN, own, predictions, f"{_READ}; {reading.convention}")
        if boxed:
            how = f"the first four numbers divided by 10 until none is above 1, upright, {_READ}; {reading.convention}"
            for least in (0.5, 0.3):
                found = {key: float(iou > least) for key, (iou, _) in boxed.items()}
                out.add(f"grounding/acc@{least}{OWN}", means([found]), f"IoU > {least} with the quadrilateral; {how}")
            inside = {key: float(centre) for key, (_, centre) in boxed.items()}
            out.add(f"grounding/centre{OWN}", means([inside]), f"the box's centre is in the quadrilateral; {how}")
        return out

    @staticmethod
    def _add(out: Scores, how: str, values: Mapping[str, float], predictions: Sequence[Prediction], said: str) -> None:
        groups: dict[str, dict[str, float]] = {}
        for prediction in predictions:
            for kind in kinds_of(prediction.kind):
                groups.setdefault(kind, {})[prediction.key] = values[prediction.key]
        if not groups:
            out.missing[f"choice/mean_of_tasks{how}"] = "the questions do not say their task"
            return
        told = "mean over {} tasks of each one's share; " + said
        out.add(f"choice/mean_of_tasks{how}", means(list(groups.values())), told.format(len(groups)))
        for name, tasks in levels().items():
            if inside := [groups[task] for task in tasks if task in groups]:
                out.add(f"choice/mean_of_tasks{how}[{name}]", means(inside), told.format(len(inside)))
        for task, group in sorted(groups.items()):
            out.add(f"choice/accuracy{how}[{task}]", means([group]), said)


def levels() -> dict[str, tuple[str, ...]]:
    """Names of both levels → their tasks."""
    found: dict[str, tuple[str, ...]] = {}
    for first, second in LEVELS.items():
        found[first] = tuple(task for tasks in second.values() for task in tasks)
        found |= second
    return found


def _own(prediction: Prediction, reading: Reading) -> bool:
    (true,) = letters.letters(prediction)
    return right_option(reading.text(prediction), letters.options(prediction), true)


def _quad(prediction: Prediction) -> list[float]:
    found: list[list[float]] = truth(prediction, "quads", "CHOICE's grounding is scored by")
    return found[0]


def _judged(prediction: Prediction, reading: Reading) -> tuple[float, bool]:
    """IoU and whether the centre is inside, in pixels, of the box that CHOICE's script reads; (0, False) for none."""
    box = box_in(reading.text(prediction))
    if box is None:
        return 0.0, False
    width, height = truth(prediction, "size", "CHOICE's grounding is scored by")
    return overlap([box[0] * width, box[1] * height, box[2] * width, box[3] * height], _quad(prediction))


def _ours(prediction: Prediction, reading: Reading) -> float:
    """IoU of the one shape that an answer states, as the recipe's notation reads it, and the true quadrilateral."""
    said = reading.said(prediction)
    if said is None or len(said) != 1 or said.missed:
        return 0.0
    inner, outer = quad_parts(said.quads[0], _quad(prediction))
    return inner / outer
