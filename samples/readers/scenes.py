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

BEFORE_AFTER = ({"a", "b"}, {"im1", "im2"}, {"t1", "t2"}, {"time1", "time2"}, {"before", "after"}, {"pre", "post"})
CHANGE = frozenset(
    {"label", "labels", "label1", "label2", "mask", "masks", "gt", "out", "change", "list", *set().union(*BEFORE_AFTER)}
)
"""Names of folders of change detection, as LEVIR-CD (A, B, label) and SECOND (im1, im2, label1, label2) have them."""
SPLITS = frozenset(
    {"train", "val", "test", "trainval", "valid", "validation", "dev"}
    | {f"{stem}-{split}" for stem in ("jpegimages", "images") for split in ("train", "val", "test", "trainval")}
)
SHOWN = "Which class of scene does the image show: {}?"
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[_\s-]+")


def words(name: str) -> str:
    """A folder's name as words, in lower case."""
    return " ".join(filter(None, _WORDS.split(name))).lower()


def fits(look: Look) -> bool:
    if not look.is_folder or odd(look) is not None:
        return False
    return len(_classes(look.path)) > 1 or any(len(_classes(f)) > 1 for f in folders_in(look.path))


def odd(look: Look) -> str | None:
    """What a folder's folders of pictures are instead of classes, here or one folder below, and what to do."""
    if not look.is_folder:
        return None
    for folder in (look.path, *folders_in(look.path)):
        names = [path.name for path in _pictured(folder)]
        lower = {name.lower() for name in names}
        found = f"{folder}: found {'/ '.join(names)}/, which looks like"
        if any(pair <= lower for pair in BEFORE_AFTER) and lower <= CHANGE:
            return (
                f"{found} change detection (pictures before and after, masks of what changed), expected a folder for "
                "each class. LEVIR-CD's layout (A/ B/ label/) is read as masks of change; for others, write rows with "
                "two `images` (docs/rows.md)"
            )
        if len(names) > 1 and lower <= SPLITS:
            return (
                f"{found} splits of pictures without classes, expected a folder for each class (SPLIT/CLASS/a.jpg). "
                "Point `path` at the file of annotations, or sort the pictures into classes"
            )
    return None


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, image and class), class by class, sorted by name."""
    folder = look.path
    if not look.is_folder:
        raise DataError(f"{folder}: is a file, expected the folder that holds a folder for each class")
    if (found := odd(look)) is not None:
        raise DataError(found)
    if look.split is not None or len(_classes(folder)) < 2:
        above = [path for path in folders_in(folder) if len(_classes(path)) > 1]
        folder = one_of(look, above, "folders of classes")
    classes = _classes(folder)
    names = [words(path.name) for path in classes]
    question = SHOWN.format(", ".join(names))
    for path, name in zip(classes, names, strict=True):
        for file in names_in(path):
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


def folders_in(folder: Path) -> list[Path]:
    """Folders in a folder, by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file())


def _pictured(folder: Path) -> list[Path]:
    """Subfolders that hold images."""
    return [path for path in folders_in(folder) if any(name.lower().endswith(SUFFIXES) for name in names_in(path))]


def _classes(folder: Path) -> list[Path]:
    """Subfolders that hold images; none where one is called "images", as beside annotations."""
    found = _pictured(folder)
    return [] if any("image" in path.name.lower() for path in found) else found
