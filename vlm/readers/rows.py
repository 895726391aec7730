"""Rows of JSON and JSONL files, the faults they can have, and where their images lie.

A fault belongs to one row and carries a `kind`, so that `on_fault="skip"` can count what it left out:

    json  wrong_type  missing_field  unknown_task  missing_image  unreadable_image  image_tag  conversation
    no_boxes  box_text  box_inverted  box_outside  size_mismatch  choices  not_a_choice
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm import images
from vlm.errors import DataError


class RowFault(DataError):
    """One row is wrong. `str(fault)` says field, found and expected; file and row are put before it."""

    def __init__(self, kind: str, field: str, found: str, expected: str):
        super().__init__(f"field '{field}': found {found}, expected {expected}")
        self.kind = kind


def show(value: Any, limit: int = 80) -> str:
    """A value as messages quote it: its repr, cut."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Rows:
    """The rows of one file as (number, row or RowFault), counting lines or list items from 1.

    JSONL is streamed and read anew on each pass; a JSON list is loaded once. The first character tells them
    apart: a list begins with `[`, which no row does.
    Raises: DataError where the file is missing, unreadable, or a list that is no JSON.
    """

    def __init__(self, path: Path):
        self.path = path
        self.items: list[Any] | None = None
        try:
            with path.open("rb") as file:
                start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
                if start.startswith(b"["):
                    file.seek(0)
                    self.items = json.loads(file.read())
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: found text that is no JSON ({error}), expected a list of rows") from error

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        if self.items is not None:
            for number, item in enumerate(self.items, 1):
                yield number, _mapping(item)
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, _parsed(line)

    def good(self) -> Iterator[dict[str, Any]]:
        """The rows that are objects at all."""
        return (row for _, row in self if not isinstance(row, RowFault))


def _parsed(line: bytes) -> dict[str, Any] | RowFault:
    try:
        return _mapping(json.loads(line))
    except (ValueError, RecursionError) as error:
        found = line[:60].decode("utf-8", "replace").strip()
        return RowFault("json", "(whole row)", f"{found!r} ({error})", "one JSON object per line")


def _mapping(item: Any) -> dict[str, Any] | RowFault:
    if isinstance(item, dict):
        return item
    return RowFault("wrong_type", "(whole row)", show(item), "a JSON object with named fields")


class Place:
    """Where a file's images lie, and their sizes, read once each.

    `root` is the folder the recipe names (`images:`); without it, the folder of the file itself.
    """

    def __init__(self, path: Path, root: str | os.PathLike[str] | None = None):
        self.path = path
        self.given = root is not None
        self.root = Path(root if root is not None else path.parent).absolute()
        self._sizes: dict[str, tuple[int, int]] = {}

    def find(self, *candidates: str | Path) -> str:
        """The first candidate that is a file, as an absolute path; relative ones start at `root`."""
        tried = [os.path.normpath(self.root / candidate) for candidate in candidates]
        for name in tried:
            if os.path.isfile(name):
                return name
        raise RowFault("missing_image", "images", " or ".join(map(repr, tried)), "an image file that exists")

    def image(self, name: Any) -> str | bytes:
        """An image as our own JSONL writes it: a path, or `data:…;base64,…`."""
        if not isinstance(name, str):
            raise RowFault("wrong_type", "images", show(name), "a list of paths")
        if not name.startswith("data:"):
            return self.find(name)
        try:
            return base64.b64decode(name.partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise RowFault("unreadable_image", "images", show(name), "base64 after 'data:;base64,'") from error

    def size(self, image: str | bytes) -> tuple[int, int]:
        """(w, h) in pixels of an image, upright; a RowFault where its header cannot be read."""
        if isinstance(image, str) and image in self._sizes:
            return self._sizes[image]
        try:
            size = images.size(image)
        except DataError as error:
            raise RowFault("unreadable_image", "images", str(error), "an image that Pillow can read") from error
        if isinstance(image, str):
            self._sizes[image] = size
        return size
