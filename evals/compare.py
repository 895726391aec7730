"""Is one run better than another? Paired bootstrap over the same questions, and reports side by side.

Pairing matters: most questions are answered alike by both runs, so the interval of the difference is much
narrower than the two runs' own intervals suggest (Koehn 2004, "Statistical significance tests for machine
translation evaluation").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evals.metrics import CONVENTIONS, Report
from vlm.errors import DataError

_CELLS = 4_000_000
"""Resampling counts held at a time (32 MB as float64)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """b - a of one metric, as a share (0.05 is 5 points), with a percentile interval."""

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    level: float
    n: int
    "Questions."
    seeds: int
    "Pairs of runs."

    def __str__(self) -> str:
        runs = f", {self.seeds} seeds" if self.seeds > 1 else ""
        return (
            f"{self.metric} {100 * self.a:.1f} -> {100 * self.b:.1f}: {100 * self.difference:+.1f} points "
            f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}] "
            f"({100 * self.level:g}% paired, n = {self.n}{runs})"
        )


def paired(
    a: Report | Sequence[Report],
    b: Report | Sequence[Report],
    metric: str,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """How much better b is than a, with the interval of a paired bootstrap.

    a and b are one report each, or one per training seed, in the same order; a single report stands against
    all of the other side (one base, three fine-tuned runs). All must hold the same questions. Each resample
    draws questions with replacement, the same ones for every seed and both sides, and, with several seeds,
    seeds with replacement too, as the outer level. (With S seeds that level shows (S-1)/S of the variance
    between seeds.)

    Raises: DataError where the questions differ or the metric applies to none.
    """
    left, right = _broadcast(_list(a), _list(b))
    keys, masks = _questions(left[0], metric)
    values = [[_values(report, metric, keys, masks) for report in side] for side in (left, right)]
    left_values, right_values = np.array(values)  # each (S, N)
    delta = right_values - left_values
    means = masks / masks.sum(axis=1, keepdims=True) / len(masks)  # (K, N): weights of a metric's groups, sum 1
    weights = means.sum(axis=0)  # (N,)
    rng = np.random.default_rng(seed)
    draws = np.concatenate(
        [_resample(rng, delta, masks, size) for size in _chunks(resamples, max(1, _CELLS // len(keys)))]
    )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Difference(
        metric=metric,
        a=float((left_values @ weights).mean()),
        b=float((right_values @ weights).mean()),
        difference=float((delta @ weights).mean()),
        low=float(low),
        high=float(high),
        level=level,
        n=len(keys),
        seeds=len(delta),
    )


def _resample(rng: np.random.Generator, delta: np.ndarray, masks: np.ndarray, count: int) -> np.ndarray:
    """`count` bootstrap means of delta (S, N) over the groups masks (K, N)."""
    seeds, questions = delta.shape
    picks = rng.integers(0, questions, size=(count, questions)) + questions * np.arange(count)[:, None]
    times = np.bincount(picks.ravel(), minlength=count * questions)
    drawn = times.reshape(count, questions).astype(np.float64)  # (R, N) how often each question is drawn
    total = np.zeros((count, seeds))
    groups = np.zeros((count, 1))
    for mask in masks:
        # Questions of the group in each resample, (R,); where there is none, the group is left out.
        inside = drawn @ mask
        there = inside > 0
        total += np.where(there, 1 / np.where(there, inside, 1), 0)[:, None] * (drawn @ (mask * delta).T)
        groups[:, 0] += there
    per_seed = total / np.maximum(groups, 1)  # (R, S)
    if seeds == 1:
        return per_seed[:, 0]
    repeats = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)  # (R, S)
    return (per_seed * repeats).sum(axis=1) / seeds


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _list(reports: Report | Sequence[Report]) -> list[Report]:
    return [reports] if isinstance(reports, Report) else list(reports)


def _broadcast(left: list[Report], right: list[Report]) -> tuple[list[Report], list[Report]]:
    count = max(len(left), len(right))
    if not left or not right or {len(left), len(right)} - {1, count}:
        raise DataError(f"found {len(left)} runs against {len(right)}, expected as many on both sides (or one)")
    return left * (count // len(left)), right * (count // len(right))


def _questions(report: Report, metric: str) -> tuple[list[str], np.ndarray]:
    """The questions of a metric (N) and which belong to which of its groups (K, N)."""
    groups = report.groups(metric)
    if not groups:
        raise DataError(f"the metric {metric!r} applies to no question; there are {', '.join(report.metrics)}")
    keys = sorted(set().union(*groups))
    return keys, np.array([[float(key in group) for key in keys] for group in groups])


def _values(report: Report, metric: str, keys: list[str], masks: np.ndarray) -> list[float]:
    """The metric's value of each question; the report must hold just these, in the same groups."""
    groups = report.groups(metric)
    values = {key: value for group in groups for key, value in group.items()}
    if set(values) != set(keys):
        odd = sorted(set(values) ^ set(keys))
        raise DataError(
            f"{metric}: {len(odd)} questions are in one run only (such as {odd[0]!r}); a paired comparison "
            "needs the same questions in all"
        )
    if [[float(key in group) for key in keys] for group in groups] != masks.tolist():
        raise DataError(f"{metric}: the runs give the same questions different types")
    return [values[key] for key in keys]


def rows(reports: Mapping[str, Report]) -> tuple[list[list[str]], list[str]]:
    """Cells of the table, in percent (metric, n, one per report), and the conventions below it."""
    names: dict[str, None] = {}
    for report in reports.values():
        names |= dict.fromkeys(report.metrics)
    cells, notes = [], []
    for name in _ordered(names):
        found = [report.metrics.get(name) for report in reports.values()]
        counts = dict.fromkeys(str(metric.n) for metric in found if metric)
        shown = ["–" if metric is None else f"{100 * metric.value:.1f}" for metric in found]
        cells.append([name, " / ".join(counts), *shown])
        if "[" not in name:
            texts = dict.fromkeys(metric.convention for metric in found if metric)
            notes.append(f"{name}: {' | '.join(texts)}")
    return cells, notes


def _ordered(names: Mapping[str, None]) -> list[str]:
    """Names in the order of CONVENTIONS, each metric's types behind it."""
    position = {name: number for number, name in enumerate(CONVENTIONS)}
    return sorted(names, key=lambda name: (position[name.partition("[")[0]], name))


def table(reports: Mapping[str, Report], title: str | None = None) -> Group:
    """Several reports side by side for the terminal, in percent, the conventions below."""
    cells, notes = rows(reports)
    out = Table(title=title)
    out.add_column("metric (%)")
    for name in ("n", *reports):
        out.add_column(Text(name), justify="right")
    for row in cells:
        out.add_row(*map(Text, row))  # Text: a plain string's [type] would be taken for markup
    return Group(out, Text("\n".join(notes)))


def markdown(reports: Mapping[str, Report]) -> str:
    """The same as a Markdown table followed by a list of the conventions."""
    cells, notes = rows(reports)
    lines = [["metric (%)", "n", *reports], ["---", *["---:"] * (len(reports) + 1)], *cells]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *(f"- {note}" for note in notes)]) + "\n"
