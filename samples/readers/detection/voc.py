"""Annotations of objects in XML, as Pascal VOC introduced them: what DIOR's and FAIR1M's readers share."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

from samples.readers.detection.objects import Found, in_words
from samples.readers.rows import RowFault, show
from vlm.common.errors import DataError

LOOKED = 20
"""Files that are looked at to tell what a folder holds: the first may be broken, or of pictures without objects."""


def parsed(path: Path) -> ElementTree.Element | RowFault:
    """The root of an annotation, or the fault of a file that is none. Raises: DataError where it cannot be opened."""
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return RowFault("wrong_type", "(whole file)", f"text that is no XML ({error})", "an annotation in XML")


def first(paths: list[Path], where: str) -> ElementTree.Element | None:
    """The first object of the first of these files that has one at `where`."""
    for path in paths[:LOOKED]:
        root = parsed(path)
        if not isinstance(root, RowFault) and (item := root.find(where)) is not None:
            return item
    return None


def found(
    root: ElementTree.Element, where: str, read: Callable[[ElementTree.Element], Found]
) -> Iterator[tuple[str, Found]]:
    """(place, object) of all objects at `where`. read: may raise RowFault."""
    for number, item in enumerate(root.findall(where), 1):
        try:
            yield f"object {number}", read(item)
        except RowFault as fault:
            yield f"object {number}", fault


def names(paths: list[Path], where: str, name: str, words: Callable[[str], str]) -> Iterator[str]:
    """The classes of all objects of these files, in words."""
    for path in paths:
        root = parsed(path)
        if not isinstance(root, RowFault):
            said = [(item.findtext(name) or "").strip() for item in root.findall(where)]
            yield from {words(one) for one in said if not isinstance(in_words(one), RowFault)}


def text(item: ElementTree.Element, name: str) -> str:
    """What an element says. Raises: RowFault where it says nothing."""
    said = (item.findtext(name) or "").strip()
    if not said:
        raise RowFault("missing_field", name, "none", "text")
    return said


def label(item: ElementTree.Element, name: str) -> str:
    """A class, in words. Raises: RowFault."""
    words = in_words(text(item, name), name)
    if isinstance(words, RowFault):
        raise words
    return words


def number(said: str | None, field: str) -> float:
    """Raises: RowFault for what is no number of pixels."""
    try:
        value = float(said or "")
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise RowFault("wrong_type", field, show(said), "a number of pixels")
    return value


def size(root: ElementTree.Element) -> list[int] | None:
    """[width, height] where the annotation states it, in whole pixels."""
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    return [int(side) for side in sides] if all(side.isdecimal() and len(side) < 9 for side in sides) else None
