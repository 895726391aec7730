"""DIOR (Li et al. 2020, arXiv 1909.00133) and DIOR-R (Cheng et al. 2022): an XML file an image.

    Annotations/Horizontal Bounding Boxes/00001.xml    <object><name>golffield</name><bndbox><xmin>…</xmin>…</bndbox>
    Annotations/Oriented Bounding Boxes/00001.xml      <object><name>golffield</name><robndbox><x_left_top>…, clockwise
    ImageSets/Main/{train,val,test}.txt                a name a line, without a suffix
    JPEGImages-trainval/00001.jpg, JPEGImages-test/…

(open-mmlab/mmrotate, mmrotate/datasets/dior.py at a232b78, for the oriented ones, splits and folders;
microsoft/torchgeo, torchgeo/datasets/dior.py at d4ab156, for boxes along the axes;
kongyan66/One-Click-Conversion-for-RS-Datasets, toDOTA_OBB/DIOR-R/README.md, for the tree.) Annotations may also lie in
`Annotations` itself. torchgeo's own copy, whose table sample_df.csv says the splits, is not read as such; its
annotations are, as a folder.

`path` is the folder above, with `split` (`all` takes every annotation), or one of the two folders of annotations.
Whether objects are boxes (`dior_hbb`) or quadrilaterals (`dior_obb`) is in the name of the format. Pictures are found
by their annotation's name. Classes are glued words in the files ("groundtrackfield"); they become the words of WORDS,
which are those in torchgeo's documentation.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from samples.readers.checks import AROUND, surrounds
from samples.readers.detection import objects, voc
from samples.readers.detection.objects import Found, Labelled
from samples.readers.look import Look, files
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError

ANNOTATIONS = {"bndbox": "horizontal bounding boxes", "robndbox": "oriented bounding boxes"}
"""What holds an object's corners → the folder of annotations that have it, in lower case."""
FOLDERS = tuple(
    os.path.join(above, name)
    for above in ("", "..", "../..")
    for name in ("JPEGImages-trainval", "JPEGImages-test", "JPEGImages", "images")
)
SPLITS = ("train", "val", "test")
CORNERS = {
    "bndbox": ("xmin", "ymin", "xmax", "ymax"),
    "robndbox": tuple(
        f"{axis}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom") for axis in ("x", "y")
    ),
}
WORDS = {
    "".join(words.split()): words
    for words in (
        "baseball field", "basketball court", "expressway service area", "expressway toll station", "golf field",
        "ground track field", "storage tank", "tennis court", "train station",
    )
}  # fmt: skip


def fits(kind: str, look: Look) -> bool:
    """kind: of ANNOTATIONS."""
    return look.is_folder and _annotations(kind, look.path) is not None


def walk(kind: str, look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(file, a picture), or (file and object, what is none)."""
    folder = _annotations(kind, look.path, bare=True) if look.is_folder else None
    if folder is None:
        raise DataError(f"{look.path}: found no annotations with {kind}, expected Annotations/*/*.xml")
    paths = files(folder, ".xml")
    classes = objects.all_classes(look, lambda: voc.names(paths, "object", "name", _words))
    chosen = _split(look, folder)
    for path in paths:
        if chosen is not None and path.stem not in chosen:
            continue
        if chosen is not None:
            del chosen[path.stem]
        root = voc.parsed(path)
        if isinstance(root, RowFault):
            yield f"file {path.name}", root
            continue
        found = voc.found(root, "object", partial(_object, kind))
        size = voc.size(root)
        more = {} if size is None else {"size": size}
        yield from objects.pictured(f"file {path.name}", path.stem, found, classes, id=path.stem, **more)
    for name, where in (chosen or {}).items():
        yield where, RowFault("split_index", "name", show(name), f"a name of which {folder} has an annotation")


def convert(kind: str, row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    return objects.convert(row, place, task, FOLDERS, quads=kind == "robndbox")


def _annotations(kind: str, path: Path, bare: bool = False) -> Path | None:
    """The folder of annotations that have `kind`: below, or the path itself.

    bare: also one whose annotations have no object at all; a folder of that name may be without any.
    """
    above = path / "Annotations"
    named = [one for one in (*_folders(above), path) if one.name.replace("_", " ").lower() == ANNOTATIONS[kind]]
    for folder in (*named, *([above] if above.is_dir() else []), path):
        paths = files(folder, ".xml", voc.LOOKED)
        item = voc.first(paths, "object")
        if item is None and paths and (bare or folder in named):
            return folder
        if item is not None and item.find(kind) is not None and item.find("description") is None:
            return folder
    return None


def _folders(path: Path) -> list[Path]:
    return [one for one in sorted(path.iterdir()) if one.is_dir()] if path.is_dir() else []


def _split(look: Look, folder: Path) -> dict[str, str] | None:
    """The names of a split → where each stands; None for all annotations."""
    sets = [above / "ImageSets" / "Main" for above in (look.path, *folder.parents[:2])]
    there = next((one for one in sets if one.is_dir()), sets[0])
    present = [name for name in SPLITS if (there / f"{name}.txt").is_file()]
    if look.split == "all" or (look.split is None and not present):
        return None
    if look.split is None:
        names = ", ".join(present)
        raise DataError(f"{look.path}: has the splits {names}; name one by `split:`, or write split: all")
    path = there / f"{look.split}.txt"
    try:
        lines = path.read_text("ascii", "backslashreplace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected the names of a split's images") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if name := line.strip():
            found.setdefault(name, f"{path.name}, line {number}")
    return found


def _object(kind: str, item: ElementTree.Element) -> Found:
    box = item.find(kind)
    if box is None:
        raise RowFault("missing_field", kind, "none", f"{kind} with {', '.join(CORNERS[kind])}")
    shape = [voc.number(box.findtext(name), f"{kind}/{name}") for name in CORNERS[kind]]
    if kind == "bndbox":
        objects.check_box(shape)
    elif not surrounds(shape):
        raise RowFault("box_inverted", kind, str(shape), AROUND)
    difficult = (item.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise RowFault("wrong_type", "difficult", show(difficult), "0 or 1")
    return Labelled(_words(voc.label(item, "name")), shape, difficult == "1")


def _words(name: str) -> str:
    words = objects.in_words(name)
    assert not isinstance(words, RowFault)
    return WORDS.get(words.replace(" ", ""), words)
