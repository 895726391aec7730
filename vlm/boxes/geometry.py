"""Areas and overlaps of axis-aligned boxes and quadrilaterals, and matching one set with another.

A box is ``[x1, y1, x2, y2]``; a quadrilateral is ``[x1, y1, …, x4, y4]``, its corners in order around it. y points
down. An oriented box (centre, width, height, angle) is only a way to write a quadrilateral: `quad_from_obb`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes of the same frame, in [0, 1].

    The frame does not matter (scaling an axis scales both areas alike) as long as it is the same one. A
    degenerate or inverted box has no area, so its IoU is 0, even with itself.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):  # written so that NaN counts as no overlap
        return 0.0
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    if not 0 < union < math.inf:
        return 0.0
    return min(1.0, intersection / union)  # rounding can lift nested boxes of nearly equal area above 1


def quad_from_obb(cx: float, cy: float, width: float, height: float, degrees: float) -> list[float]:
    """The quadrilateral of an oriented box; all in one frame whose axes have the same unit (pixels, not per mille).

    degrees: counted from the x axis towards the y axis, which points down: clockwise as one sees the image, and as
    OpenCV and DOTA's tools count. The corners come as (-w, -h), (w, -h), (w, h), (-w, h) of the unrotated box.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    return [
        value
        for x, y in ((x * width, y * height) for x, y in corners)
        for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)
    ]


def hull(quad: Sequence[float]) -> list[float]:
    """The smallest axis-aligned box around a quadrilateral."""
    return [min(quad[::2]), min(quad[1::2]), max(quad[::2]), max(quad[1::2])]


def quad_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two quadrilaterals of the same frame, in [0, 1]; concave ones are allowed.

    One that is no simple polygon (its edges cross, its corners fall together or lie on a line) has no area: 0.
    """
    import shapely

    if not all(map(math.isfinite, (*a, *b))):
        return 0.0
    first, second = (shapely.Polygon(list(zip(quad[::2], quad[1::2], strict=True))) for quad in (a, b))
    if not (first.is_valid and second.is_valid):
        return 0.0
    intersection = first.intersection(second).area
    union = first.area + second.area - intersection
    return min(1.0, intersection / union) if 0 < union < math.inf else 0.0


def match_ious(
    predicted: Sequence[Sequence[float]],
    truth: Sequence[Sequence[float]],
    overlap: Callable[[Sequence[float], Sequence[float]], float] = iou,
) -> list[float]:
    """IoUs of the one-to-one matching with the greatest IoU sum: min(len(predicted), len(truth)) numbers.

    overlap: `iou` of boxes, or `quad_iou`.

    Ordered by the index of the prediction; boxes left over on either side have no entry.
    """
    if not predicted or not truth:
        return []
    if len(predicted) == len(truth) == 1:
        return [overlap(predicted[0], truth[0])]
    from scipy.optimize import linear_sum_assignment

    table = [[overlap(p, t) for t in truth] for p in predicted]  # (P, T)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return [table[row][column] for row, column in zip(rows, columns, strict=True)]
