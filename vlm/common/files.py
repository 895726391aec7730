"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vlm.common.errors import RecipeError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into; at the end it takes the place of `path`, and after an error it is gone.

    At every moment `path` is either the old file or the new one, whoever else writes it.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def replace(path: Path, content: str | bytes) -> None:
    """Write a file in this way; text in UTF-8."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or made there; None where it can."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        return f"{there} is no folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written to"


def must_be_new(folder: Path) -> None:
    """Refuse a place to write to that holds something. Raises: RecipeError."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RecipeError(f"{folder} holds files already; expected a new folder to write into")
