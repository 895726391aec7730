"""Rows of ScoreRS's parquet files, in the shape of `samples.readers.rows.Rows`.

A row is `image` ({bytes, path}, bytes, or null for none) and `text`, a JSON string with the published keys; a table
that has these keys as columns is read as well. Rows are streamed: a table may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.rows import RowFault, show
from vlm.common.errors import DataError

MAGIC = b"PAR1"
BATCH = 64
"""Rows decoded at a time; each may hold a whole image."""


class Parquet:
    """The rows of a parquet file as (number, row or RowFault), counting from 1.

    A row holds the published keys, and `image` as encoded bytes or `image_path` where it has one.
    Raises: DataError where the file cannot be read or has neither `text` nor `chosen`.
    """

    unit = "row"
    "How messages name a place, as `Rows` says it."

    def __init__(self, path: Path):
        import pyarrow
        from pyarrow import parquet

        self.path = path
        try:
            self.columns = parquet.read_schema(path).names
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: a parquet file that cannot be read ({str(error).splitlines()[0]})") from error
        if not {"text", "chosen"} & set(self.columns):
            raise DataError(
                f"{path}: found the columns {', '.join(self.columns)}; expected `text`, a JSON string with question, "
                "chosen and rejected, and perhaps `image`"
            )

    @staticmethod
    def holds(path: Path) -> bool:
        """Whether `path` is a parquet file, by its first bytes; False where it cannot be opened."""
        try:
            with path.open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        except OSError:
            return False

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        return self._rows(self.columns)

    def good(self) -> Iterator[dict[str, Any]]:
        """The rows that can be parsed at all, without their images."""
        columns = [name for name in self.columns if name != "image"]
        return (row for _, row in self._rows(columns) if not isinstance(row, RowFault))

    def _rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            number = 0
            for batch in file.iter_batches(BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _flat(row)


def _flat(row: dict[str, Any]) -> dict[str, Any] | RowFault:
    """The keys inside `text` beside the row's other columns, and its image as one value."""
    image = row.pop("image", None)
    if "text" in row:
        text = row.pop("text")
        try:
            inside = json.loads(text)
        except (TypeError, ValueError) as error:
            return RowFault("json", "text", f"{show(text)} ({error})", "a JSON string with chosen and rejected")
        if not isinstance(inside, dict):
            return RowFault("wrong_type", "text", show(inside), "a JSON object with chosen and rejected")
        row = {**row, **inside}
    if isinstance(image, dict):
        if image.get("bytes") is None and image.get("path"):
            return {**row, "image_path": image["path"]}
        image = image.get("bytes")
    if image is None:
        return row
    if not isinstance(image, bytes):
        return RowFault("wrong_type", "image", show(image), "encoded bytes, or {bytes, path}")
    return {**row, "image": image}
