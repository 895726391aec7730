"""Combinations of a recipe's data keys that mean nothing, found before any file is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samples.mixture.record import Role
from samples.mixture.shares import quotas
from vlm.common.errors import RecipeError

if TYPE_CHECKING:
    from samples.sections import DataSection, SourceSection


def sections_of(data: DataSection, role: Role) -> list[SourceSection]:
    return data.train if role == "train" else data.eval


def quotas_of(data: DataSection, role: Role) -> list[int | None]:
    """Rows of each source where ratios say so, else None of each."""
    sections = sections_of(data, role)
    if role == "train" and data.rows is not None:
        return list(quotas([section.ratio for section in sections], data.rows))
    return [None] * len(sections)


def wanted_tasks(section: SourceSection, data: DataSection) -> set[str] | None:
    """Tasks that both the source and `data.tasks` let through; None for all."""
    given = [set(tasks) for tasks in (section.tasks, data.tasks) if tasks is not None]
    return set.intersection(*given) if given else None


def check(data: DataSection) -> None:
    """Refuse combinations that mean nothing, for `DataSection.check`. Raises: RecipeError."""
    for role in ("train", "eval"):
        for number, section in enumerate(sections_of(data, role)):
            wanted = wanted_tasks(section, data)
            if wanted is not None and not wanted:
                raise RecipeError(
                    f"{role}.{number}: its tasks {section.tasks} and tasks {data.tasks} of all sources have none in "
                    "common, so no row could pass"
                )
    for number, section in enumerate(data.eval):
        for name, plain in (("repeat", 1), ("ratio", None)):
            if getattr(section, name) != plain:
                raise RecipeError(
                    f"eval.{number}: {name} = {getattr(section, name)}, but a held-out question counts once; "
                    "leave it out (percent and limit may stay)"
                )
    _check_ratios(data)


def _check_ratios(data: DataSection) -> None:
    given = [section.ratio is not None for section in data.train]
    if data.rows is None:
        if any(given):
            raise RecipeError(
                f"train.{given.index(True)}: ratio is a part of a total, which is missing; add rows (say 8000) to data"
            )
        return
    if data.rows < 1:
        raise RecipeError(f"rows = {data.rows}; expected at least 1, or null")
    if not given or not all(given):
        where = f"train.{given.index(False)} has no ratio" if given else "train is empty"
        raise RecipeError(f"rows = {data.rows} is divided by ratio, but {where}; give every source one, or drop rows")
    counts = quotas([section.ratio for section in data.train], data.rows)
    if 0 in counts:
        raise RecipeError(f"train.{counts.index(0)}: its ratio of rows = {data.rows} is no row at all; raise either")
