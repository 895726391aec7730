"""What an evaluation found: numbers by name, each with its questions, convention and interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vlm.common.bootstrap import Statistic, interval
from vlm.common.errors import DataError

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over n questions, in [0, 1] unless its convention says otherwise."""

    value: float
    n: int
    convention: str


def as_dict(report: Scores) -> dict[str, dict[str, Any]]:
    """{metric: {value, low, high, level, n, convention, sampling}}, and {metric: {not_computed}}; for JSON."""
    out: dict[str, dict[str, Any]] = {}
    for name, metric in report.metrics.items():
        low, high = report.intervals.get(name, (None, None))
        out[name] = {"value": metric.value, "low": low, "high": high, "level": LEVEL}
        out[name] |= {"n": metric.n, "convention": metric.convention}
        if report.sampling:
            out[name]["sampling"] = report.sampling
    return out | {name: {"value": None, "not_computed": why} for name, why in report.missing.items()}


@dataclass
class Scores:
    """What tables, comparisons and `metrics.json` are made from, put together number by number."""

    found: dict[str, tuple[Statistic, str]] = field(default_factory=dict)
    "Name → the number and its convention."
    missing: dict[str, str] = field(default_factory=dict)
    "What should have been computed and could not be, with the reason."
    bare: dict[str, Metric] = field(default_factory=dict)
    "Numbers that are not resampled, and so have no interval."
    order: list[str] = field(default_factory=list)
    sampling: str = ""
    "How the answers were drawn, in words; empty where nothing is known of it."

    def alone(self, name: str, value: float, n: int, convention: str) -> None:
        self.bare[name] = Metric(float(value), n, convention)
        self.order.append(name)

    def join(self, other: Scores) -> None:
        """Take over another report's numbers."""
        self.found |= other.found
        self.missing |= other.missing
        self.bare |= other.bare
        self.order += other.order

    def add(self, name: str, statistic: Statistic, convention: str) -> None:
        self.found[name] = statistic, convention
        self.order.append(name)

    def statistic(self, metric: str) -> Statistic:
        """The number as a function of how often each question counts. Raises: DataError for one that is not there."""
        if metric not in self.found:
            raise DataError(f"the metric {metric!r} is not here to be resampled; there are {', '.join(self.found)}")
        return self.found[metric][0]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """All numbers, by stable name, in the order of the tables."""
        return {name: self.bare[name] if name in self.bare else self._metric(*self.found[name]) for name in self.order}

    @staticmethod
    def _metric(statistic: Statistic, convention: str) -> Metric:
        return Metric(statistic.value, len(statistic.keys), convention)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The bootstrap interval of each number that has one."""
        return {name: interval(statistic, level=LEVEL) for name, (statistic, _) in self.found.items()}
