"""The composed reward of ScoreRS (arXiv 2503.00743, section 3.3 and its published code).

    r = 0                        where the format fails
    r = 0.3 + 0.7 · task reward  else, the task reward chosen by the row's ``task``

Departures: the format is that of vlm.answers.parse (one answer, trailing white space allowed); the IoU of
grounding rows is continuous unless asked for as the paper's steps (``tasks: {grounding: {use: iou, steps:
graduated}}``).

What is logged, whatever passes the gate: ``reward_raw/…`` (`stage.metrics.rewards`). The names do not depend on the
outcome, so means are over all rows; an entry "task/kind" is logged under its own name, reward_raw/<task>/<kind>. Per
row, in TRL's completions table: ``reward_raw/format`` and ``reward_raw/task``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rewards.registry import Reward, collective, options_of, register, resolve
from rewards.rules import format as format_reward
from rewards.rules.rows import of_rows
from rewards.values import plain
from samples import TASKS, kinds_of
from stage.checkpoints.stateful import Stateful
from vlm.common.errors import RecipeError
from vlm.common.plugins.importing import nearest

DEFAULT_TASKS: dict[str, str | dict[str, Any]] = {
    "grounding": "iou",
    "detection": "detect",
    "segmentation": "mask",
    "vqa": "exact_match",
    "classification": "exact_match",
    "choice": "choice",
}


@register("gated")
class Gated:
    """Format gate and per-row dispatch by task. Built once; called by TRL like any reward function.

    format_share: reward of a right format alone; the task reward has the rest. In [0, 1].
    tasks: task -> reward, as a spec ("exact_match", "my.py:f") or ``{use: spec, **options}``. Entries replace
        or extend DEFAULT_TASKS, and a null entry takes a task out. Rows of a task without a reward get None. An entry
        "task/kind" is for the task's rows of this kind alone (``vqa/count: count``); the task's own is for the others.
    notation: given on to the task rewards that have such an option and do not set it.

    A task reward is called where the batch has rows of its task; one that works together with the other processes
    (``rewards.registry.collective``), always, then maybe with empty lists.

    A task reward with the option ``applies_to`` gets the task that it stands for, so any of them can be
    used for any task. Task rewards must be in [0, 1]; one that is not stops the run (RecipeError).
    """

    def __init__(
        self,
        format_share: float = 0.3,
        tasks: dict[str, Any] | None = None,
        notation: str | None = None,
    ) -> None:
        if not 0 <= format_share <= 1:
            raise RecipeError(f"reward 'gated': format_share is {format_share}; expected a number in [0, 1]")
        if tasks is not None and not isinstance(tasks, Mapping):
            raise RecipeError(f"reward 'gated': tasks is {tasks!r}; expected task: reward pairs")
        self.__name__ = "gated"  # TRL's metrics: rewards/gated/mean
        self.format_share = format_share
        self.task_rewards: dict[str, Any] = {}
        self.entries = {**DEFAULT_TASKS, **(tasks or {})}
        for name, entry in self.entries.items():
            task, slash, kind = str(name).partition("/")
            if task not in TASKS:
                raise RecipeError(f"reward 'gated': unknown task {task!r} under tasks; {nearest(task, TASKS)}")
            if slash and not kind:
                raise RecipeError(
                    f"reward 'gated': tasks.{name} names no kind; expected {task}/<kind>, such as vqa/count"
                )
            if entry is not None:
                self.task_rewards[name] = _task_reward(name, entry, notation)

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        task: Sequence[str] | None = None,
        kind: Sequence[str | None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        if task is None:
            raise RecipeError("reward 'gated' chooses by the column 'task', which the data does not have; add it")
        formats = format_reward(completions=completions)
        names = [self.entry(its, None if kind is None else kind[row]) for row, its in enumerate(task)]
        per_row = {"prompts": prompts, "completions": completions, "task": task, "log_metric": log_metric, **columns}
        raw = self._task_rewards(names, per_row if kind is None else per_row | {"kind": kind})
        if log_metric is not None:
            self._log(log_metric, names, formats, raw)
        if log_extra is not None:
            log_extra("reward_raw/format", formats)
            log_extra("reward_raw/task", raw)
        return [None if r is None else gate(f, r, self.format_share) for f, r in zip(formats, raw, strict=True)]

    def check_tasks(self, tasks_in_data: Iterable[str]) -> None:
        """Raises RecipeError when rows of one of these tasks would never be rewarded."""
        missing = sorted(set(tasks_in_data) - {name.partition("/")[0] for name in self.task_rewards})
        if missing:
            raise RecipeError(
                f"reward 'gated' has no reward for task {missing[0]!r}, which the data contains; add "
                f"'{missing[0]}: <reward>' under its tasks, or leave these rows out; "
                f"tasks with a reward: {', '.join(sorted(self.task_rewards))}"
            )

    def state_dict(self) -> dict[str, Any]:
        """What the task rewards have to remember (`stage.checkpoints.stateful`), by task."""
        rewards = self.task_rewards.items()
        return {task: reward.state_dict() for task, reward in rewards if isinstance(reward, Stateful)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for task, remembered in state.items():
            self.task_rewards[task].load_state_dict(remembered)

    def entry(self, task: str, kind: str | None) -> str:
        """The entry that a row belongs to: that of its first kind that has one, else its task's."""
        own = (f"{task}/{one}" for one in kinds_of(kind))
        return next((name for name in own if name in self.entries), task)

    def _task_rewards(self, names: Sequence[str], per_row: dict[str, Any]) -> list[float | None]:
        """Raw task reward of every row, whatever its format; None where no reward applies. names: the rows' entries."""
        raw: list[float | None] = [None] * len(names)
        for name, reward in self.task_rewards.items():
            rows = [row for row, its in enumerate(names) if its == name]
            if not rows and not collective(reward):
                continue
            values = plain(reward(**of_rows(per_row, rows)), len(rows), f"the reward for task {name!r}")
            for row, value in zip(rows, values, strict=True):
                raw[row] = bounded(name, value)
        return raw

    def _log(
        self,
        log_metric: Callable[[str, float], None],
        names: Sequence[str],
        formats: Sequence[float],
        raw: Sequence[float | None],
    ) -> None:
        # One call per row, not one per mean: TRL averages over all calls of all processes, so this is the
        # exact mean over rows however tasks are spread over processes. Nothing is logged for a task without
        # rows, because one NaN would spoil the other processes' mean. Counts are logged always, zeros
        # included.
        for value in formats:
            log_metric("reward_raw/format", value)
        for name in self.task_rewards:
            values = [value for its, value in zip(names, raw, strict=True) if its == name and value is not None]
            for value in values:
                log_metric(f"reward_raw/{name}", value)
            log_metric(f"reward_raw/{name}_count", float(len(values)))
        log_metric("reward_raw/none_count", float(sum(value is None for value in raw)))


def gate(format_value: float, task_value: float, format_share: float = 0.3) -> float:
    """0 where the format fails, else format_share + (1 − format_share) · task_value; in [0, 1] for arguments
    in it."""
    return min(1.0, format_share + (1 - format_share) * task_value) if format_value else 0.0


def bounded(name: str, value: float | None) -> float | None:
    """A value of the reward for the entry `name`. Raises: RecipeError where it is not in [0, 1]."""
    if value is not None and not 0 <= value <= 1:  # NaN fails this, too
        raise RecipeError(
            f"the reward for task {name!r} returned {value}; in 'gated' it must be in [0, 1], "
            "or None where it does not apply"
        )
    return value


def ungated(rewards: Iterable[Reward]) -> list[Reward]:
    """The rewards, with the task rewards of each ``gated`` in its place."""
    return [r for reward in rewards for r in (reward.task_rewards.values() if isinstance(reward, Gated) else [reward])]


def check_tasks(rewards: Iterable[Reward], tasks_in_data: Iterable[str]) -> None:
    """Check, before any weight loads, that every ``gated`` among ``rewards`` knows the tasks of the data."""
    tasks = set(tasks_in_data)
    for reward in rewards:
        if isinstance(reward, Gated):
            reward.check_tasks(tasks)


def _task_reward(name: str, entry: str | Mapping[str, Any], notation: str | None) -> Reward:
    """Resolve one entry of ``tasks``; errors say which task they belong to."""
    options: dict[str, Any] = (
        {"use": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, Mapping) else {}
    )
    spec = options.pop("use", None)
    if not isinstance(spec, str):
        raise RecipeError(f"reward 'gated': tasks.{name} is {entry!r}; expected a reward or {{use: reward, options…}}")
    if spec == "gated":
        raise RecipeError(f"reward 'gated': tasks.{name} is 'gated' again; name the reward of the task itself")
    try:
        known = options_of(spec)
        if "applies_to" in known:
            options.setdefault("applies_to", (name.partition("/")[0],))
        if "notation" in known and notation is not None and options.get("notation") is None:
            options["notation"] = notation
        reward: Any = resolve(spec, **options)
    except RecipeError as cause:
        raise RecipeError(f"reward 'gated', tasks.{name}: {cause}") from cause
    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(reward.__call__):
        raise RecipeError(
            f"reward 'gated': tasks.{name} is asynchronous; use it next to 'gated', or make it a plain one"
        )
    return reward
