"""Shapes in the plane: axis-aligned boxes, quadrilaterals, and oriented boxes, which are a way to write the latter.

A box is ``[x1, y1, x2, y2]``; a quadrilateral is ``[x1, y1, …, x4, y4]``, its corners in order around it; an oriented
box is ``[cx, cy, width, height, degrees]``. y points down. Oriented boxes live in frames whose axes share one unit
(pixels of an image), never in per mille or percent of one that is not square. Overlaps: `vlm.boxes.overlaps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations


def corners(box: Sequence[float]) -> list[float]:
    """The box as a quadrilateral, clockwise as seen from its left upper corner."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def hull(quad: Sequence[float]) -> list[float]:
    """The smallest axis-aligned box around a quadrilateral."""
    return [min(quad[::2]), min(quad[1::2]), max(quad[::2]), max(quad[1::2])]


def clip(box: Sequence[float], size: Sequence[float]) -> list[float]:
    """The part of a box inside an image of (width, height); without area where there is none."""
    width, height = size
    x1, y1, x2, y2 = box
    return [
        min(max(x1, 0.0), width),
        min(max(y1, 0.0), height),
        min(max(x2, 0.0), width),
        min(max(y2, 0.0), height),
    ]


def contained(box: Sequence[float], other: Sequence[float]) -> float:
    """Share of a box's area that lies in the other one; of a box without area 0."""
    x1, y1, x2, y2 = box
    inside = max(0.0, min(x2, other[2]) - max(x1, other[0])) * max(0.0, min(y2, other[3]) - max(y1, other[1]))
    return inside / ((x2 - x1) * (y2 - y1)) if inside else 0.0


def quad_from_obb(cx: float, cy: float, width: float, height: float, degrees: float) -> list[float]:
    """The quadrilateral of an oriented box; all in one frame whose axes have the same unit (pixels, not per mille).

    degrees: counted from the x axis towards the y axis, which points down: clockwise as one sees the image, and as
    OpenCV and DOTA's tools count. The corners come as (-w, -h), (w, -h), (w, h), (-w, h) of the unrotated box.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ends = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    return [
        value
        for x, y in ((x * width, y * height) for x, y in ends)
        for value in (cx + x * cos - y * sin, cy + x * sin + y * cos)
    ]


def obb_from_quad(quad: Sequence[float]) -> list[float]:
    """[cx, cy, width, height, degrees] of the rectangle of least area around a quadrilateral.

    width ≥ height and -90 ≤ degrees < 90 ("le90", as in RSCoVLM and MMRotate); of a line or point the rectangle has no
    height. Angles as in `quad_from_obb`. Raises ValueError where a corner is not finite.

    The least rectangle has a side along the convex hull (Freeman and Shapira 1975, Communications of the ACM 18), so
    along the line through two of the corners. Shapely's oriented_envelope says the same, but gives no rectangle for
    lines and fails on slivers (GEOS 3.14: division by zero).
    """
    if not all(map(math.isfinite, quad)):
        raise ValueError(f"a quadrilateral needs finite corners; found {list(quad)}")
    points = list(zip(quad[::2], quad[1::2], strict=True))
    directions = {
        math.atan2(by - ay, bx - ax) for (ax, ay), (bx, by) in combinations(points, 2) if (ax, ay) != (bx, by)
    }
    return min(
        (_rectangle(points, angle) for angle in sorted(directions) or [0.0]), key=lambda found: found[2] * found[3]
    )


def _rectangle(points: Sequence[tuple[float, float]], angle: float) -> list[float]:
    """The oriented box around points with a side in the direction of ``angle`` (radians), as `obb_from_quad` has it."""
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = [x * cos + y * sin for x, y in points], [y * cos - x * sin for x, y in points]
    u, v = (min(along) + max(along)) / 2, (min(across) + max(across)) / 2
    width, height, degrees = max(along) - min(along), max(across) - min(across), math.degrees(angle)
    if width < height:
        width, height, degrees = height, width, degrees + 90
    return [u * cos - v * sin, u * sin + v * cos, width, height, (degrees + 90) % 180 - 90]


def ordered(quad: Sequence[float]) -> list[float]:
    """The same quadrilateral, clockwise as seen and beginning at its highest corner (the left one of two)."""
    points = list(zip(quad[::2], quad[1::2], strict=True))
    twice = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True))
    if twice < 0:  # y points down, so a positive area is clockwise as seen
        points.reverse()
    start = min(range(4), key=lambda place: (points[place][1], points[place][0]))
    return [value for point in [*points[start:], *points[:start]] for value in point]
