"""Tables of the page: where each metric began and ended, which ended unhealthy, how the runs went."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from studies.report.bands import Kind, band
from studies.report.panels import known, trained
from studies.report.runs.folders import Folder
from studies.report.runs.labels import Curve

TOLD = (
    r"reward|loss|mean_token_accuracy|kl|entropy|grad_norm|frac_reward_zero_std|step_time",
    r"completions/(?:mean_length|clipped_ratio)",
    r"rewards/.+/mean|reward_raw/(?!.*_count$).+",
    r"score/(?:mean|margin|shuffled_won|probe_drift|corr_.+|zero_spread_groups|failed)",
    r"throughput/.+|memory/peak_gib",
)
"""Metrics of the table, in the order of these patterns."""
PART = 10
"""Began and ended: means over the first and last tenth of the steps that were logged."""


def ends(curves: Sequence[Curve], kind: Kind) -> list[dict[str, Any]]:
    """Rows {"key", "cells": [text of each curve]}: `0.41 → 0.78`, of several seeds `0.41 → 0.78 [0.75, 0.80]`."""
    keys = dict.fromkeys(key for curve in curves for key in curve.keys)
    told = [key for pattern in TOLD for key in keys if re.fullmatch(pattern, trained(key))]
    return [{"key": key, "cells": [_ended(curve, key, kind) for curve in curves]} for key in told]


def _ended(curve: Curve, key: str, kind: Kind) -> str:
    measured = [values for _, values in curve.measured(key)]
    if not measured:
        return "–"
    first, last = (
        np.array([values[place].mean() for values, place in zip(measured, places, strict=True)])
        for places in zip(*(tenths(len(values)) for values in measured), strict=True)
    )
    text = f"{number(first.mean())} → {number(last.mean())}"
    if len(last) == 1:
        return text
    made = band([(np.array([0]), one[None]) for one in last], kind)
    return f"{text} [{number(made.low[0])}, {number(made.high[0])}]"


def outside(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """What left its healthy range, each advice once: {"key", "healthy", "advice", "ended": [{"label", "value", "of"}]}
    with where each label ended (mean over the last tenth and the seeds). Metrics of one advice and range share it."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for curve in curves:
        for key in curve.keys:
            metric = known(key, curve.stage)
            if metric is None or metric.healthy is None:
                continue
            value = float(np.mean([values[tenths(len(values))[1]].mean() for _, values in curve.measured(key)]))
            if not metric.healthy.holds(value):
                told = {"key": key, "healthy": str(metric.healthy), "advice": metric.advice, "ended": []}
                row = rows.setdefault((metric.advice, str(metric.healthy)), told)
                own = "" if row["key"] == key else f", {key}"
                row["ended"].append({"label": curve.label, "value": number(value), "of": own})
    return list(rows.values())


def tenths(count: int) -> tuple[slice, slice]:
    """The first and the last tenth of this many values, at least one each."""
    size = max(1, count // PART)
    return slice(0, size), slice(count - size, count)


def number(value: float) -> str:
    """Three significant digits, as tables show them."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    digits = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:,.{min(digits, 4)}f}".replace("-", "−")


def states(runs: Sequence[Folder]) -> str:
    """`30 runs: 29 finished, 1 interrupted`."""
    counted = Counter(run.state for run in runs)
    return f"{len(runs)} runs: " + ", ".join(f"{count} {state}" for state, count in counted.most_common())


def overview(curve: Curve, run: Folder) -> dict[str, str]:
    """A row of the table of runs."""
    hardware, git = run.environment.get("hardware") or {}, run.environment.get("git") or {}
    gpus = hardware.get("gpus") or []
    took = run.summary.get("train_runtime")
    commit = str(git.get("revision") or "")[:10] + (" + changes" if git.get("changed") else "")
    processes = (run.record.get("processes") or {}).get("world_size")
    return {
        "label": curve.label,
        "run": run.name,
        "stage": run.stage,
        "state": run.state,
        "seed": run.seed,
        "steps": f"{run.last_step:,}" if run.series else "–",
        "time": str(timedelta(seconds=round(took))) if isinstance(took, int | float) else "–",
        "model": shortened(str((run.recipe.get("model") or {}).get("path", "–"))),
        "hardware": (f"{len(gpus)} × {gpus[0]}" if gpus else hardware.get("cpu") or "–")
        + (f", {processes} processes" if processes and processes > 1 else ""),
        "commit": commit or "–",
        "started": str(run.environment.get("started", "–"))[:16].replace("T", " "),
    }


def shortened(path: str) -> str:
    """The last three parts of a path."""
    parts = Path(path).parts
    return path if len(parts) <= 3 else "…/" + "/".join(parts[-3:])
