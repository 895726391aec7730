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
TOGETHER = 2**12
"""Pairs that are clipped at once, in 3 MB."""


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
    return _ious(first, np.asarray(b, dtype=float).reshape(1, -1, 4))


def pair_ious(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], rows: Any, columns: Any) -> Any:
    """`iou` of ``a[rows[n]]`` with ``b[columns[n]]`` for each n: (N,)."""
    import numpy as np

    first, second = (np.asarray(boxes, dtype=float).reshape(-1, 4) for boxes in (a, b))
    return _ious(first[rows], second[columns])


def _ious(first: Any, second: Any) -> Any:
    """(…, 4) and (…, 4), which broadcast → (…)."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
        width, height = np.moveaxis(high - low, -1, 0)
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

    Each shape is built and checked once, and only pairs whose surrounding boxes meet are intersected: convex ones by
    clipping, all at once, which is some 7 times as quick as GEOS.
    """
    import numpy as np

    first, second = (_polygons(np.asarray(quads, dtype=float).reshape(-1, 4, 2)) for quads in (a, b))
    table = np.zeros((len(first[0]), len(second[0])))
    low = np.maximum(first[2][:, None], second[2][None])  # (A, B, 2)
    high = np.minimum(first[3][:, None], second[3][None])
    rows, columns = np.nonzero(np.all(low < high, axis=-1))  # false for the NaN of what is no polygon
    table[rows, columns] = _of_pairs(first, second, rows, columns)
    return table


def pair_quad_ious(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], rows: Any, columns: Any) -> Any:
    """`quad_iou` of ``a[rows[n]]`` with ``b[columns[n]]`` for each n: (N,). For pairs of many pictures at once, where
    a table of all of them would be large and a call for each slow."""
    import numpy as np

    first, second = (_polygons(np.asarray(quads, dtype=float).reshape(-1, 4, 2)) for quads in (a, b))
    low = np.maximum(first[2][rows], second[2][columns])  # (N, 2)
    meet = np.all(low < np.minimum(first[3][rows], second[3][columns]), axis=-1)
    out = np.zeros(len(rows))
    out[meet] = _of_pairs(first, second, rows[meet], columns[meet])
    return out


def _of_pairs(first: tuple[Any, ...], second: tuple[Any, ...], rows: Any, columns: Any) -> Any:
    """IoUs (N,) of pairs whose surrounding boxes meet, by `_polygons`."""
    import numpy as np

    out = np.empty(len(rows))
    for start in range(0, len(rows), TOGETHER):
        part = slice(start, start + TOGETHER)
        row, column = rows[part], columns[part]
        convex = first[4][row] & second[4][column]
        shared = np.empty(len(row))
        shared[convex] = _shared(first[5][row[convex]], second[5][column[convex]])
        shared[~convex] = _shared_by_geos(first[0][row[~convex]], second[0][column[~convex]])
        out[part] = _ratios(shared, first[1][row], second[1][column])
    return out


def _polygons(quads: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Polygons, areas, left upper and right lower corners of quadrilaterals (N, 4, 2); corners are NaN for no polygon.
    Then whether each is convex, and its corners, counter-clockwise where y points up.

    Returns: (N,) objects, (N,), (N, 2), (N, 2), (N,), (N, 4, 2).
    """
    import numpy as np
    import shapely

    finite = np.all(np.abs(quads) < LARGEST, axis=(1, 2))
    polygons = shapely.polygons(np.where(finite[:, None, None], quads, 0.0))
    proper = finite & shapely.is_valid(polygons)
    low = np.where(proper[:, None], quads.min(axis=1), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        turns = _cross(quads - np.roll(quads, 1, axis=1), np.roll(quads, -1, axis=1) - quads)  # (N, 4), at each corner
    convex = np.all(turns > 0, axis=1) | np.all(turns < 0, axis=1)
    turned = np.where((turns < 0).all(axis=1)[:, None, None], quads[:, ::-1], quads)
    return polygons, shapely.area(polygons), low, quads.max(axis=1), convex, turned


def _cross(a: Any, b: Any) -> Any:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _shared(first: Any, second: Any) -> Any:
    """Areas that convex quadrilaterals (N, 4, 2), counter-clockwise, share pair by pair: the first is cut along each
    side of the second (Sutherland and Hodgman 1974)."""
    import numpy as np

    points, second = first - first[:, :1], second - first[:, :1]  # near the origin no digit is lost
    for corner in range(4):
        start, end = second[:, corner, None], second[:, corner - 3, None]
        side = _cross(end - start, points - start)  # (N, K); below 0 is beyond the line
        following = np.roll(side, -1, axis=1)
        crosses = (side < 0) != (following < 0)
        share = np.divide(side, side - following, out=np.zeros_like(side), where=crosses)
        cut = points + share[..., None] * (np.roll(points, -1, axis=1) - points)
        kept = np.stack([side >= 0, crosses], axis=2).reshape(
            len(points), 2 * points.shape[1]
        )  # each corner, then the cut behind it
        # a line cuts off all corners but one, or adds one: the kept come first, the last of them fills up
        count = kept.sum(axis=1)[:, None]
        order = np.argsort(~kept, axis=1, kind="stable")[:, : points.shape[1] + 1]
        place = np.minimum(np.arange(order.shape[1]), np.maximum(count - 1, 0))
        found = np.stack([points, cut], axis=2).reshape(*kept.shape, 2)
        points = np.take_along_axis(found, np.take_along_axis(order, place, axis=1)[..., None], axis=1)
        points = np.where(count[..., None] > 0, points, 0.0)
    spokes = points - points[:, :1]
    return np.abs(_cross(spokes, np.roll(spokes, -1, axis=1)).sum(axis=1)) / 2


def _shared_by_geos(first: Any, second: Any) -> Any:
    import shapely

    return shapely.area(shapely.intersection(first, second))


def _ratios(shared: Any, first_areas: Any, second_areas: Any) -> Any:
    """IoU by areas: (N,) arrays."""
    import numpy as np

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
    if min(len(predicted), len(truth)) == 1:
        return [max(overlap(p, t) for p in predicted for t in truth)]
    from scipy.optimize import linear_sum_assignment

    together, enough = _TOGETHER.get(overlap, (None, 0))
    if together is not None and len(predicted) * len(truth) >= enough:
        table = together(predicted, truth)  # (P, T)
    else:
        table = [[overlap(p, t) for t in truth] for p in predicted]
    rows, columns = linear_sum_assignment(table, maximize=True)
    return [float(table[row][column]) for row, column in zip(rows, columns, strict=True)]
