"""The rows of corpora that do not fit into memory, and writing some of them back as they were.

`vlm.readers.rows.Rows` streams JSONL but holds a JSON list whole, which training does anyway. Here lists are streamed,
too, by the standard library's decoder: ijson, which would do the walking, turns half a surrogate pair into "?" and
refuses NaN and integers beyond 64 bits, so it would read other rows than training does.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from json.decoder import WHITESPACE
from pathlib import Path
from typing import Any, BinaryIO

from vlm.errors import DataError
from vlm.readers.rows import RowFault, Rows, show

BLOCK = 1 << 18
LONGEST = 1 << 28
"""Characters that one row of a list may take before the list counts as broken."""


class Stream(Rows):
    """`Rows` that holds no file in memory: each pass reads it anew, list or lines.

    `items` only says whether the file is a list: None or empty.
    """

    def __init__(self, path: Path):
        self.path, self.items = path, None
        try:
            with path.open("rb") as file:
                start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        if start.startswith(b"["):
            self.items = []

    @property
    def is_list(self) -> bool:
        return self.items is not None

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        """(number from 1, row or fault). Raises: DataError where a list is no JSON; the rows before are given first."""
        if not self.is_list:
            yield from super().__iter__()
            return
        with self.path.open("rb") as file:
            for number, item in enumerate(_List(self.path, file), 1):
                if isinstance(item, dict):
                    yield number, item
                else:
                    expected = "a JSON object with named fields"
                    yield number, RowFault("wrong_type", "(whole row)", show(item), expected)


class _List:
    """Walks over the items of a JSON list; `text[position:]` is what was read of the file and not yet walked over."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.bytes = codecs.getincrementaldecoder("utf-8-sig")()
        self.json = json.JSONDecoder()
        self.text, self.position, self.ended, self.count = "", 0, False, 0

    def __iter__(self) -> Iterator[Any]:
        self.mark()
        self.position += 1  # behind the "["
        separator = "]" if self.mark() == "]" else ","
        self.position += separator == "]"
        while separator == ",":
            yield self.item()
            separator = self.mark()
            self.position += 1
        if separator != "]":
            raise self.broken(f"found {separator or 'the end of the file'!r}, expected ',' or ']'")
        if self.mark():
            raise self.broken(f"found {self.text[self.position : self.position + 20]!r} after the list")

    def mark(self) -> str:
        """The next character that is not white space; "" at the end of the file."""
        while True:
            self.position = WHITESPACE.match(self.text, self.position).end()
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.more(BLOCK)

    def item(self) -> Any:
        """The item that begins at the next mark; reads on until it is whole."""
        self.mark()
        while True:
            try:
                item, end = self.json.raw_decode(self.text, self.position)
                # a number that is cut in two is a number, too: only what ends it shows that it is whole
                if not isinstance(item, int | float) or self.ended or self.text[end : end + 1] in tuple(" \t\r\n,]"):
                    self.position, self.count = end, self.count + 1
                    return item
            except (ValueError, RecursionError) as error:
                if self.ended or len(self.text) - self.position > LONGEST:
                    raise self.broken(str(error)) from error
            self.more(max(BLOCK, len(self.text) - self.position))  # doubling: a long row is not parsed at each block

    def more(self, size: int) -> None:
        block = self.file.read(size)
        self.ended = not block
        try:
            self.text, self.position = self.text[self.position :] + self.bytes.decode(block, final=self.ended), 0
        except UnicodeDecodeError as error:
            raise self.broken(f"bytes that are no UTF-8: {error}") from error

    def broken(self, why: str) -> DataError:
        return DataError(
            f"{self.path}: found text that is no JSON behind row {self.count} ({why}), expected a list of rows"
        )


def write(path: Path, rows: Iterable[dict[str, Any]], as_list: bool) -> int:
    """Rows as a JSON list (one row a line) or as JSONL; returns how many. The file appears whole or not at all."""
    part, count = path.with_name(path.name + ".part"), 0
    with part.open("wb") as file:
        for row in rows:
            if as_list:
                file.write(b",\n" if count else b"[\n")
            file.write(_line(row) + (b"" if as_list else b"\n"))
            count += 1
        if as_list:
            file.write(b"\n]\n" if count else b"[]\n")
    part.replace(path)
    return count


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair in a field that nobody reads can only be written escaped
        return json.dumps(row).encode()
