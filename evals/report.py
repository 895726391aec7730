"""What an evaluation found: numbers by name, each with its questions, convention and interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from evals.bootstrap import Statistic, interval

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Metric:
    """A share or mean over n questions, in [0, 1] unless its convention says otherwise."""

    value: float
    n: int
    convention: str


class Report(Protocol):
    """What tables, comparisons and `metrics.json` are made from."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """All numbers, by stable name, in the order of the tables."""

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The bootstrap interval of each number that has one."""

    @property
    def missing(self) -> dict[str, str]:
        """What should have been computed and could not be, with the reason."""

    def statistic(self, metric: str) -> Statistic:
        """The number as a function of how often each question counts. Raises: DataError for an unknown one."""


def as_dict(report: Report) -> dict[str, dict[str, Any]]:
    """{metric: {value, low, high, level, n, convention}}, and {metric: {not_computed}}; for JSON."""
    out: dict[str, dict[str, Any]] = {}
    for name, metric in report.metrics.items():
        low, high = report.intervals.get(name, (None, None))
        out[name] = {"value": metric.value, "low": low, "high": high, "level": LEVEL}
        out[name] |= {"n": metric.n, "convention": metric.convention}
    return out | {name: {"value": None, "not_computed": why} for name, why in report.missing.items()}


@dataclass
class Scores:
    """A report put together number by number."""

    found: dict[str, tuple[Statistic, str]] = field(default_factory=dict)
    "Name → the number and its convention."
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, statistic: Statistic, convention: str) -> None:
        self.found[name] = statistic, convention

    def statistic(self, metric: str) -> Statistic:
        from vlm.errors import DataError

        if metric not in self.found:
            raise DataError(f"unknown metric {metric!r}; metrics are {', '.join(self.found)}")
        return self.found[metric][0]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        return {
            name: Metric(statistic.value, len(statistic.keys), convention)
            for name, (statistic, convention) in self.found.items()
        }

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return {name: interval(statistic, level=LEVEL) for name, (statistic, _) in self.found.items()}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return as_dict(self)
