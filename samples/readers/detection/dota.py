"""DOTA (Xia et al. 2018, arXiv 1711.10398): a label file an image, a line an object.

    labelTxt/P0001.txt     imagesource:GoogleEarth
                           gsd:0.146
                           2753 2408 2861 2385 2888 2468 2805 2502 plane 0
    images/P0001.png

or mmrotate's tiles, `annfiles/P0001__1__0___0.txt` beside `images/` (open-mmlab/mmrotate, mmrotate/datasets/dota.py at
0724acc, tools/data/dota/split/img_split.py at 96de045). A file without an object, or with headers alone, is that of a
picture without objects; a picture without a file is not read.

`path` is the folder above, the folder of labels, or one label file, whose classes are those of its folder. One row a
picture (`samples.readers.detection.objects`), `quads` in pixels in the file's order. The last number of a line, where
it has one, is 0, or 1 for a difficult object (mmrotate's tiles: also 2, of objects that a tile's edge cuts).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.checks import AROUND, surrounds
from samples.readers.detection import objects
from samples.readers.detection.objects import Found, Labelled
from samples.readers.encoding import undecoded
from samples.readers.look import Look, files, one_of
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError

FOLDERS = ("images", "../images")
HEADERS = ("imagesource:", "gsd:", "acquisition")
LINE = 1 << 12
"""Bytes of a line."""


def fits(look: Look) -> bool:
    if look.is_folder:
        folders = _folders(look.path)
        return bool(folders) or _holds(look.path)
    return look.path.suffix == ".txt" and _labels(look.path) is True


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, a picture), or (file and line, what is no object)."""
    folder, paths = look.path.parent, [look.path]
    if look.is_folder:
        folders = _folders(look.path)
        folder = one_of(look, folders, "folders of labels") if folders else look.path
        paths = files(folder, ".txt")
    classes = objects.all_classes(look, lambda: _names(files(folder, ".txt")))
    for path in paths:
        found = ((f"line {number}", one) for number, one in _lines(path))
        yield from objects.pictured(f"file {path.name}", path.stem, found, classes, id=path.stem)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    return objects.convert(row, place, task, FOLDERS)


def _names(paths: list[Path]) -> Iterator[str]:
    """The classes of all objects of these files."""
    for path in paths:
        yield from {one.label for _, one in _lines(path) if isinstance(one, Labelled)}


def _folders(folder: Path) -> list[Path]:
    """Those named as DOTA's own, and as mmrotate's tiles, that have label files."""
    names = [*sorted(folder.glob("labelTxt*")), folder / "annfiles"]
    return [path for path in names if path.is_dir() and files(path, ".txt", 1)]


def _holds(folder: Path) -> bool:
    """Whether the first of its label files that says anything has an object; many tiles have none."""
    said = (_labels(path) for path in files(folder, ".txt"))
    return next((right for right in said if right is not None), False)


def _labels(path: Path) -> bool | None:
    """Whether the first line that is no header is an object, perhaps one without area; None where there is none."""
    found = next((found for _, found in _lines(path)), None)
    return None if found is None else isinstance(found, Labelled) or found.kind == "box_inverted"


def _lines(path: Path) -> Iterator[tuple[int, Found]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE):
                number += 1
                try:
                    said = line.decode().removeprefix("\ufeff").strip()
                except UnicodeDecodeError as error:
                    yield number, RowFault("encoding", "(whole line)", undecoded(path, line, error), "UTF-8")
                    continue
                if said and not said.lower().startswith(HEADERS):
                    yield number, _object(said)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _object(said: str) -> Found:
    parts = said.split()
    try:
        quad = [float(part) for part in parts[:8]]
        right = len(parts) in (9, 10) and all(abs(x) < 1e9 for x in quad) and parts[9:] in ([], ["0"], ["1"], ["2"])
    except ValueError:
        right = False
    if not right:
        return RowFault("wrong_type", "(whole line)", show(said), "x1 y1 … x4 y4 class difficult, in pixels")
    if not surrounds(quad):
        return RowFault("box_inverted", "(whole line)", show(said), AROUND)
    label = objects.in_words(parts[8])
    return label if isinstance(label, RowFault) else Labelled(label, quad, parts[9:] in (["1"], ["2"]))
