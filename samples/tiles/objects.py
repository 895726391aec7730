"""Which objects a tile has, and its label file, in mmrotate's form (tools/data/dota/split/img_split.py at 96de045):

    12 40 60 40 60 70 12 70 small-vehicle 0

A tile has an object of which at least the share `kept` lies inside (of its area; "iof" there). Its corners stay where
they are, also outside of the tile; one that the tile's edge cuts has 2 for "difficult". All quadrilaterals of a tile go
clockwise as seen, beginning at the highest corner, whichever way the annotation went: a model that learns corners as
text cannot follow two directions (RSCoVLM's rows mix them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samples.tiles.names import Tile
from vlm.boxes import ordered

PLAIN, DIFFICULT, CUT = 0, 1, 2
"""The last number of a line."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One object of a scene or tile."""

    quad: list[float]
    "x1, y1, …, x4, y4 in pixels."
    label: str
    "In words."
    difficult: int = PLAIN

    @property
    def line(self) -> str:
        numbers = " ".join(_number(value) for value in self.quad)
        return f"{numbers} {written(self.label)} {self.difficult}"


class Scattered:
    """The objects of a scene, to be asked for by tile."""

    def __init__(self, objects: Sequence[Labelled]):
        import shapely

        self.objects = list(objects)
        points = np.array([one.quad for one in objects], dtype=float).reshape(-1, 4, 2)  # (N, 4, 2)
        self.low, self.high = points.min(axis=1), points.max(axis=1)  # (N, 2) each
        self.shapes = shapely.polygons(points)
        self.areas = shapely.area(self.shapes)

    def shares(self, area: Sequence[float]) -> np.ndarray:
        """(N,): the share of each object inside x1, y1, x2, y2 of the scene; exactly 1 of one that is all inside."""
        import shapely

        low, high = np.asarray(area[:2], dtype=float), np.asarray(area[2:], dtype=float)
        inside = np.all((self.low >= low) & (self.high <= high), axis=1)
        found = inside.astype(float)
        edge = np.all((self.low < high) & (self.high > low), axis=1) & ~inside
        parts = shapely.area(shapely.intersection(self.shapes[edge], shapely.box(*area)))
        found[edge] = np.minimum(parts / self.areas[edge], np.nextafter(1, 0))
        return found

    def of(self, tile: Tile, size: Sequence[float], kept: float) -> dict[int, Labelled]:
        """The objects of a tile of (width, height), in its pixels, by their number in the scene."""
        shares = self.shares(tile.area(size))
        return {
            int(n): Labelled(
                ordered(tile.into(self.objects[n].quad)),
                self.objects[n].label,
                self.objects[n].difficult if shares[n] == 1 else CUT,
            )
            for n in np.flatnonzero((shares >= kept) & (shares > 0))
        }


def written(label: str) -> str:
    """A class as DOTA's files spell it: small-vehicle."""
    return "-".join(label.split())


def _number(value: float) -> str:
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
