"""A full disk: what a run can do without is lost with a warning, and the run goes on."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

logger = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITERS = ("no space left", "disk quota exceeded", "file too large", "inline_container", "iostream error")
"""In the errors of safetensors' and torch's writers, which are no OSErrors; torch's says only where it noticed."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written here: disk full, quota, file too large."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = str(error).lower()
    return isinstance(error, OSError | RuntimeError | SafetensorError) and any(word in text for word in WRITERS)


@contextmanager
def spared(what: Path) -> Iterator[None]:
    """Within, a file is written that the run can do without. Where the disk is full, what is there of it goes."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        what.unlink(missing_ok=True)
        logger.warning("no %s: %s. The run continues; make room on its disk", what, error)


def append(path: Path, content: bytes) -> None:
    """Append all of it or, with a warning, nothing, where the disk is full: the rows before and after stay whole."""
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(content):  # a disk that fills up takes a part first
                written += file.write(content[written:])
        except OSError as error:
            os.truncate(path, end)
            if not is_full(error):
                raise
            logger.warning("%s: a row is lost: %s. The run continues; make room on its disk", path, error)
