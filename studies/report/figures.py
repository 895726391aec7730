"""From runs to what the page draws: thinned lines with bands, panel by panel, and the plane of score against gold.

    {"title": "Reward", "note": "…", "unit": "", "keys": ["reward"], "known": [{"key": "reward", …}], "lines": [
        {"label": 0, "name": "", "runs": 3, "raw": {"x": […], "y": […], "lo": […], "hi": […]}, "smooth": {…} | null}]}

`label` is the number of the curve. `lo` and `hi` are there where a label has several runs. `known`: `panels.explained`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stage.curves import smooth
from studies.report.bands import Kind, band
from studies.report.panels import Panel, explained, placed
from studies.report.runs.folders import Folder, Series
from studies.report.runs.labels import Curve
from studies.report.thinning import kept, rounded

NUMBERS = 850_000
"""Of all lines together; as JSON they take about 6 MB."""
COLUMNS = (40, 500)
"""Fewest and most columns of pixels that a line is thinned to."""
SMOOTH_COLUMNS = 60
"""Enough for a smoothed line, whose bends are a SPANS-th of its run wide."""
SPANS = 12
"""A smoothed line averages over about the 12th part of a run, as in curves.png."""
FEWEST = 8
"""Points below which nothing is smoothed: an evaluation's, most likely."""
PARTS = 12
"""Points of a run's way through a plane."""
IDEAL = "_ideal"
"""Behind a metric of cost, for the least possible; it is drawn dashed beside what was spent."""
TOGETHER = 7
"""Lines of one label in a panel; more cannot be told apart, and each then has its own."""


@dataclass(frozen=True)
class Look:
    """How lines are made. columns: of pixels that they are thinned to."""

    band: Kind = "range"
    columns: int = COLUMNS[1]


def look(curves: Sequence[Curve], kind: Kind) -> Look:
    """As many columns as NUMBERS allows. A column of a line has up to four points of two numbers, or with a band up to
    six of four."""
    cost = sum((24 if len(curve.trained) > 1 else 8) * len(curve.keys) for curve in curves)
    room = NUMBERS / max(cost, 1) - SMOOTH_COLUMNS
    return Look(kind, int(np.clip(room, *COLUMNS)))


def sections(curves: Sequence[Curve], how: Look) -> list[dict[str, Any]]:
    """All chapters of curves."""
    keys = [key for curve in curves for key in curve.keys]
    several = len(curves) > 1 or any(len(curve.trained) > 1 for curve in curves)
    stages = list(dict.fromkeys(curve.stage for curve in curves if curve.trained))
    made: list[dict[str, Any]] = []
    for section, panels in placed(keys):
        drawn: list[dict[str, Any]] = []
        for panel, names in panels:
            alone = len(names) > 1 and (several or len(names) > TOGETHER)
            for group in _alone(names) if alone else [names]:
                lines = {stage: _lines(curves, stage, group, how, alone, panel.noisy) for stage in stages}
                lines = {stage: found for stage, found in lines.items() if found}
                for stage, found in lines.items():
                    title = _title(panel, group, alone) + (f" ({stage})" if len(lines) > 1 else "")
                    told: dict[str, Any] = {"title": title, "note": panel.note, "unit": panel.unit, "keys": list(group)}
                    drawn.append({**told, "known": explained(group, stage), "lines": found})
        moving = [panel for panel in drawn if _constant(panel) is None]
        still = [{"title": p["title"], "keys": p["keys"], "value": _constant(p)} for p in drawn if p not in moving]
        made.append({"name": section.name, "title": section.title, "note": section.note})
        made[-1] |= {"panels": moving, "constant": still}
    return made


def _alone(names: dict[str, str]) -> Iterator[dict[str, str]]:
    """Panels of one metric each, with the least that it could be beside it."""
    for key in names:
        if key.removesuffix(IDEAL) == key or key.removesuffix(IDEAL) not in names:
            yield {one: names[one] for one in (key, key + IDEAL) if one in names}


def _title(panel: Panel, keys: dict[str, str], alone: bool) -> str:
    return f"{panel.title}: {next(iter(keys.values())) or next(iter(keys))}" if alone else panel.title


def _constant(panel: dict[str, Any]) -> float | None:
    """The one value that all lines of a panel have throughout; such a panel is told in words."""
    values = {value for line in panel["lines"] for part in ("y", "lo", "hi") for value in line["raw"].get(part, [])}
    return values.pop() if len(values) == 1 else None


def _lines(
    curves: Sequence[Curve], stage: str, keys: dict[str, str], how: Look, alone: bool, noisy: bool
) -> list[dict[str, Any]]:
    found = []
    for key, name in keys.items():
        for number, curve in enumerate(curves):
            measured = curve.measured(key)
            if measured and curve.stage == stage:
                bound = key.endswith(IDEAL) and len(keys) > 1
                name = "ideal" if bound else name
                line: dict[str, Any] = {"label": number, "name": "" if alone and not bound else name}
                line |= {"runs": len(measured), "ideal": bound}
                line |= {"raw": _points(measured, how), "smooth": _smoothed(measured, how) if noisy else None}
                found.append(line)
    return found


def _smoothed(measured: Sequence[Series], how: Look) -> dict[str, Any] | None:
    """Each run is smoothed by itself; the band is of the smoothed runs."""
    if min(len(steps) for steps, _ in measured) < FEWEST:
        return None
    smoothed = [(steps, smooth(values, len(values) / SPANS)) for steps, values in measured]
    return _points(smoothed, replace(how, columns=min(how.columns, SMOOTH_COLUMNS)))


def _points(measured: Sequence[Series], how: Look) -> dict[str, Any]:
    if len(measured) == 1:
        steps, values = measured[0]
        places = kept(steps, how.columns, values)
        return {"x": steps[places].tolist(), "y": rounded(values[places])}
    made = band(measured, how.band)
    places = kept(made.steps, how.columns, made.low, made.high)
    return {
        "x": made.steps[places].tolist(),
        "y": rounded(made.mean[places]),
        "lo": rounded(made.low[places]),
        "hi": rounded(made.high[places]),
    }


def planes(curves: Sequence[Curve], x: str, y: str) -> dict[str, Any] | None:
    """Two metrics against each other, a path a run: means over PARTS equal parts of the steps at which both were
    logged. None where no run has both. `r` is Pearson's correlation over those steps as they were logged."""
    paths = [
        {"label": number, "run": run.name, **path}
        for number, curve in enumerate(curves)
        for run in curve.runs
        if (path := _path(run, x, y))
    ]
    return {"x": x, "y": y, "paths": paths} if paths else None


def _path(run: Folder, x: str, y: str) -> dict[str, Any] | None:
    if x not in run.series or y not in run.series:
        return None
    (at, across), (others, up) = run.series[x], run.series[y]
    steps, left, right = np.intersect1d(at, others, return_indices=True)
    if len(steps) < 2:
        return None
    across, up = across[left], up[right]
    varies = across.std() > 0 and up.std() > 0
    correlation = float(np.corrcoef(across, up)[0, 1]) if varies else None
    parts = np.array_split(np.arange(len(steps)), min(PARTS, len(steps)))
    means = [[values[part].mean() for part in parts] for values in (across, up)]
    found = {"step": [int(steps[part[-1]]) for part in parts], "x": rounded(means[0]), "y": rounded(means[1])}
    return found | {"r": None if correlation is None else round(correlation, 3), "n": len(steps)}
