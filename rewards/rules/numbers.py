"""Numbers: right within a tolerance, and counts that may be nearly right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from rewards.registry import register
from rewards.rules.rows import Column, Inside, per_row
from vlm.common import numerals
from vlm.common.errors import RecipeError


@register("numeric")
def numeric(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    task: Column = None,
    absolute: float = 0.0,
    relative: float = 0.0,
    applies_to: Sequence[str] = ("vqa",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """1 where the answer is the row's number, give or take the tolerance, else 0. None where the row's own answer is
    not one number, as with yes and no.

    The answer must be one number, perhaps with its unit (vlm.numerals.read): "1,200 m2", "twelve". Several numbers,
    or a number in a sentence, earn 0; so does another unit than the row's, where both state one.

    absolute, relative: right is |said - true| <= max(absolute, relative * |true|); both 0: equal as numbers, so that
    "3.0" is 3 and "3.5" is not 35.
    """
    if not (0 <= absolute < math.inf and 0 <= relative < 1):
        raise RecipeError(
            f"reward 'numeric': absolute = {absolute}, relative = {relative}; expected absolute ≥ 0, 0 ≤ relative < 1"
        )

    def judge(row: int, said: str) -> float | None:
        truth = numerals.read(answer[row]) if answer is not None and answer[row] is not None else None
        if truth is None:
            return None
        found = numerals.read(said)
        if found is None or not numerals.same_unit(found.unit, truth.unit):
            return 0.0
        return float(abs(found.value - truth.value) <= max(absolute, relative * abs(truth.value)))

    return per_row(
        "numeric",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: numerals.read(said) is not None,
    )


@register("count")
def count(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    task: Column = None,
    closeness: Literal["linear", "exp", "exact"] = "linear",
    rate: float = 3.0,
    applies_to: Sequence[str] = ("vqa",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """How near a count is to the row's, in [0, 1]; 1 only where it is equal. None where the row's own answer is no
    count.

    A count is a whole number from 0 on, in digits or words, perhaps with what is counted ("12 ships"); anything else
    earns 0.

    closeness, with d = |said - true| / max(true, 1): "linear": 1 - d, at least 0; "exp": exp(-rate * d), which tells
    far misses apart, too; "exact": 1 or 0.
    """
    if not 0 < rate < math.inf:
        raise RecipeError(f"reward 'count': rate is {rate}; expected a number above 0")

    def judge(row: int, said: str) -> float | None:
        truth = _whole(answer[row]) if answer is not None and answer[row] is not None else None
        if truth is None:
            return None
        found = _whole(said)
        if found is None:
            return 0.0
        off = abs(found - truth) / max(truth, 1)
        if closeness == "exact":
            return float(off == 0)
        return max(0.0, 1 - off) if closeness == "linear" else math.exp(-rate * off)

    return per_row(
        "count",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: _whole(said) is not None,
    )


def _whole(text: str) -> int | None:
    """The count that a text states; None for any other text, "3.0" and "-3" included."""
    found = numerals.read(text)
    if found is None or not found.whole or found.value < 0 or found.unit == "%":
        return None
    return int(found.value)
