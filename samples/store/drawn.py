"""The rows that a mixture uses, in its order, without holding any of them."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from samples.store.keeping import once
from samples.store.table import Codec, Records, Table, Writer

T = TypeVar("T")
Uses = range | np.ndarray
"""Numbers of a table's rows in the order in which they are used; a range where that is all of them, once."""


class Drawn(Records[T]):
    """Records by their numbers in the mixture. parts: tables, one after another, and which of their rows are used."""

    def __init__(self, parts: Sequence[tuple[Table[T], Uses]]):
        self.parts = [(table, _compact(uses, len(table))) for table, uses in parts]
        self._starts = np.cumsum([0, *(len(uses) for _, uses in self.parts)]).tolist()

    @classmethod
    def of(cls, records: Iterable[T], codec: Codec[T]) -> Drawn[T]:
        """Of records at hand; those that are `Drawn` stay as they are."""
        if isinstance(records, Drawn):
            return records
        writer = Writer(codec)
        for record in records:
            writer.add(record)
        table: Table[T] = Table.made(writer)
        return cls([(table, range(len(table)))])

    def __len__(self) -> int:
        return self._starts[-1]

    def record(self, number: int) -> T:
        part = bisect_right(self._starts, number) - 1
        table, uses = self.parts[part]
        return table[int(uses[number - self._starts[part]])]

    def __iter__(self) -> Iterator[T]:
        for table, uses in self.parts:
            for number in uses:
                yield table[int(number)]

    def facts(self) -> Counter[Any]:
        """Of its rows: how many are of each kind."""
        found: Counter[Any] = Counter()
        for table, uses in self.parts:
            counts = np.bincount(_taken(table.kinds(), uses), minlength=len(table.facts)).tolist()
            for facts, count in zip(table.facts, counts, strict=True):
                if count:
                    found[facts] += count
        return found

    def first(self, wanted: Callable[[Any], bool]) -> T | None:
        """The first row whose facts are such."""
        for table, uses in self.parts:
            kinds = [number for number, facts in enumerate(table.facts) if wanted(facts)]
            if kinds and len(places := np.flatnonzero(np.isin(_taken(table.kinds(), uses), kinds))):
                return table[int(uses[int(places[0])])]
        return None

    def once(self, name: str, wanted: Callable[[Any], bool], check: Callable[[T], object]) -> None:
        """Check the rows whose facts are such, once for a kept table. name: of the check, and of all settings of it."""
        for table, uses in self.parts:
            kinds = [number for number, facts in enumerate(table.facts) if wanted(facts)]
            places = np.flatnonzero(np.isin(_taken(table.kinds(), uses), kinds))
            if not len(places):
                continue
            rows = np.unique(places if isinstance(uses, range) else uses[places])
            of = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
            once(table, f"{name}: {of}", partial(_each, table, rows, check))

    def copies(self) -> np.ndarray | None:
        """How many rows of the same source and id come before each, (rows,); None where all are 0."""
        names = np.concatenate([np.empty(0, np.uint64), *(_taken(table.names(), uses) for table, uses in self.parts)])
        ordered = np.sort(names)
        if not (ordered[1:] == ordered[:-1]).any():
            return None
        order = np.argsort(names, kind="stable")
        same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        begins = np.arange(len(names), dtype=np.int32)
        begins[same] = 0
        found = np.empty(len(names), np.int32)
        found[order] = np.arange(len(names), dtype=np.int32) - np.maximum.accumulate(begins)
        return found


def _each(table: Table[T], rows: np.ndarray, check: Callable[[T], object]) -> None:
    for number in rows:
        check(table[int(number)])


def _taken(values: np.ndarray, uses: Uses) -> np.ndarray:
    return values if isinstance(uses, range) else values[uses]


def _compact(uses: Uses, count: int) -> Uses:
    if isinstance(uses, range):
        return uses
    if len(uses) == count and np.array_equal(uses, np.arange(count)):
        return range(count)
    return uses.astype(np.uint32) if count < 2**32 else uses
