"""What each class looks like from above, as polygons in its own frame, and the exact box of what is drawn.

Own frame: u along the thing in half lengths, v across it in half widths, so a thing fills u, v in [-1, 1]. Each part is
(points, shade) with shade "fill" (the thing's colour) or "dark" (a darker tone of it). A tank is a circle.
"""

from __future__ import annotations

import math

Points = list[tuple[float, float]]


def _bar(u1: float, v1: float, u2: float, v2: float) -> Points:
    return [(u1, v1), (u2, v1), (u2, v2), (u1, v2)]


PARTS: dict[str, list[tuple[Points, str]]] = {
    "ship": [
        ([(1, 0), (0.45, 1), (-1, 1), (-1, -1), (0.45, -1)], "fill"),
        (_bar(-0.6, -0.5, 0.0, 0.5), "dark"),
    ],
    "plane": [
        (_bar(-1, -0.13, 1, 0.13), "fill"),
        (_bar(0.0, -1, 0.28, 1), "fill"),
        (_bar(-1, -0.42, -0.76, 0.42), "fill"),
    ],
    "court": [
        (_bar(-1, -1, 1, 1), "fill"),
        (_bar(-0.03, -1, 0.03, 1), "dark"),
        (_bar(-0.8, 0.62, 0.8, 0.74), "dark"),
        (_bar(-0.8, -0.74, 0.8, -0.62), "dark"),
    ],
    "truck": [(_bar(-1, -1, 0.5, 1), "fill"), (_bar(0.62, -1, 1, 1), "dark")],
    "house": [(_bar(-1, -1, 1, 0), "fill"), (_bar(-1, 0, 1, 1), "dark")],
}

SIZES: dict[str, tuple[tuple[float, float], float]] = {
    "ship": ((58, 96), 0.34),
    "tank": ((38, 70), 1.0),
    "plane": ((52, 90), 0.92),
    "court": ((52, 88), 0.56),
    "truck": ((44, 66), 0.42),
    "house": ((42, 74), 0.80),
}
"""Length range in pixels, and width as a share of length."""

CLASSES = tuple(SIZES)

RGB = {
    "white": (240, 240, 240),
    "black": (16, 16, 16),
    "red": (225, 25, 25),
    "yellow": (240, 220, 20),
    "green": (10, 215, 40),
    "purple": (170, 40, 220),
}
COLORS = tuple(RGB)


def to_pixels(
    points: Points, center: tuple[float, float], length: float, width: float, angle: float
) -> list[tuple[float, float]]:
    """Own frame → pixels; `angle` in radians, turning x towards y."""
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = length / 2, width / 2
    x, y = center
    return [(x + u * a * cos - v * b * sin, y + u * a * sin + v * b * cos) for u, v in points]


def bounds(
    name: str, center: tuple[float, float], length: float, width: float, angle: float
) -> tuple[float, float, float, float]:
    """The axis-aligned box (x1, y1, x2, y2, pixels) of everything that is drawn of the thing."""
    if name == "tank":
        x, y, r = *center, length / 2
        return (x - r, y - r, x + r, y + r)
    corners = [p for points, _ in PARTS[name] for p in to_pixels(points, center, length, width, angle)]
    xs, ys = [p[0] for p in corners], [p[1] for p in corners]
    return (min(xs), min(ys), max(xs), max(ys))
