"""Boxes, oriented boxes and quadrilaterals: how far the answer's cover the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rewards.registry import register
from rewards.rules.distance import check_distance, nearness, with_distance
from rewards.rules.rows import Column, Inside, given, name_of, per_row
from vlm import boxes as vlm_boxes
from vlm.common.errors import DataError, RecipeError

if TYPE_CHECKING:
    Notation = str
else:
    Notation = Literal[tuple(vlm_boxes.NOTATIONS)]  # a name that is not known is refused with the options

# (IoU, reward), highest first. The published rule compares strictly: an IoU of exactly .5 earns nothing.
_GRADUATED = ((0.8, 1.0), (0.7, 0.7), (0.6, 0.6), (0.5, 0.5))
MOST, AT_LEAST = 4, 256
"""Shapes of an answer that are compared for each true one, and for a row with few: what floods the image earns a
quarter at most, and would cost seconds a completion."""


@register("iou")
def iou(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    boxes: Column = None,
    quads: Column = None,
    size: Column = None,
    resized: Column = None,
    written: Column = None,
    task: Column = None,
    shape: Literal["box", "quad"] = "box",
    steps: Literal["continuous", "graduated", "threshold"] = "continuous",
    threshold: float = 0.5,
    distance: float = 0.0,
    notation: Notation = vlm_boxes.FALLBACK,
    applies_to: Sequence[str] = ("grounding",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """How well the shapes of the answer cover the true ones (pixels of the original image), in [0, 1].

    The answer's shapes are matched one to one with the true ones for the greatest IoU sum, each IoU is turned
    into steps, and their sum is divided by the larger of the two counts: a missing shape and a surplus one both
    cost. A box that overhangs the image by at most 2% of the side is cut to the border; one that overhangs it further,
    or is inverted, is a miss, and the other boxes of the answer count (`vlm.boxes.said`, as in the metrics). Of an
    answer with more than 4 shapes for each true one (and 256) the first ones are compared, the others are surplus.

    shape: "box" compares the row's ``boxes`` with the boxes around what the answer states; "quad" compares its
    ``quads`` with the corners of what the answer states: oriented boxes and quadrilaterals as they lie, and an
    axis-aligned box at its price.
    steps: "continuous": the IoU; "graduated": 0.5, 0.6, 0.7, 1.0 for IoU > .5, .6, .7, .8, else 0 (ScoreRS,
    arXiv 2503.00743, appendix D.5); "threshold": 1 for IoU >= ``threshold`` (in (0, 1]), else 0.
    distance: 0.1 keeps a slope where a shape overlaps none: the matched pair then earns up to 0.1, by the distance of
    the centres, and never more than one that overlaps, which earns 0.1 + 0.9 · steps (rewards/rules/distance.py). The
    matching then makes that sum greatest, before steps. It pays a little for proper boxes anywhere: keep it low.
    notation: how the answer writes boxes (vlm.boxes.NOTATIONS); in GRPO the recipe's `prompt.notation`,
    where it is not stated. A row whose source has a notation of its own (column ``written``) is read in that. Those
    that count pixels of the resized image need the column ``resized``, which samples.rows adds: the size at which the
    model saw the picture.
    """
    if not 0 < threshold <= 1:
        raise RecipeError(f"reward 'iou': threshold is {threshold}; expected a number in (0, 1]")
    check_distance("iou", distance)
    column, name = (boxes, "boxes") if shape == "box" else (quads, "quads")
    overlap = vlm_boxes.iou if shape == "box" else vlm_boxes.quad_iou

    def stated(row: int, said: str) -> vlm_boxes.Said | None:
        assert size is not None
        return vlm_boxes.read_said(said, own(row, notation, written), size[row], resized and resized[row])

    def judge(row: int, said: str) -> float | None:
        if not given("iou", row, task, columns, **{name: column}, size=size):
            return None
        check_frame(row, own(row, notation, written), resized, columns)
        assert column is not None and size is not None
        truth = column[row]
        found = stated(row, said)
        if found is None or not truth:
            return 0.0
        shapes = (found.boxes if shape == "box" else found.quads)[: max(MOST * len(truth), AT_LEAST)]
        if distance:
            worth = _apart(shapes, truth, size[row], lambda value: _step(value, steps, threshold), distance)
        else:
            worth = [_step(value, steps, threshold) for value in vlm_boxes.match_ious(shapes, truth, overlap)]
        return min(1.0, sum(worth) / max(len(found), len(truth)))

    return per_row(
        "iou",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: stated(row, said) is not None,
    )


def own(row: int, notation: str, written: Column) -> str:
    """The notation of a row: its source's, where that has one (`Sample.written`)."""
    return (written and written[row]) or notation


def check_frame(row: int, notation: str, resized: Column, columns: dict[str, Any]) -> None:
    """Raises DataError for a notation that counts in the resized image, on a row that does not tell its size."""
    if vlm_boxes.NOTATIONS[notation].frame == "resized" and (resized is None or resized[row] is None):
        raise DataError(
            f"{name_of(row, columns)}: the notation {notation} counts pixels of the resized image, and the row has "
            "no column 'resized' with its [width, height]; rows made by samples.rows have it"
        )


def _apart(
    shapes: Sequence[Sequence[float]],
    truth: Sequence[Sequence[float]],
    size: Sequence[float],
    step: Callable[[float], float],
    weight: float,
) -> list[float]:
    """What each matched pair is worth, with a slope for pairs that are apart (`rewards.rules.distance`)."""
    if not shapes:
        return []
    from scipy.optimize import linear_sum_assignment

    table = vlm_boxes.ious if len(truth[0]) == 4 else vlm_boxes.quad_ious
    overlap, near = table(shapes, truth), nearness(shapes, truth, size)  # (P, T) each
    pairs = linear_sum_assignment(with_distance(overlap, overlap, near, weight), maximize=True)
    stepped = [step(value) for value in overlap[pairs]]
    return [float(value) for value in with_distance(stepped, overlap[pairs], near[pairs], weight)]


def _step(value: float, steps: str, threshold: float) -> float:
    if steps == "continuous":
        return value
    if steps == "threshold":
        return float(value >= threshold)
    return next((reward for bound, reward in _GRADUATED if value > bound), 0.0)
