"""What a control is, and by which name it is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from samples import Sample
from vlm.common.errors import UserError

NONE: Mapping[str, int] = MappingProxyType({})


class Asked(NamedTuple):
    """What a control asks."""

    samples: list[Sample]
    """Questions by the names (`source`, `id`) that they have in the evaluation, in its order; some may be missing. The
    model is shown what they hold. The truth, and what tells one question from another, stays the evaluation's. `size`
    is that of the first picture that is shown (of the question's own where none is): frames of boxes follow it."""
    recipe: Any
    "The evaluation's `EvalRecipe`, or a changed copy."
    left_out: Mapping[str, int] = NONE
    "Why questions of the evaluation are not asked → how many."


Ask = Callable[[Sequence[Sample], Any], Asked | str]
"""`ask(samples, recipe)` → what is asked, or why nothing is. The same in every process and start."""


@dataclass(frozen=True)
class Control:
    name: str
    meaning: str
    "What is asked, in a line below the table."
    ask: Ask


CONTROLS: dict[str, Control] = {}


def register(name: str, meaning: str) -> Callable[[Ask], Ask]:
    """Decorator: makes a function a control. Raises: ValueError for a name that is taken, or is no folder's."""

    def take(ask: Ask) -> Ask:
        if name in CONTROLS or not name.replace("_", "").isalnum():
            raise ValueError(f"control {name!r}: expected a new name of letters, digits and _")
        CONTROLS[name] = Control(name, meaning, ask)
        return ask

    return take


def find(name: str) -> Control:
    """Raises: UserError where there is no such control."""
    if name not in CONTROLS:
        known = "; ".join(f"{one.name} ({one.meaning})" for one in CONTROLS.values())
        raise UserError(f"found {name!r}, expected one of: {known}")
    return CONTROLS[name]
