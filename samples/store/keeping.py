"""The folder in which tables are kept. One process reads, checks and writes; the others of the node wait, and open.

    <cache>/tables/<file>-<digest of the settings>/lock           held while one looks, or builds
                                                   content.json   which bytes the file has (`content`)
                                                   <digest>/      the table: of these bytes, by this code
                                                   building/      a table that is not complete

A table is renamed into its place when it is complete. The lock is the kernel's and dies with its owner, so after
`kill -9` the next process finds what is half done, and builds anew. When a file has changed, the table of its old
content is removed; processes that have it open keep it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from filelock import FileLock, Timeout

from samples.store import content
from samples.store.table import ABOUT, Codec, Table, Writer

logger = logging.getLogger(__name__)
T = TypeVar("T")
LOCK, CONTENT, BUILDING = "lock", "content.json", "building"
ALONE = "alone"
LOOKS = 16
"""Rows of a kept table whose pictures are looked at when it is opened."""


@dataclass(frozen=True)
class Key:
    """What a table is of: a file, and everything that decides which records it becomes."""

    path: Path
    settings: dict[str, Any]
    "Of types that JSON has."
    cache: str | None = None
    "The recipe's `data.cache`."

    @property
    def folder(self) -> Path:
        said = json.dumps([str(self.path.absolute()), self.settings], sort_keys=True).encode()
        name = f"{self.path.stem[:60]}-{hashlib.sha256(said).hexdigest()[:16]}"
        return content.home(self.cache) / "tables" / name


@runtime_checkable
class Identified(Protocol):
    """A check of records that can say what it refuses: a part of a key.

    What it counts of the rows may stand in an attribute `tally`, a Counter: it is kept with them.
    """

    @property
    def identity(self) -> str: ...


Build = Callable[[Writer], dict[str, Any]]
"""Writes all records; returns what is to be known of them, for JSON. Where that says ALONE: False, they came from more
files than the one of the key; its bytes do not tell whether they have changed, and the table is not kept."""


def kept(key: Key | None, build: Build, codec: Codec[T], still: Callable[[T], bool]) -> Table[T]:
    """The table of a key; built where it is not there. None: in memory, for this process alone.

    still: whether the pictures of a record are as they were when it was checked; LOOKS records are asked.
    Raises: what `build` raises; DataError where the disk is full, or the file changes while it is read.
    """
    if key is None or not _writable(key.folder):
        return _in_memory(build, codec)
    with _locked(key.folder):
        state = content.stated(key.path)
        digest = content.digest(key.path, key.folder / CONTENT)
        target = key.folder / hashlib.sha256(f"{digest} {content.code()}".encode()).hexdigest()[:16]
        if target.is_dir() and (found := _opened(target, codec, still)) is not None:
            return found
        part = _built(key, state, build, codec)
        found = Table.open(part, codec)
        if not found.about.get(ALONE, True):
            return _unkept(found)
        for other in key.folder.iterdir():
            if other.is_dir() and other != part:
                shutil.rmtree(other, ignore_errors=True)
        part.rename(target)
        return Table.open(target, codec)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        with suppress(Timeout), lock.acquire(0):
            pass
    except (OSError, NotImplementedError) as error:  # a file system that is read-only, or knows no locks
        logger.warning(
            "%s: no table can be kept there (%s); every process reads all rows itself. NADIR_CACHE or data.cache "
            "names another folder",
            folder, error,
        )  # fmt: skip
        return False
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with FileLock(folder / LOCK):
        yield


@contextmanager
def alone(table: Table[Any]) -> Iterator[None]:
    """No other process of the node is inside for the same table."""
    if table.folder is None:
        yield
        return
    with _locked(table.folder.parent):
        yield


def once(table: Table[Any], name: str, check: Callable[[], None]) -> None:
    """A check of a table's records that passes is not made again. name: of the check and of all that it depends on."""
    mark = None if table.folder is None else table.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.passed"
    with alone(table):
        if mark is not None and mark.exists():
            return
        check()
        if mark is not None and mark.parent.is_dir():
            mark.touch()


def _opened(folder: Path, codec: Codec[T], still: Callable[[T], bool]) -> Table[T] | None:
    try:
        found = Table.open(folder, codec)
        looked = [found[len(found) * n // LOOKS] for n in range(LOOKS)] if len(found) else []
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are ValueErrors
        logger.warning("%s is damaged (%s), and is built anew", folder, error)
        return None
    return found if all(map(still, looked)) else None


def _in_memory(build: Build, codec: Codec[T]) -> Table[T]:
    writer = Writer(codec)
    return Table.made(writer, build(writer))


def _built(key: Key, state: list[int], build: Build, codec: Codec[Any]) -> Path:
    """The folder of the complete table, not yet in its place. state: of the file when its digest was taken."""
    part = key.folder / BUILDING
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        writer = Writer(codec, part)
        about = build(writer)
        about |= writer.close()
        (part / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        content.unchanged(key.path, state)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return part


def _unkept(table: Table[T]) -> Table[T]:
    """The same without its folder: what is mapped stays until the process ends."""
    assert table.folder is not None
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in table.folder.glob("*.npy")}
    shutil.rmtree(table.folder)
    return table.unkept(arrays)
