"""Pictures that could be read when the data was checked, and cannot be when a row is needed.

data.on_fault: error    the run ends, with the row and the file named
data.on_fault: skip     the next row of the table that can be read replaces it, and the log says so; always the same
                        one, so that the completions of a group, in all processes, are of one prompt
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from vlm.common.errors import DataError

logger = logging.getLogger(__name__)

TRIED = 100
"""Rows in a row that cannot be read: then it is not the rows, but the disk."""
STANDS_IN = -1
"""`copy` of a row that replaces another one: beside its own group it is a group of its own."""

Columns = dict[str, list[Any]]


class Readable:
    """A table's transform (columns → columns) around another one that raises DataError for what it cannot read.

    table: set once it exists: the same rows by number, as they are before the transform; `row` of each is its number.
    """

    def __init__(self, transform: Any, on_fault: Literal["error", "skip"]):
        self.transform, self.on_fault = transform, on_fault
        self.table: Any = None
        self._told: set[int] = set()

    def __call__(self, batch: Columns) -> Columns:
        try:
            return self.transform(dict(batch))
        except DataError:
            pass  # which row it is, and what can stand in for it, is found one by one
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        found = [self._read(row) for row in rows]
        return {name: [row[name] for row in found] for name in found[0]}

    def _read(self, row: dict[str, Any]) -> dict[str, Any]:
        asked = row
        for distance in range(1, TRIED + 1):
            try:
                return {name: values[0] for name, values in self.transform(_alone(row)).items()}
            except DataError as error:
                fault = DataError(f"{row_name(row)}: {error}")
                if self.on_fault == "error" or "row" not in row:
                    raise fault from error
            if row["row"] not in self._told:
                self._told.add(row["row"])
                logger.warning("%s; another row replaces it", fault)
            following = self.table[(asked["row"] + distance) % len(self.table)]
            row = {name: following[name] for name in asked} | ({"copy": STANDS_IN} if "copy" in asked else {})
        raise DataError(f"{TRIED} rows one after another cannot be read; the last: {fault}")


def row_name(row: Mapping[str, Any]) -> str:
    """How messages name a row of the data."""
    return f"{row.get('source')}: row {row.get('id')!r}"


def _alone(row: dict[str, Any]) -> Columns:
    return {name: [value] for name, value in row.items()}
