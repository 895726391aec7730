"""Scenes to be cut: what a reader of detection gives, or pictures alone.

DOTA/train/{images,labelTxt}   with objects: any format whose rows are of the task `detection` (`samples.readers`)
DOTA/test/images               pictures alone; a folder of pictures, or one that has such a folder `images`
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samples.readers.rows import SUFFIXES
from samples.reading import Faults, read
from samples.sample import Sample
from samples.tiles.objects import DIFFICULT, PLAIN, Labelled
from vlm.boxes import corners
from vlm.common.errors import DataError
from vlm.pictures import images, rasters
from vlm.sections import RasterSection

OnFault = Literal["error", "skip"]
PICTURES = "pictures"
"""Instead of a format: pictures without objects."""
NOTES = (".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".parquet")
"""Endings of files that may hold annotations."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture to be cut."""

    name: str
    "Its file's, without the suffix."
    image: str
    "Path, perhaps with how a raster is read (`vlm.pictures.rasters`)."
    size: tuple[int, int]
    "(width, height) in pixels."
    objects: list[Labelled] | None
    "None where there is no annotation."


def scenes(
    path: str | os.PathLike[str],
    format: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    raster: RasterSection | None = None,
    faults: Faults | None = None,
    on_fault: OnFault = "error",
) -> Iterator[Scene]:
    """The scenes of a folder or file, each name once.

    format: of the annotations, PICTURES for none; None: told from what is there. folder: where pictures lie, if the
    format does not say. classes: objects of others are left out, and counted in `faults`. on_fault: as
    `samples.read` takes it.
    Raises: DataError for what cannot be read, for two scenes of one name, and where there is no scene.
    """
    seen: dict[str, str] = {}
    found: Iterator[Scene]
    if annotated(path, format):
        rows = read(path, format, folder, on_fault=on_fault, faults=faults, raster=raster, classes=classes)
        found = (_scene(sample, path) for sample in rows)
    else:
        found = _plain(path, folder, raster)
    for scene in found:
        if scene.name in seen:
            raise DataError(
                f"{path}: two scenes are called {scene.name}: {seen[scene.name]} and {images.describe(scene.image)}; "
                "tiles are named after their scene, so cut them into different folders"
            )
        seen[scene.name] = str(images.describe(scene.image))
        yield scene
    _say_unread(seen, faults)
    if not seen:
        raise DataError(f"{path}: found no picture to cut, expected files with one of {', '.join(SUFFIXES)}")


def _say_unread(seen: dict[str, str], faults: Faults | None) -> None:
    """Say which pictures lie beside those that were read, and have no annotation: no submission would have them."""
    folders = {Path(place).parent for place in seen.values() if Path(place).is_file()}
    beside = {file.stem: file for folder in sorted(folders) for file in pictures(folder)}
    if faults is not None and (left := [file for name, file in beside.items() if name not in seen]):
        faults.note(
            logging.WARNING,
            f"{left[0].parent}: {len(left)} pictures have no annotation and are not cut, such as {left[0].name}",
        )


def annotated(path: str | os.PathLike[str], format: str | None = None) -> bool:
    """Whether the scenes there are read with their objects. Raises: DataError where nothing is there."""
    if format is not None:
        return format != PICTURES
    if not Path(path).exists():
        raise DataError(
            f"{path}: no such file or folder; expected scenes: a folder as DOTA's, with images and labelTxt"
        )
    return not Path(path).is_dir() or not _pictures_alone(Path(path))


def pictures(folder: Path) -> list[Path]:
    """Files of a folder that have a picture's suffix, by name. Raises: DataError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    return [folder / name for name in names if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]


def _pictures_alone(folder: Path) -> bool:
    """Whether there is a folder of pictures and nothing else that could annotate them."""
    there = folder / "images" if (folder / "images").is_dir() else folder
    others = [entry for entry in folder.iterdir() if entry != there and not entry.name.startswith(".")]
    return bool(pictures(there)) and not any(entry.is_dir() or entry.suffix.lower() in NOTES for entry in others)


def _plain(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None, raster: RasterSection | None
) -> Iterator[Scene]:
    place = Path(path if folder is None else folder)
    for file in pictures(place / "images" if (place / "images").is_dir() else place):
        image = rasters.named(str(file.absolute()), raster)
        assert isinstance(image, str)
        yield Scene(file.stem, image, images.size(image), None)


def _scene(sample: Sample, path: str | os.PathLike[str]) -> Scene:
    if sample.task != "detection" or sample.labels is None:
        raise DataError(
            f"{path}, row {sample.id}: is of the task {sample.task}, expected detection: all objects of a picture, "
            f"with their classes; name the format, or {PICTURES} for pictures without objects"
        )
    (image,) = sample.images
    if isinstance(image, bytes):
        raise DataError(
            f"{path}, row {sample.id}: its picture is no file, and tiles are named after their scene's file"
        )
    assert sample.size is not None  # the header was read
    shapes = sample.quads if sample.quads is not None else [corners(box) for box in sample.boxes or []]
    difficult = sample.difficult or [False] * len(shapes)
    objects = [
        Labelled(quad, label, DIFFICULT if hard else PLAIN)
        for quad, label, hard in zip(shapes, sample.labels, difficult, strict=True)
    ]
    return Scene(Path(str(rasters.plain(image))).stem, image, sample.size, objects)
