"""All objects of a picture as text: detection as a language model writes and reads it (RSCoVLM).

    plane, ship →    10,20,90,80 plane          no object →    There are none.
                     40,10,60,30 ship

A notation with labels says how an object looks as text (`vlm.boxes.notations`). Classes are in words, objects in the
order of their class, then from above, then from the left, as RSCoVLM sorts them (VisionXLab/RSCoVLM,
rscovlm/training/data/dense_det_dataset.py at bfc2ff7). Its numbers are cut off to whole pixels of the resized picture,
ours are rounded, which loses half as much.

An answer that `vlm.boxes.read_said` takes is read by it. Another one is mended, and each mending counted:

    parentheses    (1,2,3,4) for [1,2,3,4] in JSON
    commas         doubled or missing ones in JSON
    doubled_key    "label": "label": in JSON
    numbers        more numbers than the shape has, in a line: the first count
    pieces         read object by object, as what is cut off at the end, or has prose around it, must be: pieces that
                   are no object count as stated and missed
    spelling       a label that is a class but for case, blanks, hyphens and underscores
    synonym        a label that is a synonym of one asked class (`vlm.boxes.asking.SYNONYMS`)
    near           a label as near to an asked class as NEAR: "plan" is "plane". RSCoVLM takes the nearest, however
                   far.

A label that is none of the classes stays as it is; it names no true object.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from vlm import answers
from vlm.boxes.asking import SYNONYMS
from vlm.boxes.geometry import hull, obb_from_quad, quad_from_obb
from vlm.boxes.notation import Notation
from vlm.boxes.notations import NOTATIONS, Object, find, write_quads
from vlm.boxes.said import Said, read_said
from vlm.boxes.texts import Lines
from vlm.common.errors import DataError, RecipeError

NOTHING = "There are none."
"""What is written of a picture without objects."""
NEAR = 0.8
"""Similarity (`difflib.SequenceMatcher.ratio`) from which on a label is taken for a class."""
_NOTHING = ("there are none", "none", "[]", "")
_SPACES = re.compile(r"[\s_-]+")
_MENDINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("parentheses", lambda text: re.sub(r"\(([-\d.,\s]*)\)", r"[\1]", text)),
    ("commas", lambda text: re.sub(r'([\]}])\s*(?=[{"])', r"\1, ", re.sub(r",(\s*,)+", ",", text))),
    ("doubled_key", lambda text: re.sub(r'("label"\s*:\s*)(?="label"\s*:)', "", text)),
)


@dataclass(frozen=True, slots=True)
class Detected:
    """The objects of one answer."""

    objects: list[Object]
    "In pixels of the original image, in the order of the text; labels that are classes stand as those were asked for."
    missed: int = 0
    "How many more it states that are no proper shape, or cannot be read: they count as said, and overlap nothing."
    repairs: dict[str, int] = field(default_factory=dict)
    "What was mended → how often."
    readable: bool = True
    "Whether it states objects, or that there are none."
    size: Sequence[float] = (0, 0)
    upright: bool = True

    def __len__(self) -> int:
        """All that it states, missed ones included."""
        return len(self.objects) + self.missed

    @property
    def quads(self) -> list[list[float]]:
        """As `Said.quads`."""
        return [item.quad for item in self.objects]

    @property
    def boxes(self) -> list[list[float]]:
        """As `Said.boxes`."""
        return Said(self.objects, 0, self.size, self.upright).boxes


def spoken(name: str) -> str:
    """A class in words: "Storage-Tank" and "storage_tank" are "storage tank"."""
    return " ".join(filter(None, _SPACES.split(name))).lower()


def class_key(name: str) -> str:
    """What two spellings of a class share: "Dense-Residential" and "dense residential" are one."""
    return re.sub(r"[\s_-]+", "", answers.normalise(name))


def check_labels(notation: str | Notation) -> None:
    """Raises: RecipeError for a notation that has no place for labels."""
    if not (found := find(notation)).labels:
        raise RecipeError(
            f"the notation {found.name} has no place for what an object is called, which the task detection needs; "
            f"prompt.notation may be {', '.join(name for name, one in NOTATIONS.items() if one.labels)}"
        )


def write_detections(
    quads: Sequence[Sequence[float]],
    labels: Sequence[str],
    notation: str | Notation,
    size: Sequence[float],
    resized: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> str:
    """Text of the objects of a picture: quadrilaterals in pixels of the original image, and what they are called.

    classes: in their order; without them, the alphabet's. Sizes, roundings and errors as `vlm.boxes.write_quads`. Of an
    object whose centre lies outside the picture, an oriented notation gets the rectangle around the visible part.
    """
    notation = find(notation)
    check_labels(notation)
    if not quads:
        return NOTHING
    ranks = {name: number for number, name in enumerate(sorted(set(labels)) if classes is None else classes)}
    if unknown := [name for name in labels if name not in ranks]:
        raise DataError(f"label {unknown[0]!r}: expected one of the classes that are asked for, {', '.join(ranks)}")
    boxes = [hull(quad) for quad in quads]
    order = sorted(range(len(quads)), key=lambda n: (ranks[labels[n]], boxes[n][1], boxes[n][0]))
    shapes = [_visible(quads[n], size) if notation.shape.startswith("obb") else quads[n] for n in order]
    text = write_quads(shapes, notation, size, resized, [labels[n] for n in order])
    return text + "\n" * isinstance(notation, Lines)  # as published: one behind each line


def _visible(quad: Sequence[float], size: Sequence[float]) -> Sequence[float]:
    cx, cy, *_ = obb_from_quad(quad)
    if 0 <= cx <= size[0] and 0 <= cy <= size[1]:
        return quad
    import shapely

    shape = shapely.Polygon(list(zip(quad[::2], quad[1::2], strict=True)))
    part = shape.intersection(shapely.box(0, 0, *size))
    if part.is_empty:
        raise DataError(f"{list(quad)} lies outside the image of {size[0]:g} x {size[1]:g}")
    return quad_from_obb(*obb_from_quad([value for point in part.convex_hull.boundary.coords for value in point]))


def read_detections(
    text: str,
    notation: str | Notation,
    size: Sequence[float],
    resized: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> Detected:
    """What an answer states; never None. Sizes as `vlm.boxes.read_objects`, raises DataError for the lack of them.

    classes: to which labels are brought; without them labels stay as they are. Takes time linear in the text.
    """
    notation = find(notation)
    upright = notation.shape == "box"
    notation.limits(resized)
    plain = text.strip()
    said = answers.normalise(_unfenced(plain)) if len(plain) < 64 else plain
    if said in _NOTHING:
        return Detected([], 0, {}, bool(said), size, upright)  # "." or an empty fence says nothing
    repairs: Counter[str] = Counter()
    found = read_said(plain, notation, size, resized)
    if found is None:
        plain = _mended(plain, notation, repairs)
        found = read_said(plain, notation, size, resized) if repairs else None
    if found is None:
        found = _by_pieces(plain, notation, size, resized, repairs)
    objects = found.objects if classes is None else _named(found.objects, classes, repairs)
    return Detected(objects, found.missed, dict(+repairs), bool(found.objects), size, upright)


def _unfenced(text: str) -> str:
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3].removeprefix("json")
    return "".join(text.split()) if text.strip().startswith("[") else text.strip()


def _mended(text: str, notation: Notation, repairs: Counter[str]) -> str:
    if "{" not in text or not notation.key:
        return text
    for name, mend in _MENDINGS:
        if (after := mend(text)) != text:
            text = after
            repairs[name] += 1
    return text


def _by_pieces(
    text: str, notation: Notation, size: Sequence[float], resized: Sequence[float] | None, repairs: Counter[str]
) -> Said:
    objects: list[Object] = []
    missed = 0
    for piece in notation.pieces(text):
        found = read_said(piece, notation, size, resized)
        if found is None and (cut := notation.cut(piece)) != piece:
            found = read_said(cut, notation, size, resized)
            repairs["numbers"] += found is not None
        missed += 1 if found is None else found.missed
        objects += [] if found is None else found.objects
    repairs["pieces"] += bool(objects)
    return Said(objects, missed, size, notation.shape == "box")


def _named(objects: Sequence[Object], classes: Sequence[str], repairs: Counter[str]) -> list[Object]:
    known: dict[str | None, tuple[str | None, str]] = {None: (None, "")}
    keys = {class_key(name): name for name in classes}
    for label in {one.label for one in objects} - {None}:
        known[label] = _class(label or "", classes, keys)
    for one in objects:
        if how := known[one.label][1]:
            repairs[how] += 1
    return [replace(one, label=known[one.label][0]) for one in objects]


def _class(label: str, classes: Sequence[str], keys: dict[str, str]) -> tuple[str, str]:
    """The class that a label means, or the label; and what was mended."""
    if label in classes:
        return label, ""
    key = class_key(label)
    if key in keys:
        return keys[key], "spelling"
    meant = [name for name in classes if key in map(class_key, SYNONYMS.get(name, ()))]
    if len(meant) == 1:
        return meant[0], "synonym"
    near = difflib.get_close_matches(key[:64], keys, 2, NEAR)
    return (keys[near[0]], "near") if near else (label, "")
