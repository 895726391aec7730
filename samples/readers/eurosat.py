"""EuroSAT (Helber et al. 2019, arXiv 1709.00029): Sentinel-2 scenes of ten classes, in colour or in all 13 bands.

Read in microsoft/torchgeo, torchgeo/datasets/eurosat.py at 720cf5b, and pytorch/vision, torchvision/datasets/eurosat.py
at 167bc57:

    eurosat-train.txt, eurosat-val.txt, eurosat-test.txt     one name a line, "Forest_12.jpg", for both kinds of picture
    ds/images/remote_sensing/otherDatasets/sentinel_2/tif/Forest/Forest_12.tif       13 bands of 16 bits
    2750/Forest/Forest_12.jpg, or EuroSAT_RGB/…, EuroSAT_MS/…, or the classes at once

`path` is the folder of these; `split` is one of the text files, and those are what benchmarks use (Neumann et al. 2019,
arXiv 1911.06721); without `split`, all pictures. Red, green and blue are the bands 4, 3 and 2 (B04, B03, B02), which
the source must say: `raster: {bands: [4, 3, 2], stretch: {range: [0, 3000]}}` shows them as torchgeo plots them.
(Versions of torchgeo differ in where B8A stands, as the ninth band or as the last; of these three none moves.)

The answer is the class in words ("annual crop", "sea lake"); the question lists the ten. A name of a split whose
picture is not there is a fault.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.look import Look
from samples.readers.records import record
from samples.readers.rows import SUFFIXES, LeftOut, Place, RowFault
from samples.readers.scenes import SHOWN, folders_in, names_in, words
from vlm.common.errors import DataError

CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
BELOW = (
    "ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "EuroSAT_MS", "EuroSAT_RGB", "2750", "",
)  # fmt: skip
"""Where the folders of classes lie below `path`."""
SPLITS = ("train", "val", "test")
_NAMED = re.compile(r"(([A-Za-z]+)_[0-9]+)\.(?:jpg|tif)")


def fits(look: Look) -> bool:
    """Folders of classes alone are `samples.readers.scenes`."""
    return look.is_folder and bool(_homes(look.path)) and bool(_listed(look.path) or (look.path / BELOW[0]).is_dir())


def _homes(folder: Path) -> list[Path]:
    """Folders that hold classes of EuroSAT and nothing else."""
    found = []
    for below in BELOW:
        if (home := folder / below).is_dir():
            names = {path.name for path in folders_in(home)}
            if names and names <= set(CLASSES):
                found.append(home)
    return found


def _listed(folder: Path) -> list[str]:
    return [split for split in SPLITS if (folder / f"eurosat-{split}.txt").is_file()]


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, image and class): of the split in its order, else class by class."""
    homes = _homes(look.path)
    if len(homes) != 1:
        names = ", ".join(str(home.relative_to(look.path)) for home in homes) or "none"
        found = f"{look.path}: found folders of EuroSAT's classes: {names}; expected one kind of picture"
        raise DataError(f"{found}, as <class>/<class>_1.tif or .jpg. Keep the other in a folder of its own")
    question = SHOWN.format(", ".join(map(words, CLASSES)))
    for where, path in _split(look, homes[0]) if look.split is not None else _all(homes[0]):
        name = path.parent.name
        if path.suffix.lower() not in SUFFIXES:
            yield where, LeftOut("no_image", "not an image file")
        else:
            yield where, {"image": str(path), "class": words(name), "question": question}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.find(os.path.abspath(row["image"]))
    return record(image, row["question"], task or "classification", row["class"], id=Path(row["image"]).stem)


def _all(home: Path) -> Iterator[tuple[str, Path]]:
    for folder in folders_in(home):
        for name in names_in(folder):
            yield f"file {folder.name}/{name}", folder / name


def _split(look: Look, home: Path) -> Iterator[tuple[str, Path]]:
    """The pictures that a split's text file names, of whichever kind is there."""
    file = look.path / f"eurosat-{look.split}.txt"
    there = ", ".join(_listed(look.path)) or "none"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); splits that are there: {there}") from error
    suffixes = {Path(name).suffix for folder in folders_in(home)[:1] for name in names_in(folder)} & set(SUFFIXES)
    suffix = next(iter(sorted(suffixes)), ".tif")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        named = _NAMED.fullmatch(line.strip())
        if named is None or named[2] not in CLASSES:
            raise DataError(f"{file}, line {number}: found {line!r}, expected the name of a picture, 'Forest_12.jpg'")
        yield f"{file.name}, line {number}", home / named[2] / f"{named[1]}{suffix}"
