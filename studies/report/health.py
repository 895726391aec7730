"""What the registry of metrics (`stage.metrics`) says about what was logged: meaning, healthy range, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stage.metrics import Metric, find
from studies.report.numbers import number, tenths
from studies.report.runs.labels import Curve


def known(key: str, stage: str) -> Metric | None:
    """The entry of a key; of a stage that has none of its own, the first that there is."""
    return find(key, stage) or find(key)


def explained(keys: Iterable[str], stage: str) -> list[dict[str, Any]]:
    """For each key of a panel what is known of it: {"key", "meaning", "advice", "healthy", "low", "high"}."""
    found = []
    for key in keys:
        if (metric := known(key, stage)) is not None:
            one = {"key": key, "meaning": metric.meaning, "advice": metric.advice}
            if (healthy := metric.healthy) is not None:
                one |= {"healthy": str(healthy), "low": healthy.low, "high": healthy.high}
            found.append(one)
    return found


def outside(curves: Sequence[Curve]) -> list[dict[str, str]]:
    """Rows of a table: label, key, where it ended (mean over the last tenth and the seeds), its healthy range, what to
    do."""
    rows = []
    for curve in curves:
        for key in dict.fromkeys(key for run in curve.runs for key in run.series):
            metric = known(key, curve.stage)
            if metric is None or metric.healthy is None:
                continue
            ends = [values[place].mean() for values in _values(curve, key) for place in tenths(len(values))[1:]]
            value = float(np.mean(ends))
            if not metric.healthy.holds(value):
                row = {"label": curve.label, "key": key, "value": number(value), "healthy": str(metric.healthy)}
                rows.append(row | {"advice": metric.advice})
    return rows


def _values(curve: Curve, key: str) -> list[np.ndarray]:
    return [run.series[key][1] for run in curve.runs if key in run.series]
