"""Rows of ScoreRS's parquet files.

A row is `image` ({bytes, path}, bytes, or null for none) and `text`, a JSON string with the published keys; a table
that has these keys as columns is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers import tables
from samples.readers.rows import RowFault, show
from vlm.common.errors import DataError


class Parquet(tables.Parquet):
    """A row holds the published keys, and `image` as encoded bytes or `image_path` where it has one.

    Raises: DataError where the file cannot be read or has neither `text` nor `chosen`.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        if not {"text", "chosen", "ranked", "rejected_response", "rejected_messages"} & set(self.columns):
            raise DataError(
                f"{path}: found the columns {', '.join(self.columns)}; expected `text`, a JSON string with question, "
                "chosen and rejected, and perhaps `image`"
            )

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        return ((number, _unpacked(row)) for number, row in self._rows(self.columns))

    def good(self) -> Iterator[dict[str, Any]]:
        """The rows that can be parsed at all, without their images."""
        return (row for row in map(_unpacked, super().good()) if not isinstance(row, RowFault))


def _unpacked(row: dict[str, Any]) -> dict[str, Any] | RowFault:
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
        row |= inside
    if isinstance(image, dict):
        if image.get("bytes") is None and image.get("path"):
            return row | {"image_path": image["path"]}
        image = image.get("bytes")
    if isinstance(row.get("images"), list):
        try:
            row["images"] = [tables.picture("images", one) for one in row["images"]]
        except RowFault as fault:
            return fault
    if image is None:
        return row
    if not isinstance(image, bytes):
        return RowFault("wrong_type", "image", show(image), "encoded bytes, or {bytes, path}")
    return row | {"image": image}
