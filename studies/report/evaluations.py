"""What the evaluations among the runs found: the table of the page, and the same as a picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from stage.metrics.turns import COUNTED, scale
from studies.report.runs.folders import Folder
from studies.report.runs.labels import Curve
from studies.tables import figure
from studies.tables.rows import LEVEL, Report, Row
from vlm.common.bootstrap import few_questions, quantiles, replicates
from vlm.common.errors import DataError, UserError
from vlm.common.figures import uri

logger = logging.getLogger(__name__)

Load = Callable[[Path], Mapping[str, Report]]
"""As `evals.comparing.sidebyside.evaluations`: folder → benchmark ("" for an evaluation by recipe) → its report."""
COUNT = 1000
"""Resamples of each interval."""
PANELS = 12
"""Metrics of the picture; the table has all."""


def table(curves: Sequence[Curve]) -> dict[str, Any] | None:
    """What the evaluations among the runs found, in percent: a column for each label; None where there are none.

    One evaluation has its interval over questions, several seeds the least and greatest of them. Its controls
    (`controls:` of an evaluation) have columns behind it.
    """
    holding = [(curve.label, [_named(run) for run in curve.runs if run.evaluation]) for curve in curves]
    holding = [pair for label, found in holding if found for pair in ((label, found), *_controls(label, found))]
    if not holding:
        return None
    names = dict.fromkeys(name for _, found in holding for one in found for name in one)
    rows = []
    few = few_questions(
        int(one["n"]) for _, found in holding for each in found for one in each.values() if one.get("n")
    )
    for name in names:
        metrics = [[one[name] for one in found if name in one] for _, found in holding]
        conventions = dict.fromkeys(m["convention"] for group in metrics for m in group if m.get("convention"))
        counts = dict.fromkeys(_count(m) for group in metrics for m in group if "n" in m)
        cells = [_measured(group, name) for group in metrics]
        rows.append({"key": name, "n": " / ".join(counts), "cells": cells, "convention": " | ".join(conventions)})
    notes = list(few)
    if plain := [name for name in names if counted(name)]:
        notes.append(f"No percentages: {', '.join(plain)}")
    return {"labels": [label for label, _ in holding], "rows": rows, "notes": notes}


def _bare(name: str) -> str:
    """A metric's name without the benchmark that `_named` puts before it."""
    return name.rpartition(": ")[2]


def counted(name: str) -> bool:
    """Whether a metric, perhaps with a benchmark before it, is no share: plain in the table, and not in the picture,
    whose axes are in percent."""
    return _bare(name) in COUNTED


def _controls(label: str, found: Sequence[dict[str, dict[str, Any]]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The same for each control of a label's runs: (its label, metrics of each run)."""
    names = dict.fromkeys(name for run in found for metric in run.values() for name in metric.get("controls", {}))
    return [
        (
            f"{label}·{name}",
            [{m: one["controls"][name] for m, one in run.items() if name in one.get("controls", {})} for run in found],
        )
        for name in names
    ]


def _count(metric: dict[str, Any]) -> str:
    """Over how many questions: "6", or "6 of 8" where some were left out."""
    return f"{metric['n']} of {metric['of']}" if metric.get("of") else str(metric["n"])


def _named(run: Folder) -> dict[str, dict[str, Any]]:
    """Metrics with the benchmark before them, for a run may have been asked several."""
    benchmark = run.recipe.get("benchmark")
    return {f"{benchmark}: {name}" if benchmark else name: found for name, found in run.evaluation.items()}


def _measured(found: Sequence[dict[str, Any]], name: str) -> str:
    values = [one["value"] for one in found if one.get("value") is not None]
    if not values:
        missing = [word for word in ("not_computed", "not_asked") if any(word in one for one in found)]
        return missing[0].replace("_", " ") if missing else "–"
    times, digits = scale(_bare(name))

    def said(value: float) -> str:
        return f"{times * value:.{digits}f}"

    if len(values) > 1:
        return f"{said(fmean(values))} ({said(min(values))}–{said(max(values))})".replace("-", "−")
    low, high = found[0].get("low"), found[0].get("high")
    interval = f" [{said(low)}, {said(high)}]" if low is not None and high is not None else ""
    return f"{said(values[0])}{interval}".replace("-", "−")


def pictures(curves: Sequence[Curve], load: Load | None = None) -> list[str]:
    """Each label's mean with its interval and its seeds, as SVG data URIs: panels abreast, and one below the other for
    narrow screens; none for one label alone.

    The first PANELS metrics, without those of single question types. load: what a run's predictions say, for intervals
    over seeds and questions; without it only single runs have one.
    """
    rows = [row for curve in curves for row in _rows(curve, load)]
    shown = list(dict.fromkeys((row.benchmark, row.metric) for row in rows))[:PANELS]
    rows = [row for row in rows if (row.benchmark, row.metric) in shown]
    if len({row.label for row in rows}) < 2:
        return []
    return [uri(figure.drawn(rows, columns=columns)) for columns in (3, 1)]


def _rows(curve: Curve, load: Load | None) -> list[Row]:
    loaded = _loaded(curve, load) if load is not None else {}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in curve.runs:
        for metric, one in run.evaluation.items():
            if "[" not in metric and not counted(metric) and one.get("value") is not None:
                found.setdefault((run.recipe.get("benchmark") or "", metric), []).append(one)
    made = []
    for (benchmark, metric), several in found.items():
        own = tuple(one["value"] for one in several)
        low, high, level = (several[0].get(end) if len(own) == 1 else None for end in ("low", "high", "level"))
        if len(own) > 1 and benchmark in loaded:
            (low, high), level = _over_seeds(loaded[benchmark], metric, len(own)), LEVEL
        mean = fmean(own)
        made.append(
            Row("measured", benchmark, metric, curve.label, mean, low, high, level, n_seeds=len(own), per_seed=own)
        )
    return made


def _loaded(curve: Curve, load: Load) -> dict[str, list[Report]]:
    """Benchmark → the report of each seed; empty for a single run, or where one cannot be read."""
    runs = [run for run in curve.runs if run.evaluation]
    found: dict[str, list[Report]] = {}
    try:
        for run in runs if len(runs) > 1 else []:
            for benchmark, report in load(run.path).items():
                found.setdefault(benchmark, []).append(report)
    except UserError as fault:
        logger.warning("%s: no intervals over its seeds: %s", curve.label, fault)
        return {}
    return found


def _over_seeds(reports: Sequence[Report], metric: str, seeds: int) -> tuple[float | None, float | None]:
    """The interval over seeds and questions; none where the number is not one that can be resampled."""
    try:
        found = [report.statistic(metric) for report in reports]
    except DataError:
        return None, None
    return quantiles(replicates(found, count=COUNT), LEVEL) if len(found) == seeds else (None, None)
