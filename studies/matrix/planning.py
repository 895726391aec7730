"""Runs and their stages: what is the same work is done once, and what lies in the output folder already is found again.

    runs/ablation/R1-with/seed-0/grpo/        a run folder (stage.runs), as the launcher writes it
    runs/ablation/R1-with/seed-0/grpo.log     what its command said
    runs/ablation/R1-with/seed-0/grpo.json    when it was started, from what (marks)

A stage that several runs share lies with the first of them. Combinations that are the same work in every stage are one
run, whose label leaves out the axes that make no difference: SFT, beside R1-with and R1-without.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stage import runs
from stage.recipe import config
from studies.matrix import axes, changes
from studies.matrix.axes import Combination
from studies.matrix.changes import Change
from studies.matrix.drafts import Draft, Drafter, essence
from studies.matrix.recipe import SEED, Launchers, MatrixRecipe
from vlm.common.errors import RecipeError, UserError

ANY = "any-seed"


@dataclass(eq=False)
class Run:
    """What one bar of a figure is made of, once for each seed."""

    label: str
    values: dict[str, str | None]
    "Axis → value; None where it makes no difference."
    seed: int | None
    "None where it makes no difference."
    stages: dict[str, Stage] = field(default_factory=dict)
    "In the order in which they go."

    @property
    def folder(self) -> str:
        return f"{self.label}/{ANY if self.seed is None else f'seed-{self.seed}'}"


@dataclass(eq=False)
class Stage:
    """One piece of work, for one run or several."""

    name: str
    draft: Draft
    folder: Path
    needs: list[Stage]
    changes: list[Change]
    "Of its recipe, with the folders of what it needs."
    recipe: Any
    "Resolved; None of a command."
    words: list[str]
    "Of a command; empty of a launcher."
    key: str
    "Its folder, seen from the output folder: R1-with/seed-0/grpo."
    runs: list[Run] = field(default_factory=list)
    "Which share it; the first one's folder holds it."


@dataclass
class Plan:
    matrix: MatrixRecipe
    file: Path
    runs: list[Run]
    stages: list[Stage]
    "Each once, those needed first, in the order in which they are started."

    @property
    def name(self) -> str:
        return self.matrix.name or Path(self.matrix.output).name


def plan(matrix: MatrixRecipe, file: Path, launchers: Launchers) -> Plan:
    """Everything resolved and checked.

    Raises: RecipeError; UserError where other work lies in the place of some.
    """
    drafter = Drafter(matrix, file, launchers)
    combinations = axes.combinations(matrix, axes.read(matrix, file), file)
    drafts = [(one, drafter.of(one)) for one in combinations]
    made = Plan(matrix, file, [], [])
    places = Places(Path(matrix.output), drafter)
    stages: dict[str, Stage] = {}
    for run, of_run in merged(drafts, file):
        made.runs.append(run)
        for name, draft in of_run.items():
            if draft.identity not in stages:
                stages[draft.identity] = places.place(draft, run, stages)
            run.stages[name] = stages[draft.identity]
            stages[draft.identity].runs.append(run)
    made.stages = list(stages.values())
    if places.taken:
        raise UserError(
            "\n".join([f"{matrix.output} holds other work than {file} asks for now:", *places.taken])
            + "\nPut the matrix back, or write another `output`, or remove these folders and what was made from them"
        )
    return made


# --- which combinations are one run ---


def merged(drafts: list[tuple[Combination, dict[str, Draft]]], file: Path) -> Iterator[tuple[Run, dict[str, Draft]]]:
    """Combinations of the same stages as one run, and its label. Raises: RecipeError where two labels are equal."""
    groups: dict[tuple, list[tuple[Combination, dict[str, Draft]]]] = {}
    for combination, of_run in drafts:
        groups.setdefault(tuple((name, one.identity) for name, one in of_run.items()), []).append((combination, of_run))
    everything = [combination.names for combination, _ in drafts]
    labels: dict[str, str] = {}
    for group in groups.values():
        names = [combination.names for combination, _ in group]
        values = told(names, everything)
        seed = values.pop(SEED)
        if seed is not None and "+" in seed:  # some seeds are the same work, though not all: only by a strange command
            raise RecipeError(f"{file}: seeds {seed} are the same work, and other seeds are not; leave some out")
        run = Run(label(values, everything), values, None if seed is None else int(seed))
        clash = labels.setdefault(run.folder, str(group[0][0]))
        if clash != str(group[0][0]):
            raise RecipeError(f"{file}: ({clash}) and ({group[0][0]}) would both be called {run.label}; rename a value")
        yield run, group[0][1]


def told(group: list[dict[str, str]], everything: list[dict[str, str]]) -> dict[str, str | None]:
    """Axis → the value that the combinations of a group share; several values joined by +; None where all values are
    there. A group that is not all combinations of such values is told by the first of its combinations."""
    having = {axis: list(dict.fromkeys(one[axis] for one in group)) for axis in group[0]}
    box = [one for one in everything if all(one[axis] in values for axis, values in having.items())]
    if len(box) != len(group):
        return dict(group[0])
    known = {axis: {one[axis] for one in everything} for axis in having}
    return {axis: None if len(values) == len(known[axis]) > 1 else "+".join(values) for axis, values in having.items()}


def label(values: dict[str, str | None], everything: list[dict[str, str]]) -> str:
    """The values joined by hyphens, with their axes where two axes have a value of the same name."""
    of_axis = {axis: {one[axis] for one in everything} for axis in values}
    common = {name for a, b in itertools.combinations(of_axis.values(), 2) for name in a & b}
    parts = []
    for axis, value in values.items():
        if value is not None:
            parts.append(f"{axis}={value}" if common & set(value.split("+")) else value)
    return "-".join(parts) or "base"


# --- where they lie ---


class Places:
    """Where each stage lies, and what lies there already."""

    def __init__(self, output: Path, drafter: Drafter):
        self.output, self.drafter = output, drafter
        self.taken: list[str] = []
        "Folders in which other work lies, and what differs."
        self._read: dict[Path, dict[str, Any] | None] = {}

    def place(self, draft: Draft, run: Run, stages: dict[str, Stage]) -> Stage:
        """The draft as a stage of the plan: where its work lies already, or else with the run."""
        needs = [stages[one.identity] for one in draft.needs]
        names = draft.names({one.draft.identity: str(one.folder) for one in needs})
        folder, recipe, words = self.output / run.folder / draft.stage, None, []
        if draft.section.command is not None:
            words = changes.fill(draft.section.command, names | {draft.stage: str(folder)})
        else:
            recipe = self.drafter.resolve(draft, names)
            folder = self._folder_of(recipe, folder)
        key = folder.relative_to(self.output).as_posix()
        own = [replace(change, value=changes.fill(change.value, names)) for change in draft.changes]
        return Stage(draft.stage, draft, folder, needs, own, recipe, words, key)

    def _folder_of(self, recipe: Any, own: Path) -> Path:
        wanted = essence(recipe)
        for folder in (own, *sorted(path.parent for path in self.output.glob(f"*/*/{own.name}/{runs.RECIPE}"))):
            if self._essence_at(folder, type(recipe)) == wanted:
                return folder
        lies = self._essence_at(own, type(recipe))
        if lies is not None:
            self.taken.append(f"  {own}: {different(lies, wanted)}")
        return own

    def _essence_at(self, folder: Path, kind: type) -> dict[str, Any] | None:
        """What the recipe in a folder comes to by today's defaults; None where there is none."""
        path = folder / runs.RECIPE
        if path not in self._read:
            self._read[path] = essence(config.load(path, kind)) if path.is_file() else None
        return self._read[path]


def different(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Key by key."""
    keys = [key for key in [*now, *(key for key in before if key not in now)] if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys)
