"""What a run folder holds (`stage.runs`), read for a report; of training and of evaluation, finished or not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stage import runs
from stage.recipe.yaml_nodes import parse
from vlm.common.errors import DataError

EVALUATED, PREDICTIONS = "metrics.json", "predictions.jsonl"
SKIPPED = ("checkpoint-*", "final", "data", "completions", "wandb", ".*", *runs.FOLDERS)
"""Folders below a run, or beside runs, in which no run lies."""
DEEPEST = 4
"""Levels below a folder of runs that are searched for runs."""
LONGEST_DIFF = 100_000
"""Characters of changes.diff that a report repeats."""

Series = tuple[np.ndarray, np.ndarray]
"""Steps and values, (N,) each, steps rising, every value finite."""


@dataclass
class Folder:
    """One run. Absent files leave their field empty."""

    path: Path
    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    "Metric → its values over steps."
    summary: dict[str, Any] = field(default_factory=dict)
    "What the trainer logged at its end (train_runtime, …), and finished.json."
    state: str = "unfinished"
    "finished, interrupted (by a signal, to be resumed) or unfinished (it runs, or it died)."
    environment: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, dict[str, Any]] = field(default_factory=dict)
    "metrics.json of an evaluation: metric → value, low, high, level, n, convention."
    changes: str = ""
    "changes.diff, cut to LONGEST_DIFF."
    seed: str = "–"
    "The recipe's; of a matrix the matrix's, which is that of an evaluation's model, too."

    @property
    def stage(self) -> str:
        return str(self.recipe.get("stage", "run"))

    @property
    def last_step(self) -> int:
        return int(max((steps[-1] for steps, _ in self.series.values()), default=0))


def is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (runs.RECIPE, runs.METRICS))


def find(path: Path) -> list[Path]:
    """The run at `path`, or the runs below it in order of their names.

    Raises: DataError where there is none.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected a run folder (runs/r1), or a folder that holds some")
    if is_run(path):
        return [path]
    if found := list(_below(path, DEEPEST)):
        return found
    raise DataError(
        f"{path}: found neither {runs.RECIPE} nor {runs.METRICS}, here or in folders below; expected a run folder "
        "(the `output` of a recipe), or a folder that holds some"
    )


def _below(path: Path, levels: int) -> Iterable[Path]:
    for child in sorted(path.iterdir(), key=lambda child: natural(child.name)):
        if not child.is_dir() or any(child.match(pattern) for pattern in SKIPPED):
            continue
        if is_run(child):
            yield child
        elif levels > 1:
            yield from _below(child, levels - 1)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key by which seed2 comes before seed10."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]


def read(path: Path, name: str | None = None) -> Folder:
    """The run at `path`. Raises: DataError naming the file that cannot be read, UserError for a torn metrics row."""
    folder = Folder(path, name or path.resolve().name)
    if (path / runs.RECIPE).is_file():
        folder.recipe = _recipe(path / runs.RECIPE)
        folder.seed = str(folder.recipe.get("seed", "–"))
    if (path / runs.METRICS).is_file():
        folder.series, folder.summary = columns(runs.read_metrics(path / runs.METRICS))
    for name, where in ((runs.ENVIRONMENT, "environment"), (runs.RECORD, "record"), (runs.DATA, "data")):
        setattr(folder, where, of_json(path / name))
    folder.evaluation = of_json(path / EVALUATED)
    if (path / runs.FINISHED).is_file():
        folder.state = "finished"
        folder.summary |= of_json(path / runs.FINISHED)
    elif (path / runs.INTERRUPTED).is_file():
        folder.state = "interrupted"
    if (path / runs.CHANGES).is_file():
        folder.changes = (path / runs.CHANGES).read_text(encoding="utf-8", errors="replace")[:LONGEST_DIFF]
    return folder


def columns(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, Series], dict[str, Any]]:
    """Rows of metrics.jsonl as series, and the trainer's summary. A value that is not a finite number is left out; of
    a step that was logged twice the later value stays."""
    points: dict[str, tuple[list[int], list[float]]] = {}
    summary: dict[str, Any] = {}
    for row in rows:
        if runs.SUMMARY in row:
            summary |= {key: value for key, value in row.items() if key not in ("step", "time", "epoch")}
            continue
        step = row["step"]
        for key, value in row.items():
            if type(value) is float or type(value) is int:  # no bool; a matrix holds tens of millions of values
                steps, values = points.setdefault(key, ([], []))
                steps.append(step)
                values.append(value)
    for key in ("step", "time"):
        points.pop(key, None)
    made = {key: _series(*both) for key, both in points.items()}
    return {key: both for key, both in made.items() if len(both[0])}, summary


def _series(steps: list[int], values: list[float]) -> Series:
    at, measured = np.array(steps), np.array(values, dtype=float)
    finite = np.isfinite(measured)
    at, measured = at[finite], measured[finite]
    unique, last = np.unique(at[::-1], return_index=True)  # the first from behind is the last
    return unique, measured[::-1][last]


def of_json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is no such file. Raises: DataError."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); restore it, or leave this run out") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {type(content).__name__}, expected an object as a run writes it")
    return content


def _recipe(path: Path) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"), str(path)).plain()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it, or leave this run out") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {type(content).__name__}, expected recipe keys")
    return content
