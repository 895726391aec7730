"""NWPU VHR-10 (Cheng et al. 2014): a text file an image, ten classes, and pictures without any object.

    ground truth/001.txt          (563,478),(630,573),1       left upper and right lower corner in pixels, class from 1
    positive image set/001.jpg    650 of them
    negative image set/001.jpg    150 others, without objects

(Its readme.txt, as kevinsu20/Vitis-ai-zcu104-yolov5 holds it, Yolov5_quant/datasets/VHR-10/readme.txt; its folders as
microsoft/torchgeo reads them, torchgeo/datasets/vhr10.py at ee6cb66.) `path` is the folder of the three, or that above
it ("NWPU VHR-10 dataset"). `split` is `positive` or `negative`; without it, both. Both sets count from 001, so an id is
"positive/001". torchgeo's `annotations.json` in the same folder is read as `coco`: name the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.detection import objects
from samples.readers.detection.objects import Found, Labelled
from samples.readers.look import Look, files
from samples.readers.rows import SUFFIXES, Place, RowFault, show
from vlm.common.errors import DataError

TRUTH = "ground truth"
CLASSES = (
    "airplane", "ship", "storage tank", "baseball diamond", "tennis court", "basketball court", "ground track field",
    "harbor", "bridge", "vehicle",
)  # fmt: skip
"""In the order of the numbers, from 1 (readme.txt)."""
SPLITS = ("positive", "negative")
LINE = "(x1,y1),(x2,y2),class, in pixels and from 1 to 10"
_LINE = re.compile(r"\(\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\)\s*,\s*\(\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\)\s*,\s*(\d{1,2})\s*")


def fits(look: Look) -> bool:
    return look.is_folder and _home(look.path) is not None


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, a picture), or (file and line, what is no object)."""
    home = _home(look.path)
    if home is None:
        raise DataError(f"{look.path}: expected the folders {TRUTH!r} and 'positive image set'")
    if look.split not in (None, "all", *SPLITS):
        raise DataError(f"{look.path}: found the split {look.split!r}, expected one of {', '.join(SPLITS)}")
    classes = objects.all_classes(look, lambda: CLASSES)
    near = home.relative_to(look.path)
    for split in SPLITS:
        folder = home / f"{split} image set"
        if look.split not in (None, "all", split) or not folder.is_dir():
            continue
        paths = files(home / TRUTH, ".txt") if split == "positive" else _pictures(folder)
        for path in paths:
            found = _lines(path) if split == "positive" else iter(())
            more = {"id": f"{split}/{path.stem}", "folders": (str(near / folder.name),)}
            yield from objects.pictured(f"file {path.parent.name}/{path.name}", path.stem, found, classes, **more)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    return objects.convert(row, place, task, row["folders"], quads=False)


def _home(path: Path) -> Path | None:
    """The folder of the three."""
    homes = [path, *sorted(path.glob("NWPU VHR-10*"))]
    return next((one for one in homes if (one / TRUTH).is_dir() and (one / "positive image set").is_dir()), None)


def _pictures(folder: Path) -> list[Path]:
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES))
    return [folder / name for name in names]


def _lines(path: Path) -> Iterator[tuple[str, Found]]:
    try:
        text = path.read_text("ascii", "backslashreplace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(text.splitlines(), 1):
        if said := line.strip("\x1a\ufeff \t\x00"):
            try:
                yield f"line {number}", _object(said)
            except RowFault as fault:
                yield f"line {number}", fault


def _object(said: str) -> Found:
    match = _LINE.fullmatch(said)
    if match is None or not 1 <= int(match[5]) <= len(CLASSES):
        raise RowFault("wrong_type", "(whole line)", show(said), LINE)
    box = [float(match[place]) for place in range(1, 5)]
    objects.check_box(box)
    return Labelled(CLASSES[int(match[5]) - 1], box)
