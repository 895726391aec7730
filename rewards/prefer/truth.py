"""Closed questions: candidates are compared with the truth by the rule rewards, and nobody is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import rewards
from rewards.columns import check_columns
from rewards.gold import called
from rewards.prefer.recipe import ClosedSection
from rewards.prefer.rows import Item
from rewards.registry import Reward
from samples.columns import Columns
from vlm.common.errors import DataError


def comparisons(section: ClosedSection) -> dict[str, Reward]:
    """Task → reward. Raises: RecipeError for one that does not import."""
    found = {}
    for task, spec in section.rewards.items():
        known = rewards.options_of(spec)
        options = {"inside": section.inside, "notation": section.notation, "masks": section.masks}
        found[task] = rewards.resolve(spec, **{name: value for name, value in options.items() if name in known})
    return found


def check(comparisons: Mapping[str, Reward], items: Iterable[Item]) -> None:
    """Refuse a comparison that asks for a column which no row of its task has. Raises: RecipeError."""
    columns = Columns(item.sample for item in items).by_task
    for task, reward in comparisons.items():
        if task in columns:
            check_columns([reward], {task: columns[task]})


def values(item: Item, reward: Reward) -> list[float]:
    """How well each candidate answers the question, as the reward says; higher is better.

    Raises: DataError where it says nothing: a row of the right task lacks its truth, or the reward is not for the task.
    """
    found = []
    for value in called(reward, item.sample, item.candidates):
        if value is None or not math.isfinite(value):
            raise DataError(
                f"row {item.key}: the comparison for task {item.sample.task!r} gave {value}, expected a number; name "
                "another in closed.rewards, or drop the task there to have it judged"
            )
        found.append(float(value))
    return found
