"""What took long to make of a picture, kept on disk: the next run, and other processes, read it.

The folder is `nadir/pictures` in XDG_CACHE_HOME (`~/.cache` where that is not set); it may be deleted at any time. A
name is a digest of all that the content depends on. Files appear whole or not at all, so processes may make the same
one side by side. Where nothing can be written, nothing is kept, and the log says so once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vlm.common.errors import DataError

logger = logging.getLogger(__name__)
T = TypeVar("T")

WORTH = 1.0
"""Seconds from which on making something again costs more than keeping it."""
VERSION = "1"
"""Part of every name: another arithmetic is another number."""


def folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "nadir" / "pictures"


def identity(image: str | bytes) -> str:
    """What tells this content of a file from another: path, bytes and time of change; of encoded bytes all of them."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    found = os.stat(image)
    return f"{os.path.realpath(image)} {found.st_size} {found.st_mtime_ns}"


def keep(
    what: tuple[object, ...], suffix: str, make: Callable[[], T], write: Callable[[T, Path], object],
    read: Callable[[Path], T], worth: float | None = None,
) -> T:  # fmt: skip
    """What `make` gives, or gave before.

    what: all that it depends on. worth: seconds, instead of WORTH. read: raises DataError or ValueError for a file that
    is damaged, which is made again.
    """
    place = folder() / f"{hashlib.sha256(repr((VERSION, *what)).encode()).hexdigest()[:32]}{suffix}"
    if place.is_file():
        try:
            return read(place)
        except (DataError, ValueError) as error:
            logger.warning("%s is damaged, and made again: %s", place, error)
    start = time.monotonic()
    made = make()
    if time.monotonic() - start >= (WORTH if worth is None else worth):
        _write(made, place, write)
    return made


def _write(made: T, place: Path, write: Callable[[T, Path], object]) -> None:
    temporary = None
    try:
        if not place.is_absolute():  # nobody's home is known here
            raise OSError("no home folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=place.suffix)
        os.close(handle)
        temporary = Path(name)
        write(made, temporary)
        temporary.replace(place)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _say_once(f"{place.parent}: reduced pictures cannot be kept ({error}); XDG_CACHE_HOME moves the folder")


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        logger.warning(text)
