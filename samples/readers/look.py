"""A first look at a path: what kind of thing lies there, by whose traits a format knows its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from samples.readers.json_list import has_lists
from samples.readers.keys import renamed
from samples.readers.rows import RowFault, Rows
from samples.readers.tables import HUB, Hub, Parquet, saved
from vlm.common.errors import DataError

T = TypeVar("T")
JOINED = ("images", "annotations", "categories")
FIRST = 100
"""Rows among which those are looked for that tell the format."""


class Look:
    """A file, a folder or a dataset of the hub, opened but not read.

    Raises: DataError where nothing is there or it cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
    ):
        """columns: our name of a key ← the file's (`samples.readers.keys.renamed`). classes: those that detection is to
        ask for, in words; None for all of the data."""
        self.path, self.split, self.columns, self.classes = Path(path), split, columns or {}, classes
        try:
            self.is_hub = str(path).startswith(HUB) or saved(self.path)
            self.is_folder = not self.is_hub and self.path.is_dir()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        self._known: dict[str, Any] = {}
        self.rows: Rows | Parquet | Hub | None = None
        "The rows of a file; None for a folder."
        if self.is_hub:
            self.rows = Hub(str(path), split)
        elif not self.is_folder:
            self.rows = Parquet(self.path) if Parquet.holds(self.path) else Rows(self.path)

    @property
    def home(self) -> Path:
        """The file or folder itself: where images lie, and what the samples' source is called."""
        return Path(str(self.path).removeprefix(HUB)) if self.is_hub else self.path

    def unit(self, where: int | str) -> str:
        """How messages name a row: "line 3"; a walker's own words as they are."""
        return where if isinstance(where, str) else f"{'row' if self.rows is None else self.rows.unit} {where}"

    @property
    def is_table(self) -> bool:
        return isinstance(self.rows, Parquet | Hub)

    @property
    def key(self) -> str | None:
        """The key under which a JSON file holds its list."""
        return None if self.rows is None else self.rows.key

    @cached_property
    def first(self) -> list[dict[str, Any]]:
        """The first rows that are objects, without the images of tables; none for a folder."""
        return list(islice(self.good(), FIRST))

    @cached_property
    def wrong(self) -> str | None:
        """`Rows.wrong` of a file of text."""
        return self.rows.wrong() if isinstance(self.rows, Rows) and not self.joined else None

    def once(self, name: str, find: Callable[[], T]) -> T:
        """What `find` gives, asked once: some traits take a pass over the file, and several formats ask for them."""
        if name not in self._known:
            self._known[name] = find()
        return self._known[name]

    def each(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        """The rows of a file; none for a folder."""
        if not self.columns:
            return iter(() if self.rows is None else self.rows)
        rows: Any = () if self.rows is None else self.rows
        return ((n, row if isinstance(row, RowFault) else renamed(row, self.columns)) for n, row in rows)

    @cached_property
    def joined(self) -> bool:
        """Whether a file is one object whose lists refer to each other (COCO), so that it has no rows of its own."""
        text = isinstance(self.rows, Rows) and not self.rows.is_list and self.path.suffix == ".json"
        return text and has_lists(self.path, JOINED)

    def good(self) -> Iterator[dict[str, Any]]:
        good = iter(()) if self.rows is None or self.joined else self.rows.good()
        return (renamed(row, self.columns) for row in good) if self.columns else good


def one_of(look: Look, found: Sequence[Path], what: str) -> Path:
    """The one of several files or folders that `split` names. Raises: DataError where that is not one."""
    if look.split is not None:
        found = [path for path in found if look.split in path.stem.split("_") or path.stem.endswith(f"_{look.split}")]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        said = "no split" if look.split is None else f"split {look.split!r}"
        raise DataError(f"{look.path}: {what} found for {said}: {names}; name one by `split:`, or point `path` at it")
    return found[0]


def files(folder: Path, suffix: str, limit: int | None = None) -> list[Path]:
    """Files of a folder with this ending, sorted by name. Raises: DataError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(suffix) and entry.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    return [folder / name for name in names[:limit]]
