"""Rows of corpora written back as they came in: what was kept of a file is a file of the same format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stage.parallel.journal import encoded


def write(path: Path, rows: Iterable[dict[str, Any]], as_list: bool) -> int:
    """Rows as a JSON list (one row a line) or as JSONL; returns how many. The file appears whole or not at all."""
    part, count = path.with_name(path.name + ".part"), 0
    with part.open("wb") as file:
        for row in rows:
            if as_list:
                file.write(b",\n" if count else b"[\n")
            file.write(encoded(row) + (b"" if as_list else b"\n"))
            count += 1
        if as_list:
            file.write(b"\n]\n" if count else b"[]\n")
    part.replace(path)
    return count
