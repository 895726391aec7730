"""Which state of a data file this is: a digest of its bytes, taken again only where the file may have changed.

A digest is remembered with the file's size, times and inode. They vouch for the bytes only where the file had rested
for SETTLED when the digest was taken: a clock's tick lasts some milliseconds (seconds on some file systems), and what
is written twice within one, at equal length, looks the same. git calls such entries racy, and reads them again as well.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from vlm.common import files
from vlm.common.errors import DataError

SETTLED = 3_000_000_000
"""Nanoseconds."""
PACKAGES = ("pyarrow", "pillow", "rasterio")
"""Of other projects: what decides how a row, or the header of its picture, is read."""


def digest(path: Path, memory: Path) -> str:
    """SHA-256 of a file's bytes. memory: the file in which it is remembered, for this path alone.

    Raises: DataError where the file changes meanwhile, OSError where it cannot be read.
    """
    now, state = time.time_ns(), stated(path)
    known = _remembered(memory)
    if known is not None and known["state"] == state and max(state[1], state[2]) < known["taken"] - SETTLED:
        return known["sha256"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    unchanged(path, state)
    files.replace(memory, json.dumps({"state": state, "taken": now, "sha256": found}))
    return found


def stated(path: Path) -> list[int]:
    """Size, times of change (content, inode) in nanoseconds, inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def unchanged(path: Path, state: list[int]) -> None:
    """Raises: DataError where a file has changed since it was in this state."""
    if stated(path) != state:
        raise DataError(f"{path}: has changed while it was read; start again when it is complete")


def _remembered(memory: Path) -> dict[str, Any] | None:
    try:
        return json.loads(memory.read_text())
    except (FileNotFoundError, ValueError):  # never a half one: it is replaced whole
        return None


@cache
def code() -> str:
    """SHA-256 of the code that reads and checks rows, and the versions of what it is built on."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for folder in ("samples", "vlm", "rewards/score/training"):
        for path in sorted((root / folder).rglob("*.py")):
            found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    for name in PACKAGES:
        try:
            found.update(f"{name} {importlib.metadata.version(name)}\0".encode())
        except importlib.metadata.PackageNotFoundError:
            found.update(f"no {name}\0".encode())
    return found.hexdigest()


def home(said: str | None = None) -> Path:
    """The folder of caches: what the recipe says (`data.cache`), else NADIR_CACHE, else `~/.cache/nadir`."""
    return Path(said or os.environ.get("NADIR_CACHE") or "~/.cache/nadir").expanduser().absolute()
