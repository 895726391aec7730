"""Million-AID (Long et al. 2021, arXiv 2006.12485): folders of scenes in two or three levels.

Read in microsoft/torchgeo, torchgeo/datasets/millionaid.py at 02ea85b: `train/<level 1>/<class>/*.jpg` and
`train/<level 1>/<level 2>/<class>/*.jpg`, 51 classes. The last folder is the class, whatever stands above it:

    train/water_area/beach/P1.jpg      train/agriculture_land/arable_land/dry_field/P2.jpg

`path` is the folder that holds `train`, or that of level 1. The answer is the class in words ("dry field"); the
question lists all classes, sorted by name; `kind` is level 1. The pictures of `test` have no labels: they are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.look import Look
from samples.readers.records import record
from samples.readers.rows import SUFFIXES, LeftOut, Place, RowFault
from samples.readers.scenes import SHOWN, folders_in, names_in, words
from vlm.common.errors import DataError
from vlm.pictures import rasters

TOP = {
    "agriculture_land", "commercial_land", "industrial_land", "public_service_land", "residential_land",
    "transportation_land", "unutilized_land", "water_area",
}  # fmt: skip
"""Folders of level 1, by which the layout is known."""
TRAIN, TEST = "train", "test"


def fits(look: Look) -> bool:
    return look.is_folder and _top(look.path) is not None


def _top(folder: Path) -> Path | None:
    """The folder that holds those of level 1: this one, or `train` in it."""
    for one in (folder, folder / TRAIN):
        if one.is_dir():
            names = {path.name.lower() for path in folders_in(one)}
            if names and names <= TOP:
                return one
    return None


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, image, class and level 1), class by class."""
    if look.split not in (None, TRAIN):
        found = f"{look.path}: found the split {look.split!r}, expected {TRAIN} (or none)"
        raise DataError(
            f"{found}: the pictures of {TEST} are published without labels" if look.split == TEST else found
        )
    top = _top(look.path)
    if top is None:
        raise DataError(f"{look.path}: expected the folders of Million-AID's level 1, {', '.join(sorted(TOP))}")
    leaves = sorted(_leaves(top, top), key=lambda leaf: (words(leaf.name), str(leaf)))
    names = [words(leaf.name) for leaf in leaves]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        where = ", ".join(str(leaf.relative_to(top)) for leaf in leaves if words(leaf.name) == twice[0])
        raise DataError(f"{top}: found {twice[0]!r} for several folders ({where}), expected each class in one")
    question = SHOWN.format(", ".join(names))
    for leaf, name in zip(leaves, names, strict=True):
        level = leaf.relative_to(top).parts[0]
        for file in names_in(leaf):
            where = f"file {leaf.relative_to(top)}/{file}"
            if not file.lower().endswith(SUFFIXES):
                yield where, LeftOut("no_image", "not an image file")
            else:
                path = os.path.join(leaf, file)
                yield where, {"image": path, "class": name, "question": question, "level": words(level)}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.find(os.path.abspath(row["image"]))
    named = os.path.splitext(os.path.basename(str(rasters.plain(image))))[0]
    more = {"id": f"{row['class']}/{named}", "kind": row["level"]}
    return record(image, row["question"], task or "classification", row["class"], **more)


def _leaves(folder: Path, top: Path) -> Iterator[Path]:
    """Folders below `folder` that have no folders in them. Raises: DataError for pictures beside folders."""
    below = folders_in(folder)
    if below and folder != top and (loose := [name for name in names_in(folder) if name.lower().endswith(SUFFIXES)]):
        raise DataError(
            f"{folder}: found pictures ({loose[0]}) beside folders ({below[0].name}), expected one or the other: the "
            "last folder is the class"
        )
    for one in below:
        if folders_in(one):
            yield from _leaves(one, top)
        elif one.parent == top:
            raise DataError(f"{one}: found no folder of a class in it, expected LEVEL1/[LEVEL2/]CLASS/*.jpg")
        else:
            yield one
