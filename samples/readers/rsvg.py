"""DIOR-RSVG (Zhan et al. 2023, arXiv 2210.12634): Pascal-VOC annotations, and splits that count objects.

    DIOR-RSVG/Annotations/00012.xml    <annotation><filename>00012.jpg</filename><size>…</size>
                                       <object><name>dam</name><bndbox><xmin>1</xmin>…</bndbox>
                                       <description>A dam on the left</description></object></annotation>
    DIOR-RSVG/JPEGImages/00012.jpg
    DIOR-RSVG/{train,val,test}.txt     an index a line

The indices are not of images but of objects: the annotations in the order of their names, their `<object>`s counted
from 0 (38,320 in all). An image's objects may thus be in several splits. `path` is the folder with `split`, or a split
file; `split: all` takes every object. Samples come in the order of the annotations; `id` is the object's index and
`kind` its class. The published loader takes the annotations in the order in which the file system lists them, which is
right only where that sorts.

An annotation that cannot be parsed ends the reading whatever `on_fault` says: the indices of all objects behind it
depend on how many it holds.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from samples.readers.look import Look, files
from samples.readers.records import record
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError

SPLITS = ("train", "val", "test")
FOLDERS = ("JPEGImages", "../JPEGImages", "images", "../images")
LOOKED = 20
"""Annotations that are looked at to tell what a folder holds: the first may be broken."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def fits(look: Look) -> bool:
    folder = look.path if look.is_folder else look.path.parent
    if not look.is_folder and look.path.suffix != ".txt":
        return False
    annotations = folder / "Annotations"
    paths = files(annotations, ".xml", LOOKED) if annotations.is_dir() else []
    return any(b"<description" in path.read_bytes() for path in paths)  # DIOR's own annotations have none


def walk(look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(where, an object) of the split; a line of the split file that names no object is a fault."""
    folder = look.path if look.is_folder else look.path.parent
    paths = files(folder / "Annotations", ".xml")
    if not paths:
        raise DataError(f"{folder / 'Annotations'}: no annotations, expected *.xml")
    wanted = yield from _indices(look, folder)
    count = 0
    for path in paths:
        root = _parsed(path)
        for item in root.findall("object"):
            if wanted is None or count in wanted:
                yield f"object {count} (Annotations/{path.name})", {"root": root, "object": item, "index": count}
                if wanted is not None:
                    wanted.discard(count)
            count += 1
    for index in sorted(wanted or ()):
        expected = f"an index below {count}, the number of objects"
        yield f"object {index}", RowFault("split_index", "index", str(index), expected)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    root, item = row["root"], row["object"]
    image = place.seek(_text(root, "filename"), FOLDERS, "filename")
    corners = _numbers(item, "bndbox", CORNERS)
    size = None
    if root.find("size") is not None:
        size = [int(side) for side in _numbers(root, "size", ("width", "height"))]
    more = {"boxes": [corners], "size": size, "kind": _text(item, "name"), "id": str(row["index"])}
    return record(image, _text(item, "description"), task or "grounding", **more)


def _indices(look: Look, folder: Path) -> Generator[tuple[str, RowFault], None, set[int] | None]:
    """Yields the faults of the split file; returns its indices, None for all objects."""
    path = look.path
    if look.is_folder:
        present = [name for name in SPLITS if (folder / f"{name}.txt").is_file()]
        if look.split == "all" or (look.split is None and not present):
            return None
        if look.split is None:
            raise DataError(f"{folder}: has the splits {', '.join(present)}; name one by `split:`, or write split: all")
        path = folder / f"{look.split}.txt"
    wanted: set[int] = set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                said = line.decode("ascii", "backslashreplace").strip()
                if not said:
                    continue
                if not said.isdecimal() or len(said) > 9 or int(said) in wanted:
                    expected = "the index of an object, each once"
                    yield f"{path.name}, line {number}", RowFault("split_index", "index", show(said), expected)
                else:
                    wanted.add(int(said))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), expected the indices of a split's objects"
        ) from error
    return wanted


def _parsed(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        hint = "objects are counted across all annotations, so it must be fixed"
        raise DataError(f"{path}: found text that is no XML ({error}); {hint}") from error


def _text(element: ElementTree.Element, name: str) -> str:
    found = (element.findtext(name) or "").strip()
    if not found:
        raise RowFault("missing_field", name, "none", "text")
    return found


def _numbers(element: ElementTree.Element, name: str, parts: tuple[str, ...]) -> list[float]:
    """The numbers inside one element, by name."""
    found = element.find(name)
    said = {} if found is None else {part.tag: part.text for part in found}
    numbers = []
    for part in parts:
        try:
            number = float(said.get(part) or "")
        except ValueError:
            number = float("nan")
        if not abs(number) < 1e9:
            raise RowFault("wrong_type", f"{name}/{part}", show(said.get(part)), "a number of pixels")
        numbers.append(number)
    return numbers
