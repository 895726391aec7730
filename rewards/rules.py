"""The built-in rule rewards. Each judges one row's answer and is bounded in [0, 1].

An empty, missing, ambiguous or unparsable answer earns 0, whatever the truth is; so does an answer that
echoes the options. None is for rows of another task: with a ``task`` column, rows whose task is not in
``applies_to``; without one, rows that do not have the truth the reward needs. A row of the right task that
lacks its boxes, size or choices is a fault of the data and raises DataError.

``inside``: "answer" judges what stands inside the one ``<answer>…</answer>`` (see vlm.answers.parse), "text"
the whole completion (for prompts that ask for no tags).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rewards.registry import register
from vlm import answers
from vlm import boxes as vlm_boxes
from vlm.errors import DataError, RecipeError

Inside = Literal["answer", "text"]
Notation = Literal[
    "qwen2_vl", "qwen2_5_vl", "vhm", "geochat", "internvl", "lhrs", "rscovlm", "rscovlm_obb", "rscovlm_quad"
]
Column = Sequence[Any] | None


# (IoU, reward), highest first. The published rule compares strictly: an IoU of exactly .5 earns nothing.
_GRADUATED = ((0.8, 1.0), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5))


def text_of(completion: Any) -> str:
    """Generated text of one TRL completion: a string, or messages, of which the last one counts."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


@register("format")
def format(prompts: Any = None, completions: Sequence[Any] = (), **columns: Any) -> list[float | None]:
    """1 where the completion keeps the R1 format (see vlm.answers.parse), else 0. Applies to every row."""
    return [float(answers.parse(text_of(completion)).well_formed) for completion in completions]


@register("exact_match")
def exact_match(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    task: Column = None,
    applies_to: Sequence[str] = ("vqa", "classification"),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """1 where the answer equals the row's once normalised, else 0. None where the row has no answer."""

    def judge(row: int, said: str) -> float | None:
        if answer is None or answer[row] is None:
            return None
        truth = answers.normalise(answer[row])
        return float(truth != "" and answers.normalise(said) == truth)

    return _per_row(completions, task, applies_to, inside, judge)


@register("choice")
def choice(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    choices: Column = None,
    task: Column = None,
    applies_to: Sequence[str] = ("choice",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """1 where the answer names the same one of ``choices`` as the row's ``answer``, else 0.

    How an option is named: vlm.answers.option. Raises DataError where the row's own answer names none of its
    choices.
    """

    def judge(row: int, said: str) -> float | None:
        if not _given("choice", row, task, columns, answer=answer, choices=choices):
            return None
        truth = answers.option(answer[row], choices[row])
        if truth is None:
            raise DataError(f"{_row(row, columns)}: answer {answer[row]!r} names none of the choices {choices[row]}")
        return float(answers.option(said, choices[row]) == truth)

    return _per_row(completions, task, applies_to, inside, judge)


@register("iou")
def iou(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    boxes: Column = None,
    size: Column = None,
    resized: Column = None,
    task: Column = None,
    steps: Literal["continuous", "graduated", "threshold"] = "continuous",
    threshold: float = 0.5,
    notation: Notation = "qwen2_vl",
    applies_to: Sequence[str] = ("grounding",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """How well the boxes of the answer cover the row's ``boxes`` (pixels of the original image), in [0, 1].

    The answer's boxes are matched one to one with the true ones for the greatest IoU sum, each IoU is turned
    into steps, and their sum is divided by the larger of the two counts: a missing box and a surplus one both
    cost.

    steps: "continuous": the IoU; "graduated": 0.5, 0.6, 0.7, 1.0 for IoU > .5, .6, .7, .8, else 0 (ScoreRS,
    arXiv 2503.00743, appendix D.5); "threshold": 1 for IoU >= ``threshold`` (in (0, 1]), else 0.
    notation: how the answer writes boxes (vlm.boxes.NOTATIONS).
    """

    if not 0 < threshold <= 1:
        raise RecipeError(f"reward 'iou': threshold is {threshold}; expected a number in (0, 1]")

    def judge(row: int, said: str) -> float | None:
        if not _given("iou", row, task, columns, boxes=boxes, size=size):
            return None
        found = vlm_boxes.read_boxes(said, notation, size[row], None if resized is None else resized[row])
        if not found or not boxes[row]:
            return 0.0
        matched = vlm_boxes.match_ious(found, boxes[row])
        return sum(_step(value, steps, threshold) for value in matched) / max(len(found), len(boxes[row]))

    return _per_row(completions, task, applies_to, inside, judge)


def _step(value: float, steps: str, threshold: float) -> float:
    if steps == "continuous":
        return value
    if steps == "threshold":
        return float(value >= threshold)
    return next((reward for bound, reward in _GRADUATED if value > bound), 0.0)


def _per_row(
    completions: Sequence[Any],
    task: Column,
    applies_to: Sequence[str],
    inside: Inside,
    judge: Callable[[int, str], float | None],
) -> list[float | None]:
    """``judge(row, answer)`` on rows of the right task. It sees the empty answer, too: whether a row applies
    does not depend on what was generated."""
    tasks = (applies_to,) if isinstance(applies_to, str) else applies_to
    rewards: list[float | None] = []
    for row, completion in enumerate(completions):
        if task is not None and task[row] not in tasks:
            rewards.append(None)
            continue
        text = text_of(completion)
        said = text if inside == "text" else answers.parse(text).answer
        rewards.append(judge(row, said or ""))
    return rewards


def _given(reward: str, row: int, task: Column, columns: dict[str, Any], **truth: Column) -> bool:
    """Whether the row has every field of ``truth``. Where its task says that it should, a missing one is an
    error."""
    missing = [name for name, column in truth.items() if column is None or column[row] is None]
    if missing and task is not None:
        raise DataError(
            f"{_row(row, columns)}: the reward {reward!r} applies to task {task[row]!r} and needs the field "
            f"{missing[0]!r}, which is absent; add it to the data"
        )
    return not missing


def _row(row: int, columns: dict[str, Any]) -> str:
    """The row as its user knows it: source and id where the data has them, else its place in the batch."""
    parts = [f"{name} {columns[name][row]!r}" for name in ("source", "id") if columns.get(name) and columns[name][row]]
    return ", ".join(parts) or f"row {row} of the batch"
