"""Rows of JSON and JSONL files, the faults they can have, and where their images lie.

A fault belongs to one row and carries a `kind`, so that `on_fault="skip"` can count what it left out:

    json  encoding  twice  wrong_type  missing_field  unknown_task  missing_image  unreadable_image  strip
    image_tag  conversation  outside  no_boxes  box_text  box_inverted  box_outside  size_mismatch  choices
    not_a_choice  split_index  unknown_key  other_key  control_token
    empty_reply  cut_picture  cut_reply  zoom  mask

A row that is sound but asks nothing (an inactive stub, an object without a sentence) is `LeftOut`: counted, no error.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.encoding import refuse, undecoded
from samples.readers.json_list import EVERY, ListFile, Once, Twice
from samples.readers.names import Names
from vlm.common.errors import DataError
from vlm.pictures import images, rasters
from vlm.sections import RasterSection

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2")
"""Of image files; tried in this order, and in capitals, where a row names its image without one."""
REMEMBERED = 4096
"""Images whose place and size are kept at a time: consecutive rows share an image, and memory stays flat."""
STRIP = 200
"""Longer side by shorter side that Qwen2-VL takes (`vlm.shapes.smart_resize`)."""
_INSIDE = re.compile(rb'\{\s*"(?:(questions|answers|data)"\s*:\s*\[|(qtype)"\s*:)')
_WRAPPED = re.compile(rb'\{\s*(?:"\w+"\s*:\s*"[^"]*"\s*,\s*)*"(images|annotations)"\s*:\s*\[\s*\{')
_WITHIN = {"images": (b'"sentences"', b'"sentids"'), "annotations": (b'"text_output"', b'"caption"', b'"qa_pairs"')}
"""What the first rows of captions have: rows of our own begin with `{"images": [`, too."""
_CLASSES = re.compile(rb'\{\s*"[^"\\]*"\s*:\s*\[\s*\{[^{}\[\]]*"raw(?:_\d)?"\s*:')


ONE = "one JSON object per line"


class RowFault(DataError):
    """One row is wrong. `str(fault)` says field, found and expected; file and row are put before it."""

    def __init__(self, kind: str, field: str, found: str, expected: str):
        super().__init__(f"field '{field}': found {found}, expected {expected}")
        self.kind = kind


class LeftOut(RowFault):
    """One row is no question that a task could score. `kind` says why; it is counted and never an error."""

    def __init__(self, kind: str, why: str):
        DataError.__init__(self, why)
        self.kind = kind


def show(value: Any, limit: int = 80) -> str:
    """A value as messages quote it: its repr, cut."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Rows:
    """The rows of one file as (number, row or RowFault), counting lines or list items from 1; streamed, on each pass.

    The first characters tell the layouts apart: a list begins with `[`, which no row does; RSVQA and LHRS-Bench put
    their list under a key of an object, captions too.
    Raises: DataError where the file is missing or unreadable; while iterating where a list is no JSON.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                start = file.read(4096)
        except FileNotFoundError as error:
            cause = Names().cause([str(path)], os.getcwd())
            said = "" if path.is_absolute() else f" ({path.absolute()})"
            raise DataError(f"{path}: no such file{said}" + (f"; {cause}" if cause else "")) from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        refuse(path, start)
        start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        self.key = _key(start)
        "The key that the list stands under."
        self.is_list = self.key is not None or start.startswith(b"[")
        self.unit = "row" if self.is_list else "line"

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        return self._each(Once())

    def _each(self, once: Once | None) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        """once: looks for keys that stand twice, which takes a microsecond a row."""
        if self.is_list:
            for number, item in enumerate(ListFile(self.path, self.key, once), 1):
                yield number, item if isinstance(item, dict) else _no_object(item)
            return
        decoder = json.JSONDecoder(object_pairs_hook=None if once is None else once.object)
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.isspace() and line:
                    yield number, self._parsed(line, decoder, once)

    def good(self) -> Iterator[dict[str, Any]]:
        """The rows that are objects at all."""
        return (row for _, row in self._each(None) if not isinstance(row, RowFault))

    def wrong(self) -> str | None:
        """Of a file in which no row is an object: what its first row is instead; None where there is none."""
        if next(self.good(), None) is not None:
            return None
        return next((f"{self.unit} {number}, {row}" for number, row in self), None)

    def _parsed(self, line: bytes, decoder: json.JSONDecoder, once: Once | None) -> dict[str, Any] | RowFault:
        if once is not None:
            once.twice = None
        try:
            item = decoder.decode(line.decode())
        except UnicodeDecodeError as error:
            return RowFault("encoding", "(whole row)", undecoded(self.path, line, error), "UTF-8")
        except (ValueError, RecursionError) as error:
            return RowFault("json", "(whole row)", f"{line[:60].decode(errors='ignore').strip()!r} ({error})", ONE)
        if once is not None and once.twice is not None:
            return _no_object(Twice(once.twice))
        return item if isinstance(item, dict) else _no_object(item)


def _key(start: bytes) -> str | None:
    """The key of an object that a list of rows stands under, by the file's first characters."""
    if inside := _INSIDE.match(start):
        return "data" if inside[2] else inside[1].decode()
    if wrapped := _WRAPPED.match(start):
        key = wrapped[1].decode()
        return key if any(mark in start for mark in _WITHIN[key]) else None
    return EVERY if _CLASSES.match(start) else None


def _no_object(item: Any) -> RowFault:
    if isinstance(item, Twice):
        expected = "each key once: a parser would keep the last value and drop the others"
        return RowFault("twice", item.key, "this key twice in one object", expected)
    return RowFault("wrong_type", "(whole row)", show(item), "a JSON object with named fields")


class Place:
    """Where a file's images lie, and their sizes, read once each.

    `root` is the folder the recipe names (`images:`); without it, the folder of the file itself.

    A file that was downloaded must not choose what is read from this disk. So a name in a row stays below the folder
    that it starts from: no `..` leads out of it, and an absolute path lies below `root`. `absolute` takes any absolute
    path (our own JSONL, which our own stages write so); `outside`, which only a recipe says, takes everything.
    Symbolic links are followed: they are this disk's owner's, and the hub's cache consists of them.

    raster: how the images are read that are found here; it goes with their names from here on
    (`vlm.pictures.rasters`). A name in a row that says so itself keeps what it says.
    """

    def __init__(
        self,
        path: Path,
        root: str | os.PathLike[str] | None = None,
        outside: bool = False,
        absolute: bool = False,
        raster: RasterSection | None = None,
        frames: int | None = None,
    ):
        self.raster = raster
        self.frames = frames
        "How many pictures of one place a row shows at most; None for all (`samples.readers.temporal.series`)."
        self.path, self.outside, self.absolute = path, outside, absolute or outside
        self.given = root is not None
        self.dropped: list[tuple[str, str]] = []
        "Objects of the current row that are left out: kind, and what was found."
        self.root = Path(root if root is not None else path if path.is_dir() else path.parent).absolute()
        self._at = str(self.root)  # joining texts is an order of magnitude faster than joining Paths
        self._found: dict[tuple[Any, ...], str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._names = Names()
        self.swaps = 0
        "Names in rows whose files have another suffix (`seek`)."
        self.swap = ""
        "The first of them."
        self.alone = True
        "Whether rows are what the file says: false once truth was read from files beside it, as masks are."
        self.told: Counter[str] = Counter()
        "What was done to objects of rows → how often; said once, when all are read."

    def own(self, name: str, field: str = "images") -> str:
        """A name from a row, if a row may reach that far. Raises: RowFault."""
        if not self.reaches(name):
            raise RowFault(
                "outside",
                field,
                show(name),
                f"a name below {self.root} (`outside: true` at the source lets trusted rows name any file)",
            )
        return name

    def check(self, names: Any) -> None:
        """`own` of each path in a list as rows have it; data URLs, bytes and what is no list at all pass."""
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and not name.startswith("data:"):
                self.own(name)

    def reaches(self, name: str) -> bool:
        """Whether a row may name this file or folder."""
        if ".." not in name and (self.absolute or not name.startswith("/")):
            return True
        plain = os.path.normpath(name)
        if os.path.isabs(plain):
            return self.absolute or f"{plain}/".startswith(f"{self._at.rstrip('/')}/")
        return self.outside or plain.partition("/")[0] != ".."

    def find(self, *candidates: str | Path) -> str:
        """The first candidate that is a file, as an absolute path; relative ones start at `root`.

        What of a candidate a row has said went through `own`.
        """
        found = self._found.get(candidates)
        if found is not None:
            return found
        tried = []
        for candidate in candidates:
            plain, mark, said = str(candidate).partition(rasters.MARK)
            name = os.path.normpath(os.path.join(self._at, plain))
            if os.path.isfile(name):
                named = name + (mark + said or rasters.mark(self.raster))
                if len(self._found) >= REMEMBERED:
                    self._found.clear()  # forgetting all is cheaper than keeping an order
                self._found[candidates] = self._found[(named,)] = named
                return named
            tried.append(name)
        said = " or ".join(map(repr, tried[:4])) + (f" or {len(tried) - 4} more" if len(tried) > 4 else "")
        expected = f"an image file that exists{self.cause(*candidates)}"
        raise RowFault("missing_image", "images", said, expected)

    def cause(self, *candidates: str | Path) -> str:
        """Why none of them is there, behind what was expected: "; there is one named …"; "" where that is unknown."""
        cause = self._names.cause(map(str, candidates), self._at)
        return "" if cause is None else f"; {cause}"

    def seek(self, name: Any, folders: tuple[str, ...] = (), field: str = "image", swap: bool = False) -> str:
        """An image by file name or by id without a suffix: at `root`, or in the first of `folders` where it lies.

        swap: take the one of another image suffix where that of the name is not there; `swaps` counts such names.
        """
        if not isinstance(name, str) or not name:
            raise RowFault("wrong_type", field, show(name), "the name of an image file")
        known = (name, folders)
        if (found := self._found.get(known)) is None:
            found = self._found[known] = self._search(name, folders, field, swap)
        if swap and not found.endswith(name[-4:]) and name.lower().endswith(SUFFIXES):
            self.swaps += 1
            self.swap = self.swap or f"{name!r} is {os.path.basename(found)!r}"
        return found

    def _search(self, name: str, folders: tuple[str, ...], field: str, swap: bool) -> str:
        self.own(name, field)
        places = [os.path.join(folder, name) for folder in ("", *folders)]
        endings = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))
        if rasters.MARK not in name and not name.lower().endswith(SUFFIXES):
            return self.find(*(place + ending for place in places for ending in ("", *endings)))
        try:
            return self.find(*places)
        except RowFault:
            there = self._other_suffixes(places, endings) if swap else []
            if len(there) != 1:
                if there:
                    names = " and ".join(map(os.path.basename, there))
                    expected = f"an image file that exists; there are {names}, and which is meant cannot be seen"
                    raise RowFault("missing_image", "images", show(name), expected) from None
                raise
            return there[0]

    def _other_suffixes(self, places: list[str], endings: tuple[str, ...]) -> list[str]:
        """Files of the same name but for the suffix, in the first folder that has any."""
        for place in places:
            stem = os.path.normpath(os.path.join(self._at, os.path.splitext(place)[0]))
            if there := [stem + ending for ending in endings if os.path.isfile(stem + ending)]:
                return there
        return []

    def image(self, name: Any) -> str | bytes:
        """An image as rows have it: a path, `data:…;base64,…`, or encoded bytes (tables).

        An absolute path counts as found already: whoever takes one from a row asks `own`.
        """
        if isinstance(name, bytes):
            return rasters.named(name, self.raster)
        if not isinstance(name, str):
            raise RowFault("wrong_type", "images", show(name), "a list of paths")
        if not name.startswith("data:"):
            return self.find(name if os.path.isabs(name) else self.own(name))
        try:
            return rasters.named(base64.b64decode(name.partition(",")[2], validate=True), self.raster)
        except (binascii.Error, ValueError) as error:
            raise RowFault("unreadable_image", "images", show(name), "base64 after 'data:;base64,'") from error

    def size(self, image: str | bytes) -> tuple[int, int]:
        """(w, h) in pixels of an image, upright; a RowFault where its header cannot be read, or for a strip."""
        if isinstance(image, str) and image in self._sizes:
            return self._sizes[image]
        try:
            size = images.size(image)
        except DataError as error:
            raise RowFault("unreadable_image", "images", str(error), "an image that can be shown") from error
        if max(size) > STRIP * min(size):
            found = f"{images.describe(image)} of {size[0]} x {size[1]} pixels"
            raise RowFault("strip", "images", found, f"sides that differ at most {STRIP} times; cut it into tiles")
        if isinstance(image, str):
            if len(self._sizes) >= REMEMBERED:
                self._sizes.clear()
            self._sizes[image] = size
        return size
