"""DOTA (Xia et al. 2018, arXiv 1711.10398): a label file an image, a line an object.

    labelTxt/P0001.txt     imagesource:GoogleEarth
                           gsd:0.146
                           2753 2408 2861 2385 2888 2468 2805 2502 plane 0
    images/P0001.png

or mmrotate's tiles, `annfiles/P0001__1__0___0.txt` beside `images/`. A file may have no object, or headers alone.

`path` is the folder above, the folder of labels, or one label file. One question for each class of an image ("every
plane"), whose `quads` are all of its objects in pixels, the difficult ones (last number 1) at the end; how many those
are goes to `kind` after the class ("plane,difficult:2"), for evaluators leave them out of account. A line that is no
object, or whose corners do not go around an area, is a fault of its own, and an image without objects is left out
(`no_objects`). Labels of a tile may end outside it: their shapes stay uncut, and those wholly outside are left out and
counted (`object_outside`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.checks import AROUND, surrounds
from samples.readers.encoding import undecoded
from samples.readers.look import Look, files, one_of
from samples.readers.records import record
from samples.readers.rows import LeftOut, Place, RowFault, show
from vlm.boxes import hull
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
    """(file and class or line, one class of an image)."""
    paths = [look.path]
    if look.is_folder:
        folders = _folders(look.path)
        paths = files(one_of(look, folders, "folders of labels") if folders else look.path, ".txt")
    for path in paths:
        objects: dict[str, list[list[float]]] = {}
        difficult: dict[str, list[list[float]]] = {}
        faults = 0
        for number, found in _lines(path):
            if isinstance(found, RowFault):
                faults += 1
                yield f"file {path.name}, line {number}", found
                continue
            name, quad, is_hard = found
            objects.setdefault(name, [])
            (difficult if is_hard else objects).setdefault(name, []).append(quad)
        for name, quads in objects.items():
            hard = difficult.get(name, [])
            yield (
                f"file {path.name}, class {name}",
                {"image": path.stem, "class": name, "quads": quads + hard, "difficult": len(hard)},
            )
        if not objects and not faults:
            yield f"file {path.name}", LeftOut("no_objects", "a label file without objects")


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image, name = place.seek(row["image"], FOLDERS), row["class"]
    quads, size = row["quads"], place.size(image)
    inside = [meets(quad, size) for quad in quads]
    if not any(inside):
        raise LeftOut("no_objects", f"all {len(quads)} objects of the class {name} lie outside the image of {size}")
    for quad, there in zip(quads, inside, strict=True):
        if not there:
            place.dropped.append(("object_outside", f"{quad} of the class {name}, image of {size[0]} x {size[1]}"))
    difficult = sum(inside[len(quads) - row["difficult"] :])
    kind = name + (f",difficult:{difficult}" if difficult else "")
    question = f"every {name.replace('-', ' ').replace('_', ' ')}"
    kept = [quad for quad, there in zip(quads, inside, strict=True) if there]
    more = {"quads": kept, "kind": kind, "id": f"{row['image']}/{name}"}
    return record(image, question, task or "grounding", **more)


def meets(quad: list[float], size: tuple[int, int]) -> bool:
    """Whether a quadrilateral has a part inside an image of (width, height); its corners may lie anywhere."""
    (x1, y1, x2, y2), (width, height) = hull(quad), size
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return False
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return True
    import shapely

    shape = shapely.Polygon(list(zip(quad[::2], quad[1::2], strict=True)))
    if not shape.is_valid:
        return True  # no quadrilateral: the checks say so
    return shape.intersection(shapely.box(0, 0, width, height)).area > 0


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
    return None if found is None else isinstance(found, tuple) or found.kind == "box_inverted"


def _lines(path: Path) -> Iterator[tuple[int, tuple[str, list[float], bool] | RowFault]]:
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


def _object(said: str) -> tuple[str, list[float], bool] | RowFault:
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
    return parts[8], quad, parts[9:] in (["1"], ["2"])
