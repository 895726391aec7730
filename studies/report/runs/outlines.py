"""Masks as paths that a page draws: along the borders of pixels, holes included.

A path is SVG's (`M2 1H5V4H2Z…`), in cells of a grid that covers the picture; filled by the rule evenodd it is the
mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlm.common.errors import DataError, RecipeError
from vlm.masks import Runs, check_runs, read_mask
from vlm.pictures.overlaid import scaled

SIDE = 192
"""Most cells of a side: a picture has about 230 pixels across on the page."""
CORNERS = 4000
"""Most corners of a path; a mask with more is drawn on a coarser grid."""


class Outline(NamedTuple):
    """A mask on a page."""

    size: tuple[int, int]
    "(width, height) of the grid."
    path: str


def outlined(mask: Runs) -> Outline:
    """A mask's outline. Raises: DataError for what is no run lengths."""
    height, width = check_runs(mask)
    side = min(SIDE, max(width, height))
    while True:
        size = (max(1, round(width * side / max(width, height))), max(1, round(height * side / max(width, height))))
        rings = _rings(scaled(mask, size))
        if sum(map(len, rings)) <= CORNERS or side <= 8:
            return Outline(size, "".join(map(_path, rings)))
        side //= 2


def stated(text: str | None, form: str, size: Any, resized: Any, name: str | None) -> Outline | None:
    """What an answer states; None where it states no mask, or its image's size is not known."""
    if not text or not size:
        return None
    try:
        said = read_mask(text, form, size, resized, name)
    except (DataError, RecipeError):  # cells of a picture whose size the row does not tell; a form of another version
        return None
    return outlined(said.runs()) if said.readable else None


def _rings(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed ways along the borders of a mask (h, w), by their corners (x, y); each border is gone along once."""
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # the mask lies to the right of the way
    for step, other, start, end in (
        ((-1, 0), 0, (0, 0), (1, 0)),  # upper sides, to the right
        ((0, 1), 1, (1, 0), (1, 1)),  # right sides, down
        ((1, 0), 0, (1, 1), (0, 1)),  # lower sides, to the left
        ((0, -1), 1, (0, 1), (0, 0)),  # left sides, up
    ):
        sign = step[other] if other else step[0]
        beside = np.roll(padded, -sign, axis=other)[1:-1, 1:-1]
        for y, x in np.argwhere(mask & ~beside).tolist():
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    rings = []
    while following:
        first = at = next(iter(following))
        way = []
        while True:
            way.append(at)
            ends = following[at]
            at = ends.pop()
            if not ends:
                del following[way[-1]]
            if at == first:
                break
        rings.append([b for a, b, c in zip([way[-1], *way], way, [*way[1:], way[0]], strict=False) if _turns(a, b, c)])
    return rings


def _turns(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) != (b[1] - a[1]) * (c[0] - b[0])


def _path(ring: list[tuple[int, int]]) -> str:
    (x, y), *rest = ring
    steps = []
    for to in rest:
        steps.append(f"H{to[0]}" if to[1] == y else f"V{to[1]}")
        x, y = to
    return f"M{ring[0][0]} {ring[0][1]}{''.join(steps)}Z"
