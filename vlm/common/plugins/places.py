"""Where a user's code stands, for messages: the line that defines it, and the one that raised."""

from __future__ import annotations

import functools
import inspect
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LIBRARY = threading.__file__.rpartition("/")[0]
OURS = Path(__file__).resolve().parents[3]
CALLERS = (
    *(str(OURS / "rewards" / name) for name in ("guarded.py", "values.py", "trial.py", "gated.py")),
    str(OURS / "vlm" / "common" / "plugins" / "timed.py"),
    str(OURS / "vlm" / "tools" / "toolbox.py"),
)
"""Files of ours that call such code; what they raise themselves about a call (a missing argument) is that code's."""


def defined(target: Any) -> str:
    """ "file.py:12", where a function or object is defined; empty where that cannot be told (written in C)."""
    while isinstance(target, functools.partial):
        target = target.func
    if not hasattr(target, "__code__"):
        target = inspect.unwrap(type(target).__call__)
    code = getattr(inspect.unwrap(target), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def raised(error: BaseException, target: Any) -> str:
    """ "file.py:12", the innermost line of a traceback that is no library's; else where the code is defined."""
    return innermost(traceback.extract_tb(error.__traceback__)) or defined(target)


def innermost(frames: Iterable[traceback.FrameSummary]) -> str:
    """The last of these lines that is neither a library's nor one that calls such code; empty where none is."""
    own = [frame for frame in frames if not _foreign(frame.filename) and frame.filename not in CALLERS]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def ours(place: str) -> bool:
    """Whether a place lies in this project's packages: then an error there is a bug of ours."""
    path = Path(place.rpartition(":")[0])
    return path.is_relative_to(OURS) and path.relative_to(OURS).parts[:1] in (("rewards",), ("samples",), ("vlm",))


def _foreign(path: str) -> bool:
    return path.startswith((LIBRARY, "<")) or "site-packages" in path
