"""What is known of a logged name: the records that the registry is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Stage = Literal["sft", "grpo", "score"]
"""`launch/sft.py`, `launch/grpo.py`, and `launch/score.py`, which trains a score model."""
SFT: tuple[Stage, ...] = ("sft",)
GRPO: tuple[Stage, ...] = ("grpo",)
SCORE: tuple[Stage, ...] = ("score",)
ALL: tuple[Stage, ...] = (*SFT, *GRPO, *SCORE)
Row = Literal["step", "eval", "end"]
"""Which rows of metrics.jsonl hold it: those of training steps, of evaluations (as `eval_<name>`), the last one."""
BOTH: tuple[Row, ...] = ("step", "eval")
Need = Literal["cuda", "vllm", "dashboard"]
"""Where it is missing: without a GPU, without vLLM, or in metrics.jsonl (it goes to wandb and its kin only)."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, None for no bound; the bounds themselves are inside unless `open`."""

    low: float | None = None
    high: float | None = None
    open: bool = False

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise ValueError("a range without bounds says nothing; write None instead")
        if self.low is None or self.high is None:
            return
        if self.low > self.high or (self.open and self.low == self.high):
            raise ValueError(f"no number is from {self.low} to {self.high}")

    def holds(self, value: float) -> bool:
        """Whether `value` is healthy; NaN never is. (What was logged as null has no value to be judged.)"""
        if math.isnan(value):
            return False
        if self.open:
            return (self.low is None or value > self.low) and (self.high is None or value < self.high)
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        """E.g. "0", "≥ 0.9", "< 0.693", "0 to 0.5"."""
        if self.low == self.high:
            return f"{self.low:g}"
        if self.low is None or self.high is None:
            sign = "≤≥<>"[2 * self.open + (self.high is None)]
            return f"{sign} {self.low if self.high is None else self.high:g}"
        return f"{'between ' if self.open else ''}{self.low:g} {'and' if self.open else 'to'} {self.high:g}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One logged name, or a family of them.

    Two metrics may have one name where different stages mean different things by it.

        Metric("rewards/<reward>/mean", "mean of one reward over the rows that it applies to", "reward", …)
    """

    name: str
    "As it is logged in training; what is in <…> is the recipe's or the data's (`stage.metrics.finding`)."
    meaning: str
    "What is computed over what: rows, groups, micro-batches, processes."
    unit: str
    "Empty for a number without one."
    healthy: Range | None
    "None where there is no general range."
    why: str
    "Where the range comes from, or why there is none."
    advice: str
    "What to do when the range is left or, without one, when the number goes the wrong way."
    stages: tuple[Stage, ...]
    rows: tuple[Row, ...] = ("step",)
    worse: Literal["lower", "higher"] | None = None
    "The direction that is a bad sign in the course of a run; None where neither is, or both are."
    when: str = ""
    "What must hold for it to be logged at all."
    needs: Need | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that come from one place, in the order in which they are read."""

    title: str
    about: str
    metrics: tuple[Metric, ...]
