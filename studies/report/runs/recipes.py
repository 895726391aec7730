"""What a run was asked for: its resolved recipe, and in what it differs from its base and from the other runs.

A run folder holds the resolved recipe only. The base is found as the run was started: environment.json has the command
and its directory, the recipe file named there has the `base:`. Where that file is gone, or no longer gives the recipe
that the run had, the difference is to the defaults, and the report says which of the two it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stage.recipe import config
from stage.recipe.yaml_nodes import dump, parse
from stage.runs import RECIPE
from studies.report.runs.folders import Folder
from studies.report.runs.labels import OWN, Curve
from vlm.common.errors import UserError

LONGEST = 160
"""Characters of a value in a table."""


@dataclass
class Difference:
    """Changes of one recipe: dotted key → (value before, value now), as texts."""

    against: str
    "What the recipe is compared with, in words."
    changes: dict[str, tuple[str, str]] = field(default_factory=dict)


def text(run: Folder) -> str:
    return dump(run.recipe) if run.recipe else ""


def difference(run: Folder, classes: Sequence[type]) -> Difference | None:
    """To the run's base, else to the defaults. classes: of recipes, told apart by `stage`. None where the recipe is of
    none of them, or of another version of them."""
    try:
        own = config.load_any(run.path / RECIPE, classes)
    except UserError:
        return None
    file = started_with(run)
    base = _base(file) if file else None
    if file is not None and base is not None:
        try:
            # a base need not be a recipe of its own: ours leave `stage` and `output` to what builds on them
            found = _changes(config.load(base, type(own), [f"output={own.output}"]), own)
            return Difference(f"{base.name}, the base of {file.name}{_since(file, run, own, classes)}", found)
        except UserError:
            pass  # it is of another stage, or lacks more: the defaults remain
    required = {name: getattr(own, name) for name, field in type(own).model_fields.items() if field.is_required()}
    return Difference(f"the defaults of {own.stage}", _changes(type(own).model_construct(**required), own))


def started_with(run: Folder) -> Path | None:
    """The recipe file on the run's command line, if it is still there."""
    directory = Path(str(run.environment.get("directory", "")))
    for word in run.environment.get("command", []):
        path = directory / str(word)
        if path.suffix in (".yaml", ".yml") and "=" not in str(word) and path.is_file():
            return path
    return None


def _base(file: Path) -> Path | None:
    try:
        named = parse(file.read_text(encoding="utf-8"), str(file)).plain()
    except (OSError, UnicodeDecodeError, UserError):
        return None
    named = named.get("base") if isinstance(named, dict) else None
    return file.parent / named if isinstance(named, str) and (file.parent / named).is_file() else None


def _since(file: Path, run: Folder, own: Any, classes: Sequence[type]) -> str:
    """What to say where the file no longer gives the run's recipe."""
    words = [str(word) for word in run.environment.get("command", [])]
    at = next(place for place, word in enumerate(words) if word.endswith(file.name) and "=" not in word)
    overrides = [word for word in words[at + 1 :] if "=" in word and not word.startswith("-")]
    try:
        now = config.load_any(file, classes, overrides)
    except UserError:
        return " (which is no valid recipe any more)"
    differing = [key for key in config.difference(now, own) if not key.endswith("path")]
    return f" (which has changed since in {', '.join(differing)})" if differing else ""


def _changes(before: Any, after: Any) -> dict[str, tuple[str, str]]:
    found = config.difference(before, after)
    return {key: (shown(old), shown(new)) for key, (old, new) in found.items() if key.partition(".")[0] not in OWN}


def between(curves: Sequence[Curve]) -> dict[str, list[str]]:
    """Dotted key → the value of each label, for keys in which the labels' first runs differ; `–` where one lacks it."""
    values = [{key: value for key, value in curve.runs[0].recipe.items() if key not in OWN} for curve in curves]
    return dict(_apart(values, ""))


def _apart(values: Sequence[Any], key: str) -> Iterable[tuple[str, list[str]]]:
    """Goes down where all are mappings, or lists; what some lack altogether is one row."""
    if all(value == values[0] for value in values):
        return
    if all(isinstance(value, dict) for value in values):
        names: Iterable[Any] = dict.fromkeys(name for value in values for name in value)
        inner = [[value.get(name, config.ABSENT) for value in values] for name in names]
    elif all(isinstance(value, list) for value in values):
        names = range(max(map(len, values)))
        inner = [[value[n] if n < len(value) else config.ABSENT for value in values] for n in names]
    else:
        yield key, [shown(value) for value in values]
        return
    for name, below in zip(names, inner, strict=True):
        yield from _apart(below, f"{key}.{name}" if key else str(name))


def shown(value: Any) -> str:
    """A value in one line of YAML, what is null left out of mappings; `–` for one that is absent."""
    if value == config.ABSENT:
        return "–"
    text = yaml.safe_dump(_said(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    line = " ".join(text.removesuffix("...\n").split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _said(inner) for key, inner in value.items() if inner is not None}
    return [_said(inner) for inner in value] if isinstance(value, list) else value
