"""What launch/ tells about a stage's launcher; studies imports no stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Launcher:
    script: str
    "From the repository's root: launch/grpo.py."
    recipe: type
    check: Callable[[Any], object] | None = None
    "Refuses with RecipeError what a resolved recipe asks in vain; called for each recipe before anything runs."


Launchers = Mapping[str, Launcher]
