"""What rewards ask of the data by the names of their parameters, compared with what the rows hold before weights load.

    def solved(completions, solution, **columns): …        # every row without `solution` would fail, at the first step

A parameter without a default must be a column of some row. A parameter with a default other than None is an option: a
column of its name would replace its value in every call, so it is refused.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rewards.gated import Gated, check_tasks
from rewards.guarded import Guarded, unchecked
from rewards.registry import COLUMNS, Reward, _name
from samples.facts import OPTIONAL
from vlm.common.errors import RecipeError

ALWAYS = COLUMNS - {*OPTIONAL, "columns"}
"""What every call of a reward holds."""


def itself(reward: Reward) -> Reward:
    """The reward, whatever guards it."""
    while isinstance(reward, Guarded):
        reward = reward.reward
    return unchecked(reward)


def parameters(reward: Reward) -> list[inspect.Parameter]:
    """The named parameters of a reward itself, whatever is around it; bound ones with their values as defaults."""
    try:
        found = inspect.signature(itself(reward)).parameters.values()
    except (TypeError, ValueError):  # a module, or written in C: what it asks for cannot be told
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter for parameter in found if parameter.kind in named and parameter.name not in ALWAYS]


def required(reward: Reward) -> list[str]:
    """Columns that a call must have."""
    return [parameter.name for parameter in parameters(reward) if parameter.default is parameter.empty]


def check_columns(rewards: Iterable[Reward], columns: Mapping[str, Iterable[str]]) -> None:
    """Refuse a reward that asks for a column which no row has. columns: by task (`samples.columns`).

    Raises: RecipeError naming the reward, its parameter, the columns at hand and the nearest of them.
    """
    every = set().union(*columns.values())
    for label, reward, task in _each(rewards):
        if task is not None and task not in columns:
            continue
        there = every if task is None else set(columns[task])
        rows = "the data" if task is None else f"the rows of task {task!r}"
        for parameter in parameters(reward):
            if parameter.default is parameter.empty and parameter.name not in there:
                raise RecipeError(_missing(label, parameter.name, there, rows))
            if parameter.name in there and parameter.name not in OPTIONAL and _is_option(reward, parameter):
                raise RecipeError(
                    f"reward {label}: its option {parameter.name!r} has the name of a column of {rows}, whose values "
                    f"would replace it; rename the column at the source: `columns: {{NAME: {parameter.name}}}`"
                )


def check_data(rewards: Sequence[Reward], data: Iterable[str]) -> None:
    """`check_tasks` of the data's tasks, and `check_columns` where `data` gives the columns of each (a mapping)."""
    check_tasks(rewards, data)
    if isinstance(data, Mapping):
        check_columns(rewards, data)


def _each(rewards: Iterable[Reward]) -> Iterator[tuple[str, Reward, str | None]]:
    """(name for messages, reward, its task or None for all), inside of `gated`, too."""
    for reward in rewards:
        if isinstance(reward, Gated):
            for name, inner in reward.task_rewards.items():
                yield f"'gated', tasks.{name} ({_told(inner)})", inner, name.partition("/")[0]
        else:
            yield repr(_told(reward)), reward, None


def _told(reward: Any) -> str:
    return reward.__name__ if isinstance(reward, Guarded) else _name(reward)


def _is_option(reward: Reward, parameter: inspect.Parameter) -> bool:
    inner = itself(reward)
    bound = inner.keywords if isinstance(inner, functools.partial) else {}
    return parameter.name in bound or parameter.default not in (None, parameter.empty)


def _missing(label: str, name: str, there: set[str], rows: str) -> str:
    near = difflib.get_close_matches(name, sorted(there), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    stands = near[0] if near else "COLUMN"
    return (
        f"reward {label} needs the column {name!r}, which no row of {rows} has; {hint}columns at hand: "
        f"{', '.join(sorted(there)) or 'none'}. Name it at the source: `columns: {{{name}: {stands}}}`"
    )
