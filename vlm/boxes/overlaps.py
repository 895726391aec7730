"""How far boxes or quadrilaterals overlap, one pair or all pairs at once, and matching one set with another.

IoU here is plain: areas of the continuous shapes, no "+1" pixel. What has no area (degenerate, inverted, crossing
itself, NaN) overlaps nothing, not even itself. `ious` and `quad_ious` give all pairs of two sets and agree with the
one-pair functions `iou` and `quad_iou`, which are the plain path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = 1e100
"""Coordinates beyond it count as no shape: their areas overflow inside GEOS."""


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


def ious(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Any:
    """`iou` of every box of ``a`` with every box of ``b``: an array (len(a), len(b))."""
    import numpy as np

    first = np.asarray(a, dtype=float).reshape(-1, 1, 4)  # (A, 1, 4)
    second = np.asarray(b, dtype=float).reshape(1, -1, 4)  # (1, B, 4)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
        width, height = np.moveaxis(high - low, -1, 0)  # (A, B) each
        shared = width * height
        areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (first, second)]
        union = areas[0] + areas[1] - shared
        overlapping = (width > 0) & (height > 0) & (union > 0) & (union < np.inf)
        return np.where(overlapping, np.minimum(1.0, shared / union), 0.0)


def quad_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two quadrilaterals of the same frame, in [0, 1]; concave ones are allowed.

    One that is no simple polygon (its edges cross, its corners fall together or lie on a line) has no area: 0.
    """
    import shapely

    if not all(abs(value) < LARGEST for value in (*a, *b)):  # NaN fails this, too
        return 0.0
    first, second = (shapely.Polygon(list(zip(quad[::2], quad[1::2], strict=True))) for quad in (a, b))
    if not (first.is_valid and second.is_valid):
        return 0.0
    intersection = first.intersection(second).area
    union = first.area + second.area - intersection
    return min(1.0, intersection / union) if 0 < union < math.inf else 0.0


def quad_ious(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Any:
    """`quad_iou` of every quadrilateral of ``a`` with every one of ``b``: an array (len(a), len(b)).

    Each shape is built and checked once, and only pairs whose surrounding boxes meet are intersected.
    """
    import numpy as np

    first, second = (_polygons(np.asarray(quads, dtype=float).reshape(-1, 4, 2)) for quads in (a, b))
    table = np.zeros((len(first[0]), len(second[0])))
    low = np.maximum(first[2][:, None], second[2][None])  # (A, B, 2)
    high = np.minimum(first[3][:, None], second[3][None])
    rows, columns = np.nonzero(np.all(low < high, axis=-1))  # false for the NaN of what is no polygon
    table[rows, columns] = _overlaps(first[0][rows], second[0][columns], first[1][rows], second[1][columns])
    return table


def _polygons(quads: Any) -> tuple[Any, Any, Any, Any]:
    """Polygons, areas, left upper and right lower corners of quadrilaterals (N, 4, 2); corners are NaN for no polygon.

    Returns: (N,) objects, (N,), (N, 2), (N, 2).
    """
    import numpy as np
    import shapely

    finite = np.all(np.abs(quads) < LARGEST, axis=(1, 2))
    polygons = shapely.polygons(np.where(finite[:, None, None], quads, 0.0))
    proper = finite & shapely.is_valid(polygons)
    low = np.where(proper[:, None], quads.min(axis=1), np.nan)
    return polygons, shapely.area(polygons), low, quads.max(axis=1)


def _overlaps(first: Any, second: Any, first_areas: Any, second_areas: Any) -> Any:
    """IoU of polygons pair by pair: (N,) arrays."""
    import numpy as np
    import shapely

    shared = shapely.area(shapely.intersection(first, second))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        union = first_areas + second_areas - shared
        return np.where((union > 0) & (union < np.inf), np.minimum(1.0, shared / union), 0.0)


Overlap = Callable[[Sequence[float], Sequence[float]], float]
_TOGETHER: dict[Overlap, tuple[Callable[..., Any], int]] = {iou: (ious, 64), quad_iou: (quad_ious, 4)}
"""All pairs at once, and from how many pairs on that is quicker than one after another (measured on one core)."""


def match_ious(
    predicted: Sequence[Sequence[float]],
    truth: Sequence[Sequence[float]],
    overlap: Overlap = iou,
) -> list[float]:
    """IoUs of the one-to-one matching with the greatest IoU sum: min(len(predicted), len(truth)) numbers.

    overlap: `iou` of boxes, `quad_iou`, or any other of two shapes.

    Ordered by the index of the prediction; shapes left over on either side have no entry.
    """
    if not predicted or not truth:
        return []
    if len(predicted) == len(truth) == 1:
        return [overlap(predicted[0], truth[0])]
    from scipy.optimize import linear_sum_assignment

    together, enough = _TOGETHER.get(overlap, (None, 0))
    if together is not None and len(predicted) * len(truth) >= enough:
        table = together(predicted, truth)  # (P, T)
    else:
        table = [[overlap(p, t) for t in truth] for p in predicted]
    rows, columns = linear_sum_assignment(table, maximize=True)
    return [float(table[row][column]) for row, column in zip(rows, columns, strict=True)]
