"""Results that are written as they come, and that outlive a kill: append-only JSONL, each record in one write.

Where several processes write, each has a part of its own, and whoever resumes reads the whole lines of all parts, also
those of a run with another number of processes:

    <folder>/<name>.<rank>.jsonl

What the results depend on goes into the name, or beside each record, as a `fingerprint`: results by another model, of
other data or under other settings are never taken for these.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from vlm.common.errors import DataError
from vlm.common.section import Section

EDGE = 1 << 20
"""Bytes at either end of a data file that stand for its content: corpora are too large to be read once more."""


def fingerprint(*parts: Any) -> str:
    """Ten hexadecimal digits of recipe sections, texts and numbers."""
    plain = [part.model_dump() if isinstance(part, Section) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]


def state_of_file(path: str | Path) -> list:
    """Tells two contents of a data file apart: its length and its first and last megabyte."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - EDGE))
        digest.update(file.read(EDGE))
    return [length, digest.hexdigest()]


def state_of_checkpoint(path: str, revision: str | None) -> list:
    """Tells two contents of a checkpoint apart: a folder's files with lengths and times; a hub id by its revision."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [path, revision]
    files = sorted(entry for entry in folder.iterdir() if entry.suffix in (".json", ".safetensors", ".bin"))
    return [[entry.name, entry.stat().st_size, entry.stat().st_mtime_ns] for entry in files]


def whole_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(its place, for messages; the line) of each line that is not blank; a last one that was torn off is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and line.strip():
                yield f"{path}, line {number}", line[:-1]


def records(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The records of all parts. Raises: DataError where a whole line is no JSON: somebody edited the file."""
    for path in sorted(folder.glob(f"{name}.*.jsonl")):
        for where, line in whole_lines(path):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: found no JSON ({error}); delete the file") from error
            yield record


def encoded(record: dict[str, Any]) -> bytes:
    """The record as JSON in UTF-8."""
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair in a text can only be written escaped
        return json.dumps(record).encode()


class Journal:
    """A file opened for appending, its folder made where there is none; a torn last line is cut off first."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 (a context manager itself)
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        kept, block = end, 1 << 16
        while kept:  # look for the last newline from behind
            start = max(0, kept - block)
            self._file.seek(start)
            found = self._file.read(kept - start).rfind(b"\n")
            if found >= 0:
                kept = start + found + 1
                break
            kept = start
        if kept < end:
            os.truncate(self.path, kept)

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; it is in the hands of the operating system when this returns."""
        self._file.write(encoded(record) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()


class Part(Journal):
    """One process's part."""

    def __init__(self, folder: Path, name: str, rank: int):
        super().__init__(folder / f"{name}.{rank}.jsonl")
