"""What a plan costs before it runs: counted work, and time and disk by what finished stages of the same kind took."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samples import mixture
from samples.sections import Role
from stage.planning.job import Batch, Job, batches, common
from studies.matrix import marks
from studies.matrix.planning import Plan, Stage
from vlm.common.errors import UserError


@dataclass(frozen=True)
class Work:
    """Of one stage; None where it is not known yet, as its data are not there."""

    steps: int | None = None
    "Optimiser steps."
    completions: int | None = None
    "Rollouts of GRPO."
    questions: int | None = None
    "Of an evaluation."

    def __str__(self) -> str:
        told = {"steps": self.steps, "rollouts": self.completions, "questions": self.questions}
        return ", ".join(f"{count:,} {what}" for what, count in told.items() if count is not None) or "?"


@dataclass(frozen=True)
class Kind:
    """All stages of one name."""

    name: str
    stages: int
    finished: int
    shared: int
    "How many times a run reuses the stage that another one has."
    work: Work
    "Of all that have not finished; None in it where one of them is not known."
    seconds: float | None
    "Median of the finished ones."
    bytes: float | None
    "Mean of the finished ones' folders."


class Counter:
    """Counts rows once for each set of data."""

    def __init__(self, processes: int):
        self.processes = processes
        self._rows: dict[str, int | None] = {}

    def work(self, recipe: Any) -> Work:
        if recipe is None:
            return Work()
        training = getattr(recipe, "training", None)
        if training is not None and getattr(recipe, "stage", None) in ("sft", "grpo"):
            found = self._batches(recipe)
            made = found.steps * found.per_step if found and recipe.stage == "grpo" else None
            return Work(found.steps, _of_rollouts(recipe, made)) if found else Work()
        if training is not None:
            steps = recipe.argument("max_steps")
            return Work(steps=steps if steps > 0 else None)
        return Work(questions=self._questions(recipe))

    def _batches(self, recipe: Any) -> Batch | None:
        asked = recipe.training
        rows = self.rows(recipe, "train")
        if rows is None:
            if asked.get("max_steps", -1) <= 0:
                return None
            rows = 2**30  # any number: the steps do not depend on it
        grouped = {
            "group": asked.get("num_generations", 8),
            "steps_per_generation": asked.get("steps_per_generation"),
            "iterations": asked.get("num_iterations", 1),
        }
        fields = common(recipe) | {"processes": self.processes}
        return batches(
            Job(stage=recipe.stage, samples=rows, **fields, **(grouped if recipe.stage == "grpo" else {})),
            self.processes,
        )

    def _questions(self, recipe: Any) -> int | None:
        if not getattr(getattr(recipe, "data", None), "eval", None):
            return None
        rows, limit = self.rows(recipe, "eval"), getattr(recipe, "limit", None)
        return rows if rows is None or limit is None else min(rows, limit)

    def rows(self, recipe: Any, role: Role) -> int | None:
        """Of the recipe's data; None where a file is not there yet."""
        key = repr((role, recipe.data))
        if key not in self._rows:
            here = all(
                source.limit is not None or source.ratio is not None or Path(source.path).exists()
                for source in getattr(recipe.data, role)
            )
            try:
                self._rows[key] = mixture.count(recipe.data, role, recipe.seed).rows if here else None
            except UserError:  # the stage itself says so, and better
                self._rows[key] = None
        return self._rows[key]


def _of_rollouts(recipe: Any, consumed: int | None) -> int | None:
    """Completions that are sampled, of those that steps consume: each is used in `num_iterations` steps."""
    return None if consumed is None else consumed // recipe.argument("num_iterations")


def kinds(plan: Plan) -> list[Kind]:
    """In the order of the matrix."""
    counter = Counter(plan.matrix.per_run)
    found = []
    for name in plan.matrix.stages:
        stages = [stage for stage in plan.stages if stage.name == name]
        done = [stage for stage in stages if marks.ended(stage) is not None]
        took = [spent for stage in done if (spent := marks.state(stage).seconds) is not None]
        works = [counter.work(stage.recipe) for stage in stages if stage not in done]
        shared = sum(len(stage.runs) - 1 for stage in stages)
        found.append(
            Kind(
                name,
                len(stages),
                len(done),
                shared,
                Work(*(_sum([getattr(one, what) for one in works]) for what in ("steps", "completions", "questions"))),
                statistics.median(took) if took else None,
                statistics.mean(size(stage.folder) for stage in done) if done else None,
            )
        )
    return found


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum((Path(place) / name).lstat().st_size for place, _, names in os.walk(folder) for name in names)


def left(plan: Plan, found: list[Kind], at_once: int) -> float | None:
    """Seconds until all is finished, by the medians, with this many stages at a time; None where one is not known."""
    seconds = {kind.name: kind.seconds for kind in found if kind.seconds is not None}
    todo = [stage for stage in plan.stages if marks.ended(stage) is None]
    if any(stage.name not in seconds for stage in todo):
        return None
    return makespan(todo, {stage: seconds[stage.name] for stage in todo}, at_once)


def makespan(stages: list[Stage], seconds: dict[Stage, float], at_once: int) -> float:
    """When the last one ends, if each starts, in order, as soon as its needs are met and a slot is free."""
    ends: dict[Stage, float] = {}
    todo, now = list(stages), 0.0
    running: list[Stage] = []
    while todo or running:
        for stage in list(todo):
            met = all(ends.get(one, 0.0 if one not in seconds else float("inf")) <= now for one in stage.needs)
            if len(running) < at_once and met:
                todo.remove(stage)
                running.append(stage)
                ends[stage] = now + seconds[stage]
        first = min(running, key=ends.__getitem__)
        running.remove(first)
        now = ends[first]
    return now
