"""Overlaps of quadrilaterals by Sutherland and Hodgman's clipping (1974), many pairs at once; no geometry library."""

from __future__ import annotations

import numpy as np


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def areas(points: np.ndarray) -> np.ndarray:
    """Absolute areas of polygons (N, K, 2) by the shoelace formula, counted from the first corner for precision."""
    spokes = points - points[:, :1]
    return np.abs(cross(spokes, np.roll(spokes, -1, axis=1)).sum(axis=1)) / 2


def clipped(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The parts of polygons (N, K, 2) to the left of the lines start → end (N, 2): (N, K + 1, 2), the last valid
    corner repeated to fill up, zeros where nothing is left."""
    side = cross((end - start)[:, None], points - start[:, None])  # (N, K)
    following, its_side = np.roll(points, -1, axis=1), np.roll(side, -1, axis=1)
    inside, crossing = side >= 0, (side >= 0) != (its_side >= 0)
    share = np.divide(side, side - its_side, out=np.zeros_like(side), where=crossing)
    met = points + share[..., None] * (following - points)
    count, corners = points.shape[:2]
    found = np.stack([points, met], axis=2).reshape(count, 2 * corners, 2)
    kept = np.stack([inside, crossing], axis=2).reshape(count, 2 * corners)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : corners + 1]
    total = kept.sum(axis=1)
    place = np.minimum(np.arange(corners + 1), np.maximum(total - 1, 0)[:, None])
    order = np.take_along_axis(order, place, axis=1)
    out = np.take_along_axis(found, order[..., None], axis=1)
    return np.where((total > 0)[:, None, None], out, 0.0)


def triangles(quads: np.ndarray) -> np.ndarray:
    """Simple quadrilaterals (N, 4, 2), convex or not, as two triangles each (N, 2, 3, 2), counter-clockwise: cut from
    the reflex corner where there is one."""
    turns = cross(quads - np.roll(quads, 1, axis=1), np.roll(quads, -1, axis=1) - quads)  # (N, 4), at each corner
    reflex = turns * np.sign(turns.sum(axis=1, keepdims=True)) < 0
    first = (np.argmax(reflex, axis=1)[:, None] + np.arange(4)) % 4
    turned = np.take_along_axis(quads, first[..., None], axis=1)
    found = np.stack([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]], axis=1)
    backwards = cross(found[:, :, 1] - found[:, :, 0], found[:, :, 2] - found[:, :, 0]) < 0
    return np.where(backwards[..., None, None], found[:, :, ::-1], found)


def ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU pair by pair of simple quadrilaterals (N, 4, 2); 0 where the union has no area."""
    shared = np.zeros(len(a))
    for one in np.moveaxis(triangles(a), 1, 0):
        for other in np.moveaxis(triangles(b), 1, 0):
            points = one
            for side in range(3):
                points = clipped(points, other[:, side], other[:, (side + 1) % 3])
            shared += areas(points)
    union = areas(a) + areas(b) - shared
    return np.divide(shared, union, out=np.zeros(len(a)), where=union > 0)
