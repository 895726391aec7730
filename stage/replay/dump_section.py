"""What a recipe says about dumps; apart from `stage.replay.dumps`, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlm.common.errors import RecipeError


@dataclass
class DumpSection:
    """Steps whose inputs and random states are kept for `launch/replay.py` to compute again (`stage.replay.dumps`)."""

    steps: list[int] = field(default_factory=list)
    "These steps; the first is 1."
    every: int | None = None
    "And every so many."
    weights: bool = False
    "With the weights before the step, for steps that do not follow upon a checkpoint."

    def check(self) -> None:
        if any(step < 1 for step in self.steps) or (self.every is not None and self.every < 1):
            raise RecipeError(f"steps = {self.steps}, every = {self.every}; steps are counted from 1")

    def due(self, step: int) -> bool:
        return step in self.steps or bool(self.every and step % self.every == 0)
