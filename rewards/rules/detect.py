"""Detection: how well the objects that an answer states, with their classes, are those of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rewards.registry import register
from rewards.rules.boxes import AT_LEAST, MOST, Notation, check_frame, own
from rewards.rules.distance import check_distance, nearness, with_distance
from rewards.rules.rows import Column, Inside, given, name_of, per_row
from vlm import boxes as vlm_boxes
from vlm.boxes import Detected, read_detections, spoken
from vlm.common.errors import DataError, RecipeError

_LEFT_OUT = 0.5
"""IoU from which on what is said of a difficult object is left out of account: that of the evaluation (VOC, DOTA)."""
_LESS_THAN_ALL = 1e-9
"""What leaving one out is worth to the matching: less than any gain in a pair, more than rounding."""


@register("detect")
def detect(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    boxes: Column = None,
    quads: Column = None,
    labels: Column = None,
    difficult: Column = None,
    classes: Column = None,
    size: Column = None,
    resized: Column = None,
    written: Column = None,
    task: Column = None,
    shape: Literal["box", "quad"] = "box",
    floor: float = 0.1,
    full: float = 1.0,
    distance: float = 0.0,
    notation: Notation = vlm_boxes.FALLBACK,
    applies_to: Sequence[str] = ("detection",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """How well the objects of the answer are those of the picture, in [0, 1].

        r = min(2 Σ s / (P + T), Σ s / P)        s = (IoU − floor) / (full − floor), cut to [0, 1]

    P objects are said, T are true; Σ s runs over the one-to-one matching of said with true ones of the same class that
    makes it greatest. The left term is F1 with soft hits, the right one precision, which is the lesser where more is
    said than there is: up to the true number an object too many costs half of what it costs beyond. F1 alone pays 2/3
    for each object twice, or in either of two classes, which is all that it pays for half of the objects and silence
    about the others. Objects count alike, whatever their area. A class without objects in the picture, or of
    which much is said, has no weight of its own: micro-averaged, so that an absent class is no jackpot.

    No true objects: 1 for "There are none.", 0 for any object. Text that states neither earns 0. **Difficult** objects
    are neither right nor wrong, as in the evaluation: they are not in T, and one said object of the same class with IoU
    ≥ 0.5 with each is not in P, unless it earns more elsewhere. One, where the evaluation leaves out any number.

    The text is read by `vlm.boxes.read_detections`, and what it mends earns the same: mending adds no object, counts
    what it cannot read as said, and gives an object one label at most, so a broken answer never earns more than the
    same objects in proper text. That text stays in form is the affair of `format`, SFT and the count of repairs.

    shape: as in `iou`. floor, full: IoUs up to which a pair earns nothing, and from which on all; with `floor: 0.5,
    full: 0.5` a pair is a hit from IoU 0.5 on, as the evaluation has it. distance: as in `iou`, 0.1, say: a slope for
    pairs of one class that are apart. It is worth `distance` at most where nothing overlaps; while r is below twice
    that, one more proper object of a class that is not all found may pay, wherever it lies. notation, resized,
    written: as in `iou`.

    Hacking, with T objects and k = ⌈T/2⌉ found exactly, the rest not said: 2k / (k + T) ≥ 2/3; all boxes said, k by
    their classes: k / T ≥ 1/2. Each object m times, or in m classes: 1/m, of which m ≥ 2 leaves 1/2. One box: at most
    2 / (1 + T), and k ≥ 1. A flood of P shapes: at most T / P, if it hits all. What is said beyond 4 for each true
    object (and 256) is surplus and not compared, so that a flood costs no time. `tests/rewards/test_detect_hacks.py`
    plays them. Where it does not hold: asked for one class, "each box in all classes" is the right answer.

    F1 with soft hits is ours; one-to-one matching by the Hungarian method, the class agreeing, is that of set
    prediction (DETR, arXiv 2005.12872). RSCoVLM trains detection by SFT alone.
    """
    if not (0 <= floor <= full <= 1 and full > 0):
        raise RecipeError(f"reward 'detect': floor is {floor}, full is {full}; expected 0 ≤ floor ≤ full ≤ 1, full > 0")
    check_distance("detect", distance)
    read: dict[int, Detected] = {}

    def judge(row: int, said: str) -> float | None:
        truth = boxes if shape == "box" else quads
        if shape == "quad" and boxes is not None and boxes[row] == []:
            truth = boxes  # data of boxes has no quadrilaterals of nothing, either
        name = "boxes" if truth is boxes else "quads"
        if not given("detect", row, task, columns, **{name: truth}, labels=labels, size=size):
            return None
        check_frame(row, own(row, notation, written), resized, columns)
        assert truth is not None and labels is not None and size is not None
        hard = None if difficult is None else difficult[row]
        _check_lengths(row, columns, {name: truth[row], "labels": labels[row], "difficult": hard})
        found = read[row] = read_detections(
            said,
            own(row, notation, written),
            size[row],
            None if resized is None else resized[row],
            None if classes is None else classes[row],
        )
        if not found.readable:
            return 0.0
        hits, left_out = _matched(found, truth[row], labels[row], hard, size[row], shape, (floor, full), distance)
        true, said_ones = len(truth[row]) - sum(hard or ()), len(found) - left_out
        if not true:
            return float(not said_ones)
        return min(1.0, 2 * hits / (said_ones + true), hits / max(said_ones, 1))

    return per_row(
        "detect",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: read[row].readable,
    )


def _check_lengths(row: int, columns: dict[str, Any], fields: dict[str, Sequence[Any] | None]) -> None:
    counts = {name: len(values) for name, values in fields.items() if values is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise DataError(f"{name_of(row, columns)}: the row has {told}; expected one of each for every object")


def _matched(
    found: Detected,
    truth: Sequence[Sequence[float]],
    labels: Sequence[str],
    difficult: Sequence[bool] | None,
    size: Sequence[float],
    shape: str,
    ramp: tuple[float, float],
    weight: float,
) -> tuple[float, int]:
    """(greatest sum of what pairs are worth, how many said objects are left out for a difficult one)."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    compared = max(MOST * len(truth), AT_LEAST)
    said = (found.boxes if shape == "box" else found.quads)[:compared]
    if not said or not truth:
        return 0.0, 0
    numbers = {name: number for number, name in enumerate(dict.fromkeys(map(spoken, labels)))}
    true = np.array([numbers[spoken(name)] for name in labels])  # (T,)
    classes = np.array([numbers.get(spoken(one.label or ""), -1) for one in found.objects[:compared]])  # (P,)
    agree = classes[:, None] == true[None]  # (P, T)
    overlap = (vlm_boxes.ious if shape == "box" else vlm_boxes.quad_ious)(said, truth)
    low, high = ramp
    worth = np.clip((overlap - low) / (high - low), 0, 1) if low < high else (overlap >= high).astype(float)
    if weight:
        worth = with_distance(worth, overlap, nearness(said, truth, size), weight)
    worth = np.where(agree, worth, 0.0)
    hard = np.array(difficult or [False] * len(truth), dtype=bool)
    # Above all that is apart: what lies on a difficult object is not matched with a true one far away.
    worth[:, hard] = np.where(agree & (overlap >= _LEFT_OUT), weight + _LESS_THAN_ALL, 0.0)[:, hard]
    rows, columns = linear_sum_assignment(worth, maximize=True)
    values, out = worth[rows, columns], hard[columns]
    return float(values[~out].sum()), int(np.count_nonzero(values[out]))
