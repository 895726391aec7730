"""What an evaluation found: numbers by name, each with its questions, convention and interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stage.metrics.turns import COUNTED
from vlm.common.bootstrap import Statistic, interval
from vlm.common.errors import DataError

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over n questions, in [0, 1] unless its convention says otherwise."""

    value: float
    n: int
    convention: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of what there was to be asked is in the numbers."""

    scored: int
    "Questions that were asked and answered."
    left_out: dict[str, int] = field(default_factory=dict)
    "Why not → how many questions (of faulty rows: rows)."

    @property
    def offered(self) -> int:
        return self.scored + sum(self.left_out.values())

    def __str__(self) -> str:
        """ "6 of 8 questions; left out: 2 faulty rows"."""
        told = ", ".join(f"{count} {why}" for why, count in self.left_out.items() if count)
        return f"{self.scored} of {self.offered} questions" + (f"; left out: {told}" if told else "")


def as_dict(report: Scores) -> dict[str, dict[str, Any]]:
    """{metric: {value, low, high, level, n, convention, sampling, controls}}, {metric: {not_computed}}; for JSON."""
    out: dict[str, dict[str, Any]] = {}
    for name, metric in report.metrics.items():
        low, high = report.intervals.get(name, (None, None))
        out[name] = {"value": metric.value, "low": low, "high": high, "level": LEVEL}
        out[name] |= {"n": metric.n, "convention": metric.convention}
        if name in COUNTED:
            out[name]["unit"] = "number"
        if report.coverage is not None and report.coverage.offered > report.coverage.scored:
            out[name] |= {"of": report.of(metric), "left_out": dict(report.coverage.left_out)}
        if report.refused:
            out[name]["refused"] = len(report.refused)
        if report.sampling:
            out[name]["sampling"] = report.sampling
        if beside := _controlled(report, name):
            out[name]["controls"] = beside
    return out | {name: {"value": None, "not_computed": why} for name, why in report.missing.items()}


def _controlled(report: Scores, name: str) -> dict[str, dict[str, Any]]:
    """The same number under each control: {control: {value, low, high, n}}, or {not_asked} with the reason."""
    out: dict[str, dict[str, Any]] = {}
    for control, scores in report.controls.items():
        if (metric := scores.metrics.get(name)) is not None:
            low, high = scores.intervals.get(name, (None, None))
            out[control] = {"value": metric.value, "low": low, "high": high, "n": metric.n}
    return out | {control: {"value": None, "not_asked": why} for control, why in report.unasked.items()}


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
    coverage: Coverage | None = None
    "None where nothing is known of it."
    refused: dict[str, str] = field(default_factory=dict)
    "Questions that a server refused for good and that count as wrong → why."
    asked: list[str] = field(default_factory=list)
    "Names of the questions."
    controls: dict[str, Scores] = field(default_factory=dict)
    "Control (`evals.controls`) → the same numbers over its answers."
    unasked: dict[str, str] = field(default_factory=dict)
    "Control that has no numbers → why."

    def of(self, metric: Metric) -> int | None:
        """How many questions a number would be over if none were left out; None for a number over a part of them, as
        nobody knows to which part those belong."""
        whole = self.coverage
        return None if whole is None or metric.n != whole.scored else whole.offered

    def count(self, metric: Metric) -> str:
        """Over how many questions a number is: "6", or "6 of 8" where some were left out."""
        whole = self.of(metric)
        return str(metric.n) if whole is None or whole == metric.n else f"{metric.n} of {whole}"

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
        if name not in self.found:
            self.order.append(name)
        self.found[name] = statistic, convention

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
