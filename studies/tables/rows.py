"""The numbers of a table: means over seeds with intervals, and paired differences (`vlm.common.bootstrap`).

runs = {"zero": {"0": {"": report}, "1": {"": report}}, "r1": {…}}      # label → seed → benchmark → report
rows = [*means(runs, ["vqa/exact"]), *differences(runs, [("zero", "r1")], ["vqa/exact"])]
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vlm.common.bootstrap import Statistic, differing_questions, quantiles, replicates
from vlm.common.errors import DataError, UserError

LEVEL = 0.95


class Report(Protocol):
    """What an evaluation found, as `evals.scoring.report.Scores`."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """By stable name, in the order of the tables."""

    @property
    def coverage(self) -> Any | None:
        """How much of what there was to be asked is in it (`left_out`: why not → how many); None where unknown."""

    def statistic(self, metric: str) -> Statistic:
        """The number over its questions. Raises: DataError for one that cannot be resampled."""


class Figure(Protocol):
    """A published number, as `evals.benchmarks.published.Figure`."""

    benchmark: str
    metric: str
    model: str
    value: float
    source: str
    note: str


Runs = Mapping[str, Mapping[str, Mapping[str, Report]]]
"""Label → seed → benchmark ("" for an evaluation by recipe) → report."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number, mostly a share. What has no interval (a published figure) has None there."""

    kind: Literal["measured", "difference", "published"]
    benchmark: str
    "Empty for an evaluation by recipe."
    metric: str
    label: str
    value: float
    "Mean over the seeds; of a difference `label` - `against`."
    low: float | None = None
    high: float | None = None
    level: float | None = None
    n_items: int | None = None
    "Questions; with seeds that have questions of their own, those of all."
    n_seeds: int | None = None
    per_seed: tuple[float, ...] = ()
    "Each seed's own number."
    against: str = ""
    scheme: Literal["", "items", "crossed", "nested"] = ""
    "What was resampled: questions alone, seeds and the questions they share, or seeds and each one's questions."
    source: str = ""
    "Of a published figure."
    note: str = ""
    "What pairs, what was left out, or what differs from how the figure was published."

    @property
    def spread(self) -> float | None:
        """Standard deviation between the seeds; None with fewer than two."""
        return statistics.stdev(self.per_seed) if len(self.per_seed) > 1 else None


def benchmarks(runs: Runs) -> list[str]:
    """All that some run was evaluated on, in order."""
    return list(dict.fromkeys(name for seeds in runs.values() for one in seeds.values() for name in one))


def metrics(runs: Runs, wanted: Sequence[str] = ()) -> list[str]:
    """`wanted`, or all that were computed except those of single question types.

    Raises: UserError for one that no run has.
    """
    reports = [report for seeds in runs.values() for one in seeds.values() for report in one.values()]
    known = list(dict.fromkeys(name for report in reports for name in report.metrics))
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"no run has the metric {unknown[0]!r}; there are {', '.join(known)}")
    return list(wanted) or [name for name in known if "[" not in name]


def means(runs: Runs, names: Iterable[str], *, level: float = LEVEL, count: int = 4000, seed: int = 0) -> list[Row]:
    """A row for each benchmark, metric and label that has it, by `count` resamples; seeded."""
    out = []
    for benchmark in benchmarks(runs):
        for metric in names:
            for label in runs:
                found = list(of_seeds(runs, label, benchmark, metric).values())
                if found:
                    low, high = quantiles(replicates(found, count=count, seed=seed), level)
                    own = tuple(one.value for one in found)
                    questions = len(set().union(*(one.keys for one in found)))
                    out.append(
                        Row("measured", benchmark, metric, label, statistics.fmean(own), low, high, level, questions,
                            len(found), own, scheme=scheme(found), note=_left_out(runs, label, benchmark))
                    )  # fmt: skip
    return out


def _left_out(runs: Runs, label: str, benchmark: str) -> str:
    """What the label's evaluations say of questions that are not in their numbers; empty where all are."""
    whole = [one[benchmark].coverage for one in runs[label].values() if benchmark in one]
    return "; ".join(dict.fromkeys(str(one) for one in whole if one is not None and one.left_out))


def differences(
    runs: Runs,
    pairs: Iterable[tuple[str, str]],
    names: Iterable[str],
    *,
    level: float = LEVEL,
    count: int = 4000,
    seed: int = 0,
) -> list[Row]:
    """A row for each pair (before, after), benchmark and metric that both have: after - before, on the same questions.

    Seeds pair by their name: seed 1 of one run with seed 1 of the other, as far as both have them. A single run whose
    seed the other side does not have (a base that is not trained) stands against each seed of that. A resample draws
    pairs of seeds, and questions.
    Raises: UserError where a label is unknown, no seed pairs, or the questions differ.
    """
    pairs, names, out = list(pairs), list(names), []
    for label in (label for pair in pairs for label in pair):
        if label not in runs:
            raise UserError(f"no run is called {label!r}; there are {', '.join(runs)}")
    for benchmark in benchmarks(runs):
        for metric in names:
            for before, after in pairs:
                left, right = (of_seeds(runs, label, benchmark, metric) for label in (before, after))
                if left and right:
                    where = f"{after} against {before}, {metric}"
                    a, b, who = _paired(left, right, where)
                    try:
                        low, high = quantiles(replicates(b, a, count=count, seed=seed), level)
                    except DataError as error:
                        raise DataError(f"{where}: {error}") from error
                    own = tuple(y.value - x.value for x, y in zip(a, b, strict=True))
                    note = f"{who}; {len(a[0].keys)} questions paired by name"
                    out.append(
                        Row("difference", benchmark, metric, after, statistics.fmean(own), low, high, level,
                            len(a[0].keys), len(own), own, before, scheme(b), note=note)
                    )  # fmt: skip
    return out


def published(figures: Iterable[Figure], metrics: Iterable[str] | None = None) -> list[Row]:
    """Figures of papers as rows; of `metrics` alone, where given."""
    return [
        Row("published", one.benchmark, one.metric, one.model, one.value, source=one.source, note=one.note)
        for one in figures
        if metrics is None or one.metric in metrics
    ]


def renamed(rows: Iterable[Row], names: Mapping[str, str], published: bool = False) -> list[Row]:
    """Rows under other labels: those that were measured here, or the published ones alone."""
    return [
        dataclasses.replace(row, label=names.get(row.label, row.label), against=names.get(row.against, row.against))
        if (row.kind == "published") is published
        else row
        for row in rows
    ]


def of_seeds(runs: Runs, label: str, benchmark: str, metric: str) -> dict[str, Statistic]:
    """By seed; seeds that were not evaluated so, or whose number cannot be resampled, are left out."""
    found = {}
    for name, reports in runs[label].items():
        if benchmark in reports and metric in reports[benchmark].metrics:
            try:
                found[name] = reports[benchmark].statistic(metric)
            except DataError:
                continue
    return found


def scheme(found: Sequence[Statistic]) -> Literal["items", "crossed", "nested"]:
    if len(found) == 1:
        return "items"
    return "nested" if differing_questions(found) else "crossed"


def _paired(
    left: Mapping[str, Statistic], right: Mapping[str, Statistic], where: str
) -> tuple[list[Statistic], list[Statistic], str]:
    """As many of both sides, in the order in which they pair, and how they do, in words."""
    both = [seed for seed in left if seed in right]
    if not both and len(left) == len(right) == 1:
        return [*left.values()], [*right.values()], f"seed {next(iter(left))} with seed {next(iter(right))}"
    if not both and len(left) == 1:
        return [*left.values()] * len(right), [*right.values()], f"one run with each of the seeds {', '.join(right)}"
    if not both and len(right) == 1:
        return [*left.values()], [*right.values()] * len(left), f"each of the seeds {', '.join(left)} with one run"
    if not both:
        raise UserError(
            f"{where}: seeds {', '.join(left)} and {', '.join(right)} do not pair; expected some of the same name"
        )
    alone = [seed for seed in dict.fromkeys([*left, *right]) if seed not in both]
    said = f"seed{'s' * (len(both) > 1)} {', '.join(both)} paired by name"
    if alone:
        said += f" ({', '.join(alone)} without a partner, left out)"
    return [left[seed] for seed in both], [right[seed] for seed in both], said
