"""IoU as the projects compute it: one prediction judged three ways is three numbers, so each way has a name.

| name     | project      | arithmetic                                                                  | hit at t |
|----------|--------------|-----------------------------------------------------------------------------|----------|
| plain    | VHM, ScoreRS | areas of (x2-x1)(y2-y1) in pixels of the original image                     | IoU >= t |
| vrsbench | VRSBench     | both boxes rounded to whole percents of the image; +1 on every side length  | IoU >= t |
| rscovlm  | RSCoVLM      | x2-1 and then +1 in the intersection, so plain areas, but an overlap of at  | IoU > t  |
|          |              | most one pixel in width or height counts as none                            |          |

Boxes are x1, y1, x2, y2 in pixels of the original image. An inverted or empty box of the model is read as a miss
before it comes here (`vlm.boxes`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm.boxes import convert, quad_iou

Box = Sequence[float]
Size = Sequence[float]


@dataclass(frozen=True)
class Convention:
    """How a project compares a predicted box with the true one."""

    name: str
    text: str
    "What stands beside the number; `{t}` is the threshold."
    parts: Callable[[Box, Box, Size], tuple[float, float]]
    "Predicted box, true box, (width, height) of the image → areas of intersection and union."
    reaches: Callable[[float, float], bool] = operator.ge
    "Whether an IoU is a hit at a threshold."

    def iou(self, predicted: Box, true: Box, size: Size) -> float:
        """Intersection over union, 0 where there is no union."""
        inner, outer = self.parts(predicted, true, size)
        return min(1.0, inner / outer) if outer > 0 else 0.0


def _areas(a: Box, b: Box, plus: float) -> tuple[float, float]:
    """Intersection and union where a side from x1 to x2 measures x2 - x1 + plus."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + plus)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + plus)
    inner = width * height
    whole = sum((box[2] - box[0] + plus) * (box[3] - box[1] + plus) for box in (a, b))
    return inner, whole - inner


def _plain(predicted: Box, true: Box, size: Size) -> tuple[float, float]:
    return _areas(predicted, true, 0.0)


def _vrsbench(predicted: Box, true: Box, size: Size) -> tuple[float, float]:
    a, b = ([round(value) for value in convert(box, "pixel", "percent", size)] for box in (predicted, true))
    return _areas(a, b, 1.0)


def _rscovlm(predicted: Box, true: Box, size: Size) -> tuple[float, float]:
    width = min(predicted[2], true[2]) - max(predicted[0], true[0])
    height = min(predicted[3], true[3]) - max(predicted[1], true[1])
    inner, outer = _areas(predicted, true, 0.0)
    return (inner, outer) if width > 1 and height > 1 else (0.0, outer + inner)


CONVENTIONS = {
    "plain": Convention("plain", "IoU >= {t}, plain IoU in pixels (VHM, ScoreRS)", _plain),
    "vrsbench": Convention(
        "vrsbench", "IoU >= {t}, boxes in whole percents of the image, +1 on every side (VRSBench)", _vrsbench
    ),
    "rscovlm": Convention(
        "rscovlm",
        "IoU > {t}, plain areas in pixels, an overlap of at most 1 pixel in width or height is none (RSCoVLM)",
        _rscovlm,
        operator.gt,
    ),
}


def quad_parts(predicted: Box, true: Box) -> tuple[float, float]:
    """Areas of intersection and union of two quadrilaterals; (0, the true one's area) where the predicted is none."""
    import shapely

    truth = shapely.Polygon(list(zip(true[::2], true[1::2], strict=True)))
    if not quad_iou(predicted, predicted):
        return 0.0, truth.area
    said = shapely.Polygon(list(zip(predicted[::2], predicted[1::2], strict=True)))
    inner = said.intersection(truth).area
    return inner, said.area + truth.area - inner


SIZES = {"S": (0, 32**2), "M": (32**2, 96**2), "L": (96**2, float("inf"))}
"""Classes of the true box's area in pixels of the original image, as VHM and ScoreRS count: above the first number, and
at most the second, so that small is ≤ 32², medium ≤ 96². A box without area is small."""


def size_class(box: Box) -> str:
    """S, M or L."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return next(name for name, (_, high) in SIZES.items() if area <= high)
