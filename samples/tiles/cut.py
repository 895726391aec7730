"""Scenes → a folder of tiles in mmrotate's layout, which the format `dota` reads:

    TILES/images/P0706__1__412___824.png
    TILES/annfiles/P0706__1__412___824.txt     the objects of the tile; empty without any, or without annotation
    TILES/cut.json, scenes.jsonl               how it was cut (`samples.tiles.manifest`)

Rows of tiles are read at a time (`vlm.pictures.images.window`), at most STRIP pixels, so that memory stays flat and a
file that can only be read from its beginning is not decoded anew for each tile. Every file appears whole or not at all,
and a scene is noted when all of its tiles are there: a run that was stopped goes on by the same command.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from samples.tiles import manifest
from samples.tiles.cutting import Cutting
from samples.tiles.manifest import IMAGES, LABELS, Done
from samples.tiles.names import Tile
from samples.tiles.objects import CUT, Labelled, Scattered
from samples.tiles.scenes import Scene
from samples.tiles.windows import scaled, windows
from vlm.common.errors import DataError
from vlm.common.files import replace, replacing
from vlm.pictures import images

logger = logging.getLogger(__name__)
STRIP = 2**25
"""Pixels of a scene that are decoded at a time."""
LEVEL = 2
"""Of PNG's compression: four times as quick as Pillow's own 6, for files an eighth larger (measured on 512 pixels)."""
MARGIN = 3
"""Pixels of the result around a tile of a scaled scene that resizing looks at: the bicubic filter reaches two."""


@dataclass
class Counts:
    """What was cut."""

    scenes: int = 0
    earlier: int = 0
    "Of the scenes, those whose tiles were there."
    tiles: int = 0
    left_out: int = 0
    "Tiles without objects, where these are not kept."
    objects: int = 0
    "Objects of the scenes."
    kept: int = 0
    "Objects in tiles: one that lies in two counts twice."
    cut: int = 0
    "Of these, the ones that a tile's edge cuts."
    away: int = 0
    "Objects of scenes that no tile has."
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, scene: Scene, done: Done) -> None:
        self.scenes += 1
        self.tiles += len(done.tiles)
        self.left_out += done.left_out
        self.objects += len(scene.objects or ())
        self.kept, self.cut, self.away = self.kept + done.kept, self.cut + done.cut, self.away + len(done.away)
        self.classes.update(one.label for one in scene.objects or ())

    def __str__(self) -> str:
        said = f"{self.scenes} scenes ({self.earlier} cut before), {self.tiles} tiles"
        if self.left_out:
            said += f" ({self.left_out} without objects left out)"
        if self.objects:
            said += (
                f"; {self.objects} objects, {self.kept} times in a tile, {self.cut} of these cut by its edge "
                f"(difficult = {CUT}), {self.away} in no tile"
            )
        return said


def cut(
    scenes: Iterable[Scene],
    folder: Path,
    cutting: Cutting,
    source: str,
    annotated: bool,
    workers: int = 1,
    tell: Callable[[Counts], None] | None = None,
) -> Counts:
    """Cut the scenes into a folder, or what is missing there.

    source: names where they come from. annotated: whether they have objects. workers: threads that write tiles. tell:
    is told the counts after each scene.
    Raises: UserError where the folder was cut otherwise, DataError for a picture that cannot be read.
    """
    there, counts = manifest.begin(folder, cutting, source, annotated), Counts()
    for name in (IMAGES, LABELS):
        (folder / name).mkdir(exist_ok=True)
    seen = set()
    with ThreadPoolExecutor(workers) as pool:
        for scene in scenes:
            seen.add(scene.name)
            if manifest.known(there, scene):
                done = there.done[scene.name]
                counts.earlier += 1
            else:
                done = _scene(scene, folder, cutting, pool, 4 * workers)
                manifest.append(folder, done)
            counts.add(scene, done)
            if tell is not None:
                tell(counts)
    if gone := sorted(there.done.keys() - seen):
        named = f"{gone[0]} and {len(gone) - 1} more scenes" if gone[1:] else gone[0]
        raise DataError(f"{folder}: has tiles of {named}, which {source} no longer has; {manifest.AGAIN}")
    return counts


def planned(scene: Scene, cutting: Cutting) -> tuple[list[tuple[Tile, list[Labelled]]], Done]:
    """The tiles of a scene that are kept, with their objects, and what is noted of them."""
    scattered = Scattered(scene.objects or [])
    tiles = windows(scene.name, scene.size, cutting)
    found = [(tile, scattered.of(tile, (cutting.size, cutting.size), cutting.kept)) for tile in tiles]
    keeps = cutting.empty or scene.objects is None
    chosen = [(tile, list(inside.values())) for tile, inside in found if inside or keeps]
    there = [one for _, inside in chosen for one in inside]
    done = Done(
        scene.name,
        list(scene.size),
        manifest.weight(scene),
        manifest.digest(scene),
        [[tile.rate, tile.x, tile.y] for tile, _ in chosen],
        len(found) - len(chosen),
        len(there),
        sum(one.difficult == CUT for one in there),
        sorted(set(range(len(scattered.objects))).difference(*(inside for _, inside in found))),
        sorted({one.label for one in scene.objects or ()}),
    )
    return chosen, done


def _scene(scene: Scene, folder: Path, cutting: Cutting, pool: ThreadPoolExecutor, ahead: int) -> Done:
    """ahead: how many tiles may wait to be written."""
    chosen, done = planned(scene, cutting)

    def save(tile: Tile, picture: Image.Image) -> None:
        with replacing(folder / IMAGES / f"{tile.name}.png") as file:
            picture.save(file, "PNG", compress_level=LEVEL)

    waiting: deque[Future[None]] = deque()
    for tile, picture in pictures(scene, [tile for tile, _ in chosen], cutting):
        waiting.append(pool.submit(save, tile, picture))
        if len(waiting) > ahead:
            waiting.popleft().result()
    for tile, inside in chosen:
        replace(folder / LABELS / f"{tile.name}.txt", "".join(f"{one.line}\n" for one in inside))
    for one in waiting:
        one.result()
    return done


def pictures(scene: Scene, tiles: Sequence[Tile], cutting: Cutting) -> Iterator[tuple[Tile, Image.Image]]:
    """Each tile with its picture, RGB: what of the scene lies in it, and the padding behind that."""
    for group in _strips(tiles, cutting, scene.size):
        areas = [_seen(tile, cutting, scene.size) for tile in group]
        margin = 0.0 if group[0].rate == 1 else MARGIN / group[0].rate
        x1, y1 = (max(0, math.floor(min(area[n] for area in areas) - margin)) for n in (0, 1))
        x2, y2 = (min(scene.size[n], math.ceil(max(area[n + 2] for area in areas) + margin)) for n in range(2))
        strip = images.window(scene.image, (x1, y1, x2, y2))
        for tile, area in zip(group, areas, strict=True):
            inside = [area[0] - x1, area[1] - y1, area[2] - x1, area[3] - y1]
            yield tile, _padded(_part(strip, inside, tile.rate), cutting)


def _part(strip: Image.Image, area: Sequence[float], rate: float) -> Image.Image:
    if rate == 1:
        return strip.crop((round(area[0]), round(area[1]), round(area[2]), round(area[3])))
    x1, y1, x2, y2 = area
    size = round((x2 - x1) * rate), round((y2 - y1) * rate)
    box = (max(0.0, x1), max(0.0, y1), min(x2, strip.width), min(y2, strip.height))  # rounding may put it outside
    return strip.resize(size, Image.Resampling.BICUBIC, box=box)


def _padded(part: Image.Image, cutting: Cutting) -> Image.Image:
    full = (cutting.size, cutting.size)
    if cutting.padding is None or part.size == full:
        return part
    red, green, blue = cutting.padding
    picture = Image.new("RGB", full, (red, green, blue))
    picture.paste(part, (0, 0))
    return picture


def _seen(tile: Tile, cutting: Cutting, size: Sequence[int]) -> list[float]:
    """x1, y1, x2, y2 in the scene of what a tile shows of it."""
    width, height = scaled(size, tile.rate)
    return tile.area([min(cutting.size, width - tile.x), min(cutting.size, height - tile.y)])


def _strips(tiles: Sequence[Tile], cutting: Cutting, size: Sequence[int]) -> Iterator[list[Tile]]:
    """Tiles of one scale that follow each other, STRIP pixels together or a single one: rows, or parts of a row."""
    group: list[Tile] = []
    around = [0.0, 0.0, 0.0, 0.0]
    for tile in tiles:
        area = _seen(tile, cutting, size)
        low, high = (map(min, around[:2], area[:2]), map(max, around[2:], area[2:]))
        both = [*low, *high]
        fits = (both[2] - both[0]) * (both[3] - both[1]) <= STRIP
        if group and not (fits and tile.rate == group[0].rate):
            yield group
            group = []
        around = both if group else area
        group.append(tile)
    if group:
        yield group
