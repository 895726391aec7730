"""From `pkg.module:function` or `path/file.py:function` in a recipe to the object of that name."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import operator
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from vlm.common.errors import RecipeError
from vlm.common.section import expanded


def imported(spec: str, kind: str) -> Any:
    """What `spec` names. A file is executed once per process, and need not be in a package or in this repository.

    kind: what it shall be, for messages: "reward", "tool". Raises: RecipeError naming the spec.
    """
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
        raise RecipeError(f"{kind} {spec!r}: expected 'pkg.module:function' or 'path/file.py:function'")
    module = _of_file(spec, place, kind) if place.endswith(".py") else _of_name(spec, place, kind)
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError as cause:
        public = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise RecipeError(f"{kind} {spec!r}: {place} has no {attribute!r}; {nearest(attribute, public)}") from cause


def nearest(name: str, known: Iterable[str]) -> str:
    """What to add to a message about the unknown ``name``: the nearest known one, and all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def failed(spec: str, kind: str, what: str, cause: Exception) -> RecipeError:
    """The error for code that raised while it was imported."""
    advice = f"fix it, or name another {kind}"
    if isinstance(cause, ModuleNotFoundError):
        advice = f"install {cause.name!r}, put its folder on PYTHONPATH, or write 'path/file.py:function'"
    return RecipeError(f"{kind} {spec!r}: {what} does not import: {type(cause).__name__}: {cause}; {advice}")


def _of_name(spec: str, name: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as cause:  # an import can raise anything; its user must read which plugin it was
        raise failed(spec, kind, f"module {name!r}", cause) from cause


def _of_file(spec: str, place: str, kind: str) -> ModuleType:
    path = Path(expanded(place)).resolve()
    if not path.is_file():
        raise RecipeError(
            f"{kind} {spec!r}: no file {path} (a relative path starts at the current directory, {Path.cwd()})"
        )
    # The path is hashed into the name so that two files called reward.py do not become one module.
    name = f"nadir_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # before executing: dataclasses and pickle look their module up there
    try:
        found.loader.exec_module(module)
    except Exception as cause:  # as above
        del sys.modules[name]
        raise failed(spec, kind, f"file {path}", cause) from cause
    return module
