"""The true objects that a detector is scored against: a DOTA folder of labels, or a COCO file. No picture is needed.

    DOTA/labelTxt/*.txt, or mmrotate's annfiles/      read as data is (`samples.readers.detection.dota`)
    instances.json                                    `images`, `annotations` and `categories`, as pycocotools reads it

Pictures are known by the names of their files without the ending, classes in words. Of COCO, `bbox` is the shape, or
the one polygon of four corners in `segmentation`; `area` is the area; `iscrowd` objects count as difficult, and, as in
pycocotools, what `ignore` says does not. Lines of DOTA whose corners go around no area are left out, and said; in its
devkit they count as objects that nothing can find.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samples.readers.detection import dota
from samples.readers.look import Look
from samples.readers.rows import RowFault, show
from vlm.boxes import hull, spoken
from vlm.common.errors import DataError

logger = logging.getLogger(__name__)
Key = int | str


@dataclass(frozen=True)
class Objects:
    """The true objects of a picture."""

    shapes: list[list[float]] = field(default_factory=list)
    "Quadrilaterals or boxes in pixels of the original image."
    labels: list[str] = field(default_factory=list)
    "In words."
    difficult: list[bool] = field(default_factory=list)
    areas: list[float] | None = None
    "Where the file states them."


@dataclass(frozen=True)
class Truth:
    """What a file or folder says is true."""

    path: Path
    pictures: dict[str, Objects]
    "By the picture's name, in the order in which equal scores are ranked."
    classes: list[str]
    "All that there are, in words, sorted."
    rotated: bool
    "Whether shapes are quadrilaterals."
    ids: Mapping[Key, str] = field(default_factory=dict)
    "COCO's image_id → the picture's name."
    categories: Mapping[Key, str] = field(default_factory=dict)
    "COCO's category_id → the class in words."


def read(path: Path, rotated: bool | None = None) -> Truth:
    """The truth of a DOTA folder or a COCO file.

    rotated: quadrilaterals or boxes; None: what there is, of a file that has both boxes. Raises: DataError naming file,
    item and field.
    """
    if path.suffix == ".json":
        return _coco(path, bool(rotated))
    if not path.exists():
        raise DataError(f"{path}: not found; expected a DOTA folder of labels, or a COCO file (.json)")
    return _dota(path, rotated is None or rotated)


def _dota(path: Path, rotated: bool) -> Truth:
    pictures: dict[str, Objects] = {}
    classes: set[str] = set()
    for where, row in dota.walk(Look(path)):
        if not isinstance(row, RowFault):
            found = row["objects"]
            shapes = [one.shape if rotated else hull(one.shape) for one in found]
            pictures[row["image"]] = Objects(shapes, [one.label for one in found], [one.difficult for one in found])
            classes.update(row["classes"])
        elif row.kind == "box_inverted":
            logger.warning("%s, %s, %s; this line is left out", path, where, row)
            pictures.setdefault(Path(where.partition(",")[0].removeprefix("file ")).stem, Objects())
        else:
            raise DataError(f"{path}, {where}, {row}")
    if not pictures:
        raise DataError(f"{path}: found no label file, expected *.txt with lines x1 y1 … x4 y4 class difficult")
    return Truth(path, pictures, sorted(classes), rotated)


def _coco(path: Path, rotated: bool) -> Truth:
    data = load(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in _LISTS):
        raise DataError(f"{path}: found no lists {', '.join(_LISTS)}, expected a COCO file of instances")
    categories = {one: spoken(name) for one, name in _named(path, data, "categories", "name").items()}
    names = {one: Path(name).stem for one, name in _named(path, data, "images", "file_name").items()}
    if len(set(names.values())) < len(names):
        raise DataError(f"{path}, images: found two of one file name, expected each picture once")
    # pycocotools ranks equal scores by the order of the ids
    order = sorted(names) if len({type(one) for one in names}) == 1 else list(names)
    pictures = {names[one]: Objects(areas=[]) for one in order}
    wanted = ("image_id", "category_id", "segmentation" if rotated else "bbox")
    for number, row in enumerate(_rows(path, data, "annotations", wanted), 1):
        where = f"{path}, annotations, item {number}"
        known(where, "image_id", row["image_id"], names)
        known(where, "category_id", row["category_id"], categories)
        one = pictures[names[row["image_id"]]]
        one.shapes.append(quad(where, row["segmentation"]) if rotated else box(where, row["bbox"]))
        one.labels.append(categories[row["category_id"]])
        one.difficult.append(bool(row.get("iscrowd")))
        area = row.get("area", None if rotated else row["bbox"][2] * row["bbox"][3])
        assert one.areas is not None
        one.areas.append(numbers(where, "area", [area], 1)[0])
    return Truth(path, pictures, sorted(set(categories.values())), rotated, names, categories)


_LISTS = ("images", "annotations", "categories")


def load(path: Path) -> Any:
    """A JSON file. Raises: DataError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found no JSON ({error})") from error


def _named(path: Path, data: dict[str, Any], name: str, field: str) -> dict[Key, str]:
    """Id → name."""
    out: dict[Key, str] = {}
    for row in _rows(path, data, name, ("id", field)):
        if row["id"] in out:
            raise DataError(f"{path}, {name}: found two of one id, {row['id']!r}; expected each once")
        out[row["id"]] = str(row[field])
    return out


def _rows(path: Path, data: dict[str, Any], name: str, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(data[name], 1):
        yield checked(f"{path}, {name}, item {number}", row, fields)


def checked(where: str, row: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    """A row that has these fields. Raises: DataError."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: found {show(row)}, expected an object")
    for name in fields:
        if name not in row or (name.endswith("id") and not isinstance(row[name], int | str)):
            raise DataError(f"{where}, field {name!r}: found {show(row.get(name))}, expected it in each item")
    return row


def known(where: str, name: str, value: Any, among: Mapping[Key, str]) -> None:
    """Raises: DataError for an id that is none of these."""
    if value not in among:
        raise DataError(f"{where}, field {name!r}: found {show(value)}, which the truth does not know")


def numbers(where: str, name: str, value: Any, count: int) -> list[float]:
    """Raises: DataError for anything but so many finite numbers."""
    right = isinstance(value, list) and len(value) == count and all(type(one) in (int, float) for one in value)
    if not right or not all(math.isfinite(one) for one in value):
        raise DataError(f"{where}, field {name!r}: found {show(value)}, expected {count} numbers")
    return [float(one) for one in value]


def box(where: str, value: Any) -> list[float]:
    """COCO's x, y, width, height as x1, y1, x2, y2. Raises: DataError."""
    x, y, width, height = numbers(where, "bbox", value, 4)
    if width < 0 or height < 0:
        raise DataError(f"{where}, field 'bbox': found {show(value)}, expected x, y, width, height")
    return [x, y, x + width, y + height]


def quad(where: str, value: Any) -> list[float]:
    """The four corners of COCO's one polygon. Raises: DataError."""
    if not isinstance(value, list) or len(value) != 1:
        raise DataError(f"{where}, field 'segmentation': found {show(value)}, expected one polygon of four corners")
    return numbers(where, "segmentation", value[0], 8)
