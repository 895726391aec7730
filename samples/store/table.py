"""Records one after another in Arrow: written in pieces, read one by one without a copy of the others.

One file of record batches (Arrow's IPC file format), each of at most PIECE bytes or one record, so that no column
reaches the 2 GiB of Arrow's short offsets, and a process that maps the file has none of its rows in memory of its own.
Beside each record stand the number of its kind (`facts`) and a hash of its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

import numpy as np

from samples.store.packed import pack, unpack
from vlm.common.errors import DataError

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
PIECE = 32 * 2**20
"""Bytes of records and pictures after which a piece is written."""
MOST = 2**16
"""Records after which it is."""
ROWS, ABOUT = "rows.arrow", "about.json"


@dataclass(frozen=True)
class Codec(Generic[T]):
    """What a table must know of the dataclass of its records, which have `images`, `source` and `id`."""

    make: Callable[[dict[str, Any]], T]
    "A record of its fields as JSON has them."
    facts: Callable[[T], tuple[Any, ...]]
    "What is noted of a record: few different ones, of types that JSON has."
    known: Callable[[tuple[Any, ...]], tuple[Any, ...]] = tuple
    "The facts, of a tuple."


def name_key(source: str, id: str) -> int:
    """A record's name as a number below 2⁶⁴: two of four million share one by chance in one data set of two million."""
    return int.from_bytes(hashlib.blake2b(f"{source}\0{id}".encode(), digest_size=8).digest(), "little")


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    pictures = pa.large_list(pa.large_binary())
    return pa.schema(
        [("record", pa.large_binary()), ("pictures", pictures), ("kind", pa.uint32()), ("name", pa.uint64())]
    )


class Writer:
    """Writes records to a file, or keeps their pieces in memory. `close` says what `Table` must know of them."""

    def __init__(self, codec: Codec[Any], folder: Path | None = None, piece: int = PIECE):
        import pyarrow as pa

        self.codec, self.folder, self.piece = codec, folder, piece
        self.schema, self.count = _schema(), 0
        self.kinds: dict[tuple[Any, ...], int] = {}
        self.batches: list[pyarrow.RecordBatch] = []
        self.arrays: dict[str, np.ndarray] = {}
        "Whatever else was noted of each record, by name (`Table.array`)."
        self._file = None if folder is None else (folder / ROWS).open("wb")
        self._sink = None if self._file is None else pa.ipc.new_file(self._file, self.schema)
        self._begin()

    def _begin(self) -> None:
        self._records: list[bytes] = []
        self._pictures: list[list[bytes]] = []
        self._kinds, self._names, self._held = array("I"), array("Q"), 0

    def add(self, record: Any) -> None:
        packed, pictures = pack(record)
        self._records.append(packed)
        self._pictures.append(pictures)
        self._kinds.append(self.kinds.setdefault(self.codec.facts(record), len(self.kinds)))
        self._names.append(name_key(record.source, record.id))
        self._held += len(packed) + sum(map(len, pictures))
        self.count += 1
        if self._held >= self.piece or len(self._records) >= MOST:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._records:
            return
        values: list[Any] = [self._records, self._pictures, np.asarray(self._kinds), np.asarray(self._names)]
        arrays = [pa.array(value, kind) for value, kind in zip(values, self.schema.types, strict=True)]
        batch = pa.record_batch(arrays, self.schema)
        self._begin()
        if self._sink is None:
            self.batches.append(batch)
        else:
            with self._written():
                self._sink.write_batch(batch)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.folder}: rows cannot be written there: {error}; NADIR_CACHE or data.cache names another folder"
            ) from error

    def close(self) -> dict[str, Any]:
        """Everything is on the disk then, also after the machine's power fails."""
        self._flush()
        size = None
        with self._written():
            if self._sink is not None and self._file is not None:
                self._sink.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                size = self._file.tell()
                self._file.close()
            if self.folder is not None:
                for name, found in self.arrays.items():
                    np.save(self.folder / f"{name}.npy", found)
        return {"rows": self.count, "bytes": size, "kinds": list(self.kinds)}


class Records(Sequence[T], Generic[T]):
    """Records by their numbers, as those of a list: counted from the end, too, and in slices. Nothing in it changes."""

    def record(self, number: int) -> T:
        """The one of a number from 0 that is there."""
        raise NotImplementedError

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if number < 0:
            number += len(self)
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.record(number)

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class Table(Records[T]):
    """Records by their numbers; each time a new object.

    about: what `Writer.close` has said, and beside it what `build` has (`keeping`).
    folder: where it lies; None: in memory.
    """

    def __init__(
        self,
        batches: Iterable[pyarrow.RecordBatch],
        codec: Codec[T],
        about: dict[str, Any],
        folder: Path | None = None,
    ):
        self._batches, self.codec, self.about, self.folder = list(batches), codec, about, folder
        self._records = [batch.column(0) for batch in self._batches]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)]).tolist()
        self.facts = [codec.known(_tuples(kind)) for kind in about["kinds"]]
        "Of each kind."
        self._arrays: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, folder: Path, codec: Codec[T]) -> Table[T]:
        """Raises: OSError, ValueError (pyarrow's too) or KeyError where it is damaged."""
        import pyarrow as pa

        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if (found := (folder / ROWS).stat().st_size) != about["bytes"]:
            raise ValueError(f"{folder / ROWS} has {found} bytes, expected {about['bytes']}")
        reader = pa.ipc.open_file(pa.memory_map(str(folder / ROWS)))
        return cls(map(reader.get_batch, range(reader.num_record_batches)), codec, about, folder)

    @classmethod
    def made(cls, writer: Writer, about: dict[str, Any] | None = None) -> Table[T]:
        """Of a writer's pieces in memory; it is closed."""
        about = (about or {}) | writer.close()
        found = cls(writer.batches, writer.codec, about)
        found._arrays.update(writer.arrays)
        return found

    def unkept(self, arrays: dict[str, np.ndarray]) -> Table[T]:
        """The same records, whose folder goes. arrays: those noted in it."""
        found = Table(self._batches, self.codec, self.about)
        found._arrays.update(arrays)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return Table, (self._batches, self.codec, self.about)
        return Table.open, (self.folder, self.codec)

    def __len__(self) -> int:
        return self._starts[-1]

    def record(self, number: int) -> T:
        piece = bisect_right(self._starts, number) - 1
        place = number - self._starts[piece]
        batch = self._batches[piece]
        return self.codec.make(unpack(self._records[piece][place].as_py(), lambda n: batch.column(1)[place][n].as_py()))

    def __iter__(self) -> Iterator[T]:
        return (self[number] for number in range(len(self)))

    def kinds(self) -> np.ndarray:
        """The number in `facts` of each record."""
        return self._column(2, np.uint32)

    def names(self) -> np.ndarray:
        """`name_key` of each record."""
        return self._column(3, np.uint64)

    def _column(self, number: int, kind: Any) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *(batch.column(number).to_numpy() for batch in self._batches)])

    def array(self, name: str) -> np.ndarray | None:
        """What was noted of each record under this name; None where nothing was."""
        if name not in self._arrays and self.folder is not None and (self.folder / f"{name}.npy").is_file():
            self._arrays[name] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return self._arrays.get(name)

    def note(self, name: str, found: np.ndarray) -> None:
        """Keep an array. The caller has the table's lock (`keeping.alone`)."""
        if self.folder is None or not self.folder.is_dir():  # removed: the file has changed since
            self._arrays[name] = found
            return
        part = self.folder / f"{name}.part.npy"
        np.save(part, found)
        part.replace(self.folder / f"{name}.npy")


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
