"""Answers about tiles → objects in pixels of their scene.

The tile's name says where it lies (`samples.tiles.names`). All objects are equally sure of themselves, for the text
states no score. So that suppression does not depend on chance, they are ordered, first what is likelier to be whole:

    1. the distance of the object's box to the nearest edge of its tile that is no edge of the scene, larger first: what
       a seam cuts reaches it, and what lies in the tile's middle was seen with all around it
    2. the tile's place (scale, y, x), then the place in the answer
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.predictions import Prediction
from evals.scoring.reading import Reading
from samples.tiles.names import Tile, parse
from vlm.boxes import hull, ordered
from vlm.common.errors import DataError
from vlm.pictures import rasters

Rank = tuple[float, float, int, int, int]


@dataclass(frozen=True, slots=True)
class Placed:
    """One object in its scene."""

    scene: str
    label: str
    "In words; one of the classes that were asked for."
    quad: list[float]
    "x1, y1, …, x4, y4 in pixels of the scene, clockwise as seen."
    tile: str
    rank: Rank
    "Smaller goes before larger."


@dataclass
class Shifted:
    """What the answers of all tiles state."""

    objects: list[Placed] = field(default_factory=list)
    scenes: int = 0
    tiles: int = 0
    unreadable: int = 0
    "Answers that state neither objects nor that there are none."
    missed: int = 0
    "Objects that are no proper shape."
    unnamed: Counter[str] = field(default_factory=Counter)
    "Objects whose label is none of the classes that were asked for."
    repairs: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    "Tiles that a server refused to answer about."
    classes: set[str] = field(default_factory=set)


def tile_of(prediction: Prediction, where: object) -> Tile:
    """By the name of the question, or of its picture. Raises: DataError where neither is a tile's."""
    names = [prediction.id]
    if prediction.image is not None:
        names.append(Path(str(rasters.plain(prediction.image))).stem)
    for name in names:
        if (tile := parse(name)) is not None:
            return tile
    raise DataError(
        f"{where}, question {prediction.key}: found {' and '.join(map(repr, names))}, expected the name of a tile, "
        "SCENE__RATE__X___Y (P0706__1__412___824), as launch/detect.py cut gives it"
    )


def shift(
    rows: Iterable[Prediction],
    reading: Reading,
    where: object,
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> Shifted:
    """All objects of these answers.

    where: names the rows in messages. sizes: scene → (width, height); of others it is where their last tiles end.
    Raises: DataError for a row that is no answer about a tile, or one whose tile was answered before.
    """
    rows = list(rows)
    tiles = [_checked(row, where) for row in rows]
    # mmrotate's tiles of one place may have two sizes
    asked = Counter((tile.name, row.size) for tile, row in zip(tiles, rows, strict=True))
    if len(asked) < len(tiles):
        twice = asked.most_common(1)[0][0][0]
        raise DataError(f"{where}: the tile {twice} was asked twice, expected each once: two folders of tiles, perhaps")
    ends = dict(sizes or {})
    for tile, row in zip(tiles, rows, strict=True):
        if sizes is None or tile.scene not in sizes:
            assert row.size is not None
            _, _, right, lower = tile.area(row.size)
            x, y = ends.get(tile.scene, (0, 0))
            ends[tile.scene] = (max(x, math.ceil(right)), max(y, math.ceil(lower)))
    found = Shifted(tiles=len(tiles), scenes=len({tile.scene for tile in tiles}))
    for tile, row in zip(tiles, rows, strict=True):
        _read(tile, row, reading, ends[tile.scene], found)
    return found


def _checked(row: Prediction, where: object) -> Tile:
    if row.task != "detection":
        raise DataError(f"{where}, question {row.key}: is of the task {row.task}, expected detection")
    if row.size is None or not row.classes:
        raise DataError(f"{where}, question {row.key}: has no {'size' if row.size is None else 'classes'}, expected it")
    return tile_of(row, where)


def _read(tile: Tile, row: Prediction, reading: Reading, end: Sequence[int], found: Shifted) -> None:
    assert row.size is not None and row.classes
    said = reading.detections(row)
    found.classes.update(row.classes)
    found.unreadable += not said.readable
    found.missed += said.missed
    found.repairs.update(said.repairs)
    found.refused += row.refused is not None
    area = tile.area(row.size)
    for number, one in enumerate(said.objects):
        if one.label not in row.classes:
            found.unnamed[str(one.label)] += 1
            continue
        quad = ordered(tile.out(one.quad))
        rank = (-from_seam(hull(quad), area, end, 1 / tile.rate), tile.rate, tile.y, tile.x, number)
        found.objects.append(Placed(tile.scene, one.label, quad, tile.name, rank))


def from_seam(box: Sequence[float], area: Sequence[float], end: Sequence[float], pixel: float = 1.0) -> float:
    """Distance of a box from the nearest edge of its tile's area inside the scene, below 0 beyond it; infinite where
    the tile has no such edge.

    end: (width, height) of the scene. pixel: of the tile, less than which is left at a scaled scene's end. All are in
    pixels of the scene.
    """
    distances = [math.inf]
    for n in range(2):
        if area[n] > 0:
            distances.append(box[n] - area[n])
        if area[n + 2] + pixel <= end[n]:
            distances.append(area[n + 2] - box[n + 2])
    return min(distances)
