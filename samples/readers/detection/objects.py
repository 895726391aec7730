"""A picture with all objects of the classes that are asked for: what the readers of detection data share.

A reader's `walk` yields, for each picture, the row that `pictured` makes of its objects; `convert` makes the record:

    messages  [{"role": "user", "content": "plane, ship, storage tank"}]     all classes, in words, sorted
    quads     [[4, 2, 12, 2, 12, 10, 4, 10]]                                 or boxes; [] of a picture without objects
    labels    ["plane"]              difficult  [False]                      one for each of them, in the file's order

An object that is none (corners around no area, a word for a number) is a fault of its own. With `on_fault: skip` it is
counted and the picture is read without it; a picture of whose objects none is left is no row, for it would look empty.
Objects that lie wholly outside their picture, as labels of tiles may, leave their row and are counted
(`object_outside`); those that overhang it stay: quadrilaterals uncut, boxes cut to the picture. A picture of whose
objects all lie outside is left out (`no_objects`), for its labels hardly are of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from samples.readers.look import Look
from samples.readers.records import record
from samples.readers.rows import LeftOut, Place, RowFault, show
from vlm.boxes import hull, spoken
from vlm.common.errors import DataError

TASK = "detection"
WORDS = "the name of a class, which begins with a letter and has no comma"


class Labelled(NamedTuple):
    """One object. shape: x1, y1, x2, y2, or x1, y1, …, x4, y4 around it, in pixels of its picture."""

    label: str
    "In words."
    shape: list[float]
    difficult: bool = False


Found = Labelled | RowFault


def pictured(
    where: str, image: str, found: Iterable[tuple[str, Found]], classes: list[str], **more: Any
) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(where, row): a picture with its objects, behind the faults among them.

    found: (where in the file, an object). image: its name, with or without a suffix. more: what else the row says
    (`id`, `size`, `field`: under which key the file has the picture's name).
    """
    objects, faults = [], 0
    for place, one in found:
        if isinstance(one, RowFault):
            faults += 1
            yield f"{where}, {place}", one
        else:
            objects.append(one)
    if objects or not faults:
        yield where, {"image": image, "objects": objects, "classes": classes, **more}


def convert(
    row: dict[str, Any], place: Place, task: str | None, folders: tuple[str, ...] = (), quads: bool = True
) -> dict[str, Any]:
    """The record of a picture. folders: where pictures lie. quads: whether shapes are quadrilaterals, not boxes."""
    if task not in (None, TASK):
        raise RowFault("unknown_task", "task", show(task), f"none, or {TASK}: rows ask for all objects of a picture")
    image = place.seek(row["image"], folders, row.get("field", "image"))
    size, kept = place.size(image), []
    for one in row["objects"]:
        if meets(one.shape, size):
            kept.append(one)
        else:
            place.dropped.append(("object_outside", f"{one.shape} of {one.label}, image of {size[0]} x {size[1]}"))
    if row["objects"] and not kept:
        raise LeftOut("no_objects", f"all {len(row['objects'])} objects lie outside the image of {size[0]} x {size[1]}")
    shapes = [one.shape for one in kept]
    truth: dict[str, Any] = {"quads" if quads else "boxes": shapes, "labels": [one.label for one in kept]}
    if any(one.difficult for one in kept):
        truth["difficult"] = [one.difficult for one in kept]
    more = {name: row[name] for name in ("id", "size") if name in row}
    classes = sorted({*row["classes"], *truth["labels"]})  # what a source's classes leave out, `restricted` takes out
    return record(image, asking(classes), TASK, classes=classes, **truth, **more)


def asking(classes: list[str]) -> str:
    """The user's turn."""
    return ", ".join(classes)


def in_words(name: Any, field: str = "class") -> str | RowFault:
    """A class as it is spoken of, or the fault of a name that is none."""
    words = spoken(name) if isinstance(name, str) else ""
    return words if words[:1].isalpha() and "," not in words else RowFault("wrong_type", field, show(name), WORDS)


def check_box(box: list[float]) -> None:
    """Raises: RowFault for x1, y1, x2, y2 without area."""
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        raise RowFault("box_inverted", "box", f"{box}, inverted or empty", "x1 < x2 and y1 < y2")


def all_classes(look: Look, names: Callable[[], Iterable[str]]) -> list[str]:
    """The classes that rows ask for, in words, sorted: those that the source states, or else all of the data.

    names: looks for the latter. Raises: DataError where there is none.
    """
    found = sorted(set(look.classes or look.once("classes", lambda: list(names()))))
    if not found:
        expected = "some object, or `classes: [plane, ship]` at the source"
        raise DataError(f"{look.path}: found no object, so that no class is known to ask for; expected {expected}")
    return found


def meets(shape: list[float], size: tuple[int, int]) -> bool:
    """Whether a box or quadrilateral has a part inside an image of (width, height); its corners may lie anywhere."""
    (x1, y1, x2, y2), (width, height) = shape if len(shape) == 4 else hull(shape), size
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return False
    if len(shape) == 4 or (x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height):
        return True
    import shapely

    polygon = shapely.Polygon(list(zip(shape[::2], shape[1::2], strict=True)))
    if not polygon.is_valid:
        return True  # no quadrilateral: the checks say so
    return polygon.intersection(shapely.box(0, 0, width, height)).area > 0


def restricted(fields: dict[str, Any], classes: list[str], place: Place) -> dict[str, Any]:
    """The checked fields of a row of detection, asked for these classes alone; objects of others leave it.

    Raises: RowFault where the row has an answer as text, which may name others.
    """
    turns = fields["messages"]
    if turns[-1]["role"] != "user":
        expected = "none: classes are stated for this source, which it may not follow; leave the turn or `classes` out"
        raise RowFault("conversation", f"messages[{len(turns)}]", "an answer as text", expected)
    labels = fields["labels"]
    kept = [number for number, label in enumerate(labels) if label in classes]
    for number, label in enumerate(labels):
        if label not in classes:
            place.dropped.append(("other_class", f"object {number + 1}: {label}"))
    parts = {name: fields[name] for name in ("labels", "boxes", "quads", "difficult")}
    found = {name: part and [part[number] for number in kept] for name, part in parts.items()}
    if not any(found["difficult"] or ()):
        found["difficult"] = None
    asked = {"role": "user", "content": asking(classes)}
    return fields | found | {"classes": classes, "messages": [*turns[:-1], asked]}
