"""FAIR1M (Sun et al. 2022, arXiv 2103.05569): an XML file an image, 37 fine-grained classes.

    train/part1/labelXml/1.xml    <annotation><source><filename>1.tif</filename>…</source><objects><object>
                                  <coordinate>pixel</coordinate><type>rectangle</type>
                                  <possibleresult><name>Boeing737</name></possibleresult>
                                  <points><point>10.0,20.0</point>… five of them, the last as the first</points>…
    train/part1/images/1.tif, validation/labelXml, validation/images

(microsoft/torchgeo, torchgeo/datasets/fair1m.py at ae967c5.) `path` is the folder above with `split` (`train`,
`validation` or torchgeo's name for it, `val`), a folder that has `labelXml` and `images`, or a folder of annotations.
Pictures are found by their annotation's name. One row a picture, with `quads`; its id is the annotation's name behind
the folders that lead to it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.checks import AROUND, surrounds
from samples.readers.detection import objects, voc
from samples.readers.detection.objects import Found, Labelled
from samples.readers.look import Look, files
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError

OBJECTS = "objects/object"
NAME = "possibleresult/name"
DEPTH = ("", "*/", "*/*/")
"""Folders above `labelXml`: none, `validation`, `train/part1`."""
SPLITS = {"val": "validation"}
POINTS = "four <point>x,y</point>, or five of which the last is the first"


def fits(look: Look) -> bool:
    return look.is_folder and any(_holds(folder) for folder in _folders(look.path))


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, a picture), or (file and object, what is none)."""
    folders = _chosen(look)
    paths = [path for folder in folders for path in files(folder, ".xml")]
    classes = objects.all_classes(look, lambda: voc.names(_all(look), OBJECTS, NAME, _words))
    for path in paths:
        place = path.parent.relative_to(look.path)
        where = f"file {place / path.name}"
        root = voc.parsed(path)
        if isinstance(root, RowFault):
            yield where, root
            continue
        near = str(place.parent / "images") if place.parts else "../images"
        more = {"id": (place.parent / path.stem).as_posix(), "folders": (near, str(place))}
        found = voc.found(root, OBJECTS, _object)
        yield from objects.pictured(where, path.stem, found, classes, **more)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    # `../images` of a folder of annotations does not leave it by the word of a file: no row says it
    return objects.convert(row, place, task, row["folders"])


def _folders(path: Path) -> list[Path]:
    """Folders of annotations, below a path or the path itself."""
    named = [one for depth in DEPTH for one in path.glob(f"{depth}labelXml*") if one.is_dir()]
    return sorted(named) or [path]


def _holds(folder: Path) -> bool:
    item = voc.first(files(folder, ".xml", voc.LOOKED), OBJECTS)
    return item is not None and item.find("points") is not None


def _all(look: Look) -> list[Path]:
    return [path for folder in _folders(look.path) for path in files(folder, ".xml")]


def _chosen(look: Look) -> list[Path]:
    """The folders of the split. Raises: DataError where it is not said which, or there is none such."""
    folders = _folders(look.path)
    parts = {one: one.relative_to(look.path).parts for one in folders}
    splits = sorted({names[0] for names in parts.values() if len(names) > 1})
    if look.split is None or look.split == "all":
        if len(splits) > 1 and look.split is None:
            raise DataError(
                f"{look.path}: has the splits {', '.join(splits)}; name one by `split:`, or write split: all"
            )
        return folders
    wanted = SPLITS.get(look.split, look.split)
    chosen = [one for one, names in parts.items() if names and names[0] == wanted]
    if not chosen:
        raise DataError(f"{look.path}: found the split {look.split!r}, expected one of {', '.join(splits) or 'none'}")
    return chosen


def _object(item: ElementTree.Element) -> Found:
    if (count := len(item.findall("possibleresult"))) != 1:
        raise RowFault("wrong_type", "possibleresult", f"{count} of them", "one, with the name of the class")
    coordinate = (item.findtext("coordinate") or "pixel").strip()
    if coordinate != "pixel":
        raise RowFault("box_text", "coordinate", show(coordinate), "points in pixels")
    said = [point.text for point in item.findall("points/point")]
    points = [[voc.number(part, "points/point") for part in (one or "").split(",")] for one in said]
    if len(points) == 5 and points[4] == points[0]:
        points.pop()
    if len(points) != 4 or any(len(point) != 2 for point in points):
        raise RowFault("box_text", "points", show(said), POINTS)
    quad = [value for point in points for value in point]
    if not surrounds(quad):
        raise RowFault("box_inverted", "points", str(quad), AROUND)
    return Labelled(voc.label(item, NAME), quad)


def _words(name: str) -> str:
    words = objects.in_words(name)
    assert not isinstance(words, RowFault)
    return words
