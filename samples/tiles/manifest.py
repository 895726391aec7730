"""How a folder of tiles was cut:

    cut.json       {"version": 1, "cutting": {…}, "source": "/data/DOTA/train", "annotated": true}
    scenes.jsonl   a line for each scene whose tiles are all there:
                   {"scene": "P0706", "size": [4000, 3000], "bytes": 8123456, "objects": "<digest>", "tiles": [[…], …],
                    "left_out": 0, "kept": 812, "cut": 31, "away": [], "classes": ["plane"]}

A folder is continued by the same cutting of the same scenes. Whatever else is found there is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samples.tiles.cutting import Cutting
from samples.tiles.names import Tile
from samples.tiles.scenes import Scene
from vlm.common.errors import DataError, UserError
from vlm.common.files import replace
from vlm.pictures import rasters

FILE, SCENES, IMAGES, LABELS = "cut.json", "scenes.jsonl", "images", "annfiles"
VERSION = 1
AGAIN = "choose another folder, or delete this one"


@dataclass(frozen=True)
class Done:
    """A scene whose tiles are all there."""

    scene: str
    size: list[int]
    "Width and height in pixels."
    bytes: int
    "Of its file."
    objects: str | None
    "Digest of its objects; None without annotation."
    tiles: list[list[Any]]
    "[rate, x, y] of each tile that was kept."
    left_out: int
    "Tiles without objects that were left out."
    kept: int
    "Objects in tiles, as often as they are in one."
    cut: int
    "Of these, the ones that a tile's edge cuts."
    away: list[int]
    "Numbers, from 0, of the scene's objects that no tile has."
    classes: list[str]
    "Of the scene's objects, in words."

    @property
    def names(self) -> list[str]:
        return [Tile(self.scene, rate, x, y).name for rate, x, y in self.tiles]


@dataclass(frozen=True)
class Manifest:
    """What the folder of tiles says of itself."""

    folder: Path
    cutting: Cutting
    source: str
    annotated: bool
    done: dict[str, Done]

    def tiles(self) -> Iterator[tuple[str, Done]]:
        """(a tile's name, its scene)."""
        for scene in self.done.values():
            for name in scene.names:
                yield name, scene


def read(folder: Path) -> Manifest | None:
    """None where a folder has none. Raises: DataError for one that cannot be read."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise DataError(f"{path}: found version {found['version']!r}, expected {VERSION}; {AGAIN}")
        done = [Done(**json.loads(line)) for line in _whole(folder / SCENES)]
        cutting = Cutting.model_validate(found["cutting"])
        return Manifest(folder, cutting, found["source"], found["annotated"], {one.scene: one for one in done})
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise DataError(f"{path}: found no manifest of tiles ({error}), expected what `cut` wrote; {AGAIN}") from error


def begin(folder: Path, cutting: Cutting, source: str, annotated: bool) -> Manifest:
    """The manifest of a folder that is to be cut so: a new one, or the one that is there.

    Raises: UserError where the folder was cut otherwise, or holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = check(folder, cutting, source, annotated)
    if there is None:
        there = Manifest(folder, cutting, source, annotated, {})
        about = {"cutting": cutting.model_dump(), "source": source, "annotated": annotated}
        replace(folder / FILE, json.dumps({"version": VERSION, **about}, indent=2) + "\n")
    whole = "".join(f"{line}\n" for line in _whole(folder / SCENES))
    if (folder / SCENES).exists() and whole.encode() != (folder / SCENES).read_bytes():
        replace(folder / SCENES, whole)  # a line that broke off
    return there


def check(folder: Path, cutting: Cutting, source: str, annotated: bool) -> Manifest | None:
    """The manifest of a folder, which is fit to be continued; None of a new folder. Raises: UserError as `begin`."""
    there = read(folder) if folder.is_dir() else None
    if there is None:
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        if others:
            raise UserError(f"{folder} holds {sorted(others)[0]} and no {FILE}; expected a new folder, or one of tiles")
        return None
    before, now = there.cutting.model_dump(), cutting.model_dump()
    changes = [f"{name} = {before[name]!r}, now {now[name]!r}" for name in now if before[name] != now[name]]
    if there.source != source:
        changes.append(f"source = {there.source}, now {source}")
    if there.annotated != annotated:
        changes.append(f"{'with' if there.annotated else 'without'} annotations, now the other way")
    if changes:
        raise UserError(f"{folder / FILE}: was cut otherwise ({'; '.join(changes)}); {AGAIN}")
    return there


def append(folder: Path, done: Done) -> None:
    """Note a scene whose tiles are all there."""
    with (folder / SCENES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(done), ensure_ascii=False) + "\n")


def known(there: Manifest, scene: Scene) -> bool:
    """Whether the scene's tiles are there. Raises: UserError where it has changed since."""
    before = there.done.get(scene.name)
    if before is None:
        return False
    changes = []
    if before.size != list(scene.size) or before.bytes != weight(scene):
        changes.append("picture")
    if before.objects != digest(scene):
        changes.append("objects")
    if changes:
        raise UserError(
            f"{there.folder}: the {' and '.join(changes)} of {scene.name} changed since it was cut; {AGAIN}"
        )
    return True


def digest(scene: Scene) -> str | None:
    """Of a scene's objects."""
    if scene.objects is None:
        return None
    return hashlib.sha256("\n".join(one.line for one in scene.objects).encode()).hexdigest()[:16]


def weight(scene: Scene) -> int:
    """Bytes of a scene's file."""
    return os.stat(rasters.plain(scene.image)).st_size


def _whole(path: Path) -> list[str]:
    """Lines that end."""
    if not path.exists():
        return []
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return lines
