"""The axes of a matrix, and the combinations of their values."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage.recipe.schema import did_you_mean
from studies.matrix import changes
from studies.matrix.changes import Change
from studies.matrix.recipe import SEED, MatrixRecipe
from vlm.common.errors import RecipeError

SKIP = "skip"


@dataclass(frozen=True)
class Value:
    """One value of an axis, and what it changes."""

    axis: str
    name: str
    changes: dict[str, list[Change]]
    skip: tuple[str, ...] = ()
    "Stages that runs with this value leave out."


@dataclass(frozen=True)
class Combination:
    """One value of each axis, and a seed."""

    values: tuple[Value, ...]
    seed: int

    @property
    def names(self) -> dict[str, str]:
        """Axis → value, the seed last."""
        return {value.axis: value.name for value in self.values} | {SEED: str(self.seed)}

    def __str__(self) -> str:
        return ", ".join(f"{axis} {name}" for axis, name in self.names.items())


def read(matrix: MatrixRecipe, file: Path) -> list[list[Value]]:
    """The values of each axis. Raises: RecipeError naming file, axis and value."""
    found = []
    for axis, values in matrix.axes.items():
        where = f"{file}: axis `{axis}`"
        if axis == SEED or not values or not isinstance(values, dict | list):
            raise RecipeError(
                f"{where}: expected values with their changes, or a list of values; seeds go into `seeds`"
            )
        read_one = _of_key if isinstance(values, list) else _named
        found.append(read_one(matrix, axis, values, file, where))
    return found


def _of_key(matrix: MatrixRecipe, axis: str, values: list[Any], file: Path, where: str) -> list[Value]:
    """An axis that is a key: grpo.training.beta: [0.0, 0.01]."""
    stage, _, key = axis.partition(".")
    _check_changed(matrix, stage, where)
    if not key:
        raise RecipeError(f"{where}: a list of values belongs to a recipe key, such as `{axis}.training.learning_rate`")
    found: list[Value] = []
    for value in values:
        if isinstance(value, dict | list):
            raise RecipeError(
                f"{where}: a list or mapping has no short name; write {{NAME: {{{stage}: {{{key}: …}}}}}}"
            )
        text = _text(value)
        name = f"{key.rpartition('.')[2]}={text}"
        change = Change(key, value, f"{where}, value `{text}`, stage `{stage}`")
        found.append(Value(axis, _checked(name, [one.name for one in found], where), {stage: [change]}))
    return found


def _named(matrix: MatrixRecipe, axis: str, values: dict[str, Any], file: Path, where: str) -> list[Value]:
    found: list[Value] = []
    for name, content in values.items():
        at = f"{where}, value `{name}`"
        content = dict(content) if isinstance(content, dict) else {} if content is None else content
        if not isinstance(content, dict):
            raise RecipeError(
                f"{at}: found {content!r}, expected stages with their changes, e.g. {{grpo: {{seed: 1}}}}"
            )
        skip = content.pop(SKIP, [])
        skip = [skip] if isinstance(skip, str) else skip
        for stage in skip:
            _check_stage(matrix, stage, at)
        for stage in content:
            _check_changed(matrix, stage, at)
        own = {
            stage: changes.read(change, str(matrix.stages[stage].recipe), file, f"{at}, stage `{stage}`")
            for stage, change in content.items()
        }
        found.append(Value(axis, _checked(name, [one.name for one in found], where), own, tuple(skip)))
    return found


def _check_changed(matrix: MatrixRecipe, stage: str, where: str) -> None:
    _check_stage(matrix, stage, where)
    if matrix.stages[stage].command is not None:
        raise RecipeError(f"{where}: the stage `{stage}` is a command, which has no recipe to change")


def _check_stage(matrix: MatrixRecipe, stage: str, where: str) -> None:
    if stage not in matrix.stages:
        hint = did_you_mean(stage, list(matrix.stages)) or f"; the stages are {', '.join(matrix.stages)}"
        raise RecipeError(f"{where}: there is no stage `{stage}`{hint}")


def _checked(name: str, others: list[str], where: str) -> str:
    """The value's name, which becomes a part of folder names."""
    if not re.fullmatch(r"[\w.=+-]+", name) or name.startswith("."):
        raise RecipeError(f"{where}: the value {name!r} becomes a folder's name; expected letters, digits and _.=+-")
    if name in others:
        raise RecipeError(f"{where}: the value {name!r} is given twice")
    return name


def combinations(matrix: MatrixRecipe, axes: list[list[Value]], file: Path) -> list[Combination]:
    """All of them but those left out; all of the first seed come first, so that there is soon something to compare."""
    names = {values[0].axis: [value.name for value in values] for values in axes}
    shown = {axis: [name.rpartition("=")[2] for name in known] for axis, known in names.items()}
    for number, pattern in enumerate(matrix.leave_out):
        for axis, name in pattern.items():
            where = f"{file}: leave_out.{number}"
            if axis not in names:
                raise RecipeError(f"{where}: there is no axis `{axis}`{did_you_mean(axis, list(names))}")
            if _text(name) not in names[axis] + shown[axis]:
                hint = did_you_mean(_text(name), names[axis])
                raise RecipeError(f"{where}: the axis `{axis}` has no value `{name}`{hint}")
    everything = itertools.product(matrix.seeds, itertools.product(*axes))
    found = [Combination(values, seed) for seed, values in everything]
    found = [one for one in found if not any(_matches(one, pattern) for pattern in matrix.leave_out)]
    if not found:
        raise RecipeError(f"{file}: leave_out leaves no combination")
    return found


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _matches(combination: Combination, pattern: dict[str, Any]) -> bool:
    names = combination.names
    return all(_text(wanted) in (names[axis], names[axis].rpartition("=")[2]) for axis, wanted in pattern.items())
