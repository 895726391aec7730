"""Walk over the items of a JSON list without holding the file: memory is that of one item and one block.

    [{…}, {…}]                       a list                          ListFile(path)
    {"questions": [{…}, {…}]}        a list inside an object         ListFile(path, "questions")
    {"a": [{…}], "b": [{…}]}         all lists of an object          ListFile(path, EVERY); a row says its list there
    {"a": [{…}], "b": {…}, …}        some lists of an object         lists(path, {"a"}): each item with its list's key

The standard library's decoder does the parsing. ijson, which would do the walking as well, turns half a surrogate pair
into "?" and refuses NaN and integers beyond 64 bits, so it would read other rows than `json.loads` does.
"""

from __future__ import annotations

import codecs
import json
import mmap
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from samples.readers.encoding import undecoded
from vlm.common.errors import DataError

BLOCK = 1 << 18
EVERY = "*"
"""The key of all keys; a row has the name of its list under it."""
LONGEST = 1 << 28
"""Characters that one item of a list may take before the list counts as broken."""
_MARK = re.compile(r"[^ \t\n\r]")


class Twice:
    """In the place of a row in which a key stands twice: a parser would silently keep the last value."""

    def __init__(self, key: str):
        self.key = key


class Once:
    """Its `object` is an `object_pairs_hook` that remembers a key that stands twice in an object of the row."""

    def __init__(self) -> None:
        self.twice: str | None = None

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self.twice = next(name for place, name in enumerate(names) if name in names[:place])
        return found


class ListFile:
    """The items of a JSON list, read again on each pass.

    key: the list is the value of this key of the object that the file holds; what stands behind it is not read.
    once: where it is given, rows in which a key stands twice come as `Twice`.
    """

    def __init__(self, path: Path, key: str | None = None, once: Once | None = None):
        self.path, self.key, self.once = path, key, once

    def __iter__(self) -> Iterator[Any]:
        """Raises: DataError where the file is no such JSON; the items before are given first."""
        with self.path.open("rb") as file:
            walk = _Walk(self.path, file, self.once)
            if self.key == EVERY:
                yield from walk.lists()
                return
            if self.key is not None:
                walk.enter(self.key)
            yield from walk.items()
            if self.key is None:
                walk.finish()


def lists(path: Path, wanted: Collection[str], once: Once | None = None) -> Iterator[tuple[str, Any]]:
    """(key, item) of the lists that stand under the keys `wanted` of the object that a file holds, in one pass.

    once: as in `ListFile`. Raises: DataError where the file is no such JSON, a key stands twice, or one is missing.
    """
    with path.open("rb") as file:
        walk = _Walk(path, file, once)
        walk.expect("{")
        seen: set[str] = set()
        separator = walk.mark()
        while separator != "}":
            key = walk.item()
            walk.expect(":")
            if key in seen:
                raise walk.broken(f"the key {key!r} stands twice")
            seen.add(key)
            if key in wanted:
                yield from ((key, item) for item in walk.items())
            else:
                walk.item()
            separator = walk.mark()
            walk.position += separator == ","
            if separator not in (",", "}"):
                raise walk.broken(f"found {separator or 'the end of the file'!r}, expected ',' or '}}'")
        walk.position += 1
        walk.finish()
        if missing := [key for key in wanted if key not in seen]:
            raise walk.broken(f"no list under the key {missing[0]!r}")


def has_lists(path: Path, keys: Collection[str]) -> bool:
    """Whether a file is one object and has lists under all of these keys somewhere, by its bytes alone."""
    try:
        with path.open("rb") as file:
            if not re.match(rb"(?:\xef\xbb\xbf)?\s*\{", file.read(64)):
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if re.match(rb"[^\n]*\}\s*\n\s*\{", data):  # an object a line: rows
                    return False
                return all(re.search(rb'"%b"\s*:\s*\[' % re.escape(key.encode()), data) for key in keys)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


class _Walk:
    """`text[position:]` is what was read of the file and not yet walked over."""

    def __init__(self, path: Path, file: BinaryIO, once: Once | None):
        self.path, self.file = path, file
        self.bytes = codecs.getincrementaldecoder("utf-8-sig")()
        self.once = once
        self.json = json.JSONDecoder(object_pairs_hook=None if once is None else once.object)
        self.text, self.position, self.ended, self.count = "", 0, False, 0

    def enter(self, wanted: str) -> None:
        """Walk into an object, past the values of other keys, up to the list."""
        self.expect("{")
        while self.mark() == '"':
            key = self.item()
            self.expect(":")
            if key == wanted:
                return
            self.item()
            if self.mark() == ",":
                self.position += 1
        raise self.broken(f"no list under the key {wanted!r}")

    def lists(self) -> Iterator[Any]:
        """The items of all lists of an object."""
        self.expect("{")
        separator = ","
        while separator == ",":
            name = self.item()
            self.expect(":")
            yield from ({**item, EVERY: name} if isinstance(item, dict) else item for item in self.items())
            separator = self.mark()
            self.position += 1
        if separator != "}":
            raise self.broken(f"found {separator or 'the end of the file'!r}, expected ',' or '}}'")

    def items(self) -> Iterator[Any]:
        self.expect("[")
        separator = "]" if self.mark() == "]" else ","
        self.position += separator == "]"
        while separator == ",":
            item = self.item()
            self.count += 1
            twice = None if self.once is None else self.once.twice
            yield item if twice is None else Twice(twice)
            separator = self.mark()
            self.position += 1
        if separator != "]":
            raise self.broken(f"found {separator or 'the end of the file'!r}, expected ',' or ']'")

    def finish(self) -> None:
        if self.mark():
            raise self.broken(f"found {self.text[self.position : self.position + 20]!r} after the list")

    def expect(self, mark: str) -> None:
        if (found := self.mark()) != mark:
            raise self.broken(f"found {found or 'the end of the file'!r}, expected {mark!r}")
        self.position += 1

    def mark(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            if found := _MARK.search(self.text, self.position):
                self.position = found.start()
                return found[0]
            self.position = len(self.text)
            if self.ended:
                return ""
            self.more(BLOCK)

    def item(self) -> Any:
        """The value that begins at the next mark; reads on until it is whole."""
        self.mark()
        while True:
            if self.once is not None:
                self.once.twice = None
            try:
                item, end = self.json.raw_decode(self.text, self.position)
                # a number that is cut in two is a number, too: only what ends it shows that it is whole
                if not isinstance(item, int | float) or self.ended or self.text[end : end + 1] in tuple(" \t\r\n,]}"):
                    self.position = end
                    return item
            except (ValueError, RecursionError) as error:
                if self.ended or len(self.text) - self.position > LONGEST:
                    raise self.broken(str(error)) from error
            self.more(max(BLOCK, len(self.text) - self.position))  # doubling: a long item is not parsed at each block

    def more(self, size: int) -> None:
        block = self.file.read(size)
        self.ended = not block
        try:
            self.text, self.position = self.text[self.position :] + self.bytes.decode(block, final=self.ended), 0
        except UnicodeDecodeError as error:
            raise self.broken(undecoded(self.path, error.object, error)) from error

    def broken(self, why: str) -> DataError:
        return DataError(
            f"{self.path}: found text that is no JSON behind row {self.count} ({why}), expected a list of rows"
        )
