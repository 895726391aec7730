"""Which tiles a scene has: open-mmlab/mmrotate, tools/data/dota/split/img_split.py at 96de045, `get_sliding_window`.

Tiles begin every `size - gap` pixels; the last of a row or column is moved back so that it ends with the scene. A scene
that is smaller than a tile has one, which is padded. A tile of which no more than `filled` lies in the scene is left
out; where that would leave none at any scale, those within LIKE of the fullest stay.

One departure: mmrotate changes the window's size by a rate and leaves the picture as it is; here the scene is scaled,
as by the DOTA devkit, so that all tiles have one size and a rate shows objects at another size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from samples.tiles.cutting import Cutting
from samples.tiles.names import Tile

LIKE = 0.01
"""Difference of two tiles' shares below which both are the fullest."""


def windows(scene: str, size: Sequence[int], cutting: Cutting) -> list[Tile]:
    """The tiles of a scene of (width, height), scale by scale, row by row."""
    found: list[tuple[float, Tile]] = []
    for rate in cutting.rates:
        width, height = scaled(size, rate)
        for y in starts(height, cutting):
            tall = min(cutting.size, height - y)
            for x in starts(width, cutting):
                share = tall * min(cutting.size, width - x) / cutting.size**2
                found.append((share, Tile(scene, rate, x, y)))
    enough = [tile for share, tile in found if share > cutting.filled]
    most = max(share for share, _ in found)
    return enough or [tile for share, tile in found if share > most - LIKE]


def scaled(size: Sequence[int], rate: float) -> tuple[int, int]:
    """Whole pixels of a scaled scene; the part of a pixel that is left at its right and lower edge is not shown."""
    width, height = (max(1, math.floor(side * rate + 1e-9)) for side in size)
    return width, height


def starts(side: int, cutting: Cutting) -> list[int]:
    """Where tiles begin along a side, in pixels."""
    if side <= cutting.size:
        return [0]
    count = math.ceil((side - cutting.size) / cutting.step) + 1
    return [min(number * cutting.step, side - cutting.size) for number in range(count)]
