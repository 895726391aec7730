"""Scene classification as folders: AID, UCMerced, NWPU-RESISC45, METER-ML, WHU-RS19, SIRI-WHU.

    AID/Airport/airport_1.jpg      UCMerced_LandUse/Images/harbor/harbor11.tif      NWPU-RESISC45/ship/ship_125.jpg

A folder is a class. `path` is the folder that holds the classes, or one above it (`Images`; `split` where there are
several, such as `train` and `test`). The answer is the class's name in words: "DenseResidential" and
"dense_residential" become "dense residential". The question lists all of them in the order of the folders: 45 names are
too many for lettered choices. Other files than images are left out (`no_image`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.look import Look, one_of
from samples.readers.records import record
from samples.readers.rows import SUFFIXES, LeftOut, Place, RowFault
from vlm.common.errors import DataError

_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\s-]+")


def words(name: str) -> str:
    """A folder's name as words, in lower case."""
    return " ".join(filter(None, _WORDS.split(name))).lower()


def fits(look: Look) -> bool:
    return look.is_folder and (len(_classes(look.path)) > 1 or any(len(_classes(f)) > 1 for f in _folders(look.path)))


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, image and class), class by class, sorted by name."""
    folder = look.path
    if not look.is_folder:
        raise DataError(f"{folder}: is a file, expected the folder that holds a folder for each class")
    if look.split is not None or len(_classes(folder)) < 2:
        above = [path for path in _folders(folder) if len(_classes(path)) > 1]
        folder = one_of(look, above, "folders of classes")
    classes = _classes(folder)
    names = [words(path.name) for path in classes]
    question = f"Which class of scene does the image show: {', '.join(names)}?"
    for path, name in zip(classes, names, strict=True):
        for file in _names(path):
            where = f"file {path.name}/{file}"
            if not file.lower().endswith(SUFFIXES):
                yield where, LeftOut("no_image", "not an image file")
            else:
                yield where, {"image": os.path.join(path, file), "class": name, "question": question}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.find(os.path.abspath(row["image"]))
    return record(
        image, row["question"], task or "classification", row["class"], id=os.path.splitext(os.path.basename(image))[0]
    )


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def _classes(folder: Path) -> list[Path]:
    """Subfolders that hold images; none where one is called "images", as beside annotations."""
    found = [path for path in _folders(folder) if any(name.lower().endswith(SUFFIXES) for name in _names(path))]
    return [] if any("image" in path.name.lower() for path in found) else found
