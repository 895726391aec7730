"""The report as one picture: a small histogram for each quantity that was measured."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samples.doctor.report import Report
from vlm.common.figures import COLOURS, dress, headline, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

BINS = 40
ROLE_COLOURS = {"train": COLOURS[0], "eval": COLOURS[1]}


def draw(report: Report, png: str | Path, title: str) -> None:
    """Draw the report into `png`; panels without data are left out."""
    sides = [round(math.sqrt(w * h)) for (w, h), count in report.sizes.items() for _ in range(count)]
    panels = [
        ("Image side, √(width · height), pixels", np.array(sides), None),
        ("Visual tokens of an image", report.visual_tokens, None),
        ("Tokens of a row, images included", report.lengths, report.room),
        ("Words of an answer", report.answer_words, None),
        ("Box side, √(share of the image)", report.box_sides, None),
    ]
    panels = [panel for panel in panels if len(panel[1])]
    figure, axes = sheet(len(panels) + 1, 4.3, 2.9, 0.4)
    headline(figure, title)
    _tasks(axes[0], report)
    for axis, (name, values, limit) in zip(axes[1:], panels, strict=True):
        _histogram(axis, name, values, limit)
    figure.savefig(png, dpi=110, facecolor="white")


def _tasks(axis: Axes, report: Report) -> None:
    """Rows by task, training beside evaluation."""
    counts: dict[str, Counter[str]] = {"train": Counter(), "eval": Counter()}
    for mixture in report.mixtures:
        for line in (line for part in mixture.parts for line in part.lines):
            counts[mixture.role][line.task] += line.rows
    roles = {role: rows for role, rows in counts.items() if rows.total()}
    tasks = sorted(set().union(*roles.values()) if roles else ())
    places = np.arange(len(tasks))[::-1]
    height = 0.8 / max(len(roles), 1)
    for number, (role, rows) in enumerate(roles.items()):
        offsets = places + (0.4 - height / 2) - number * height
        bars = axis.barh(offsets, [rows[task] for task in tasks], height, color=ROLE_COLOURS[role], label=role)
        axis.bar_label(bars, [f"{rows[task]:,}" for task in tasks], fontsize=8, padding=3, color="#333333")
    dress(axis, "Rows by task")
    axis.set_yticks(places, tasks)
    axis.grid(visible=False)
    axis.margins(x=0.22)
    axis.xaxis.set_major_locator(_locator())
    if len(roles) > 1:
        axis.legend(fontsize=8, frameon=False, loc="best", handlelength=1.4)


def _histogram(axis: Axes, name: str, values: np.ndarray, limit: float | None) -> None:
    """Counts by value, whole numbers in whole bins; the median is marked, and the limit where some come near it."""
    low, high = float(values.min()), float(values.max())
    bins = min(BINS, max(8, 2 * math.isqrt(len(values))))
    if np.issubdtype(values.dtype, np.integer):
        step = max(1, math.ceil((high - low + 1) / bins))
        edges = np.arange(low - 0.5, high + step, step)
        if len(edges) < 8:  # a few different values: room to the left and right, or a bar would fill the panel
            axis.set_xlim(low - 4.5, high + 4.5)
    else:
        edges = np.linspace(low, high + (low == high), bins + 1)
    axis.hist(values, bins=edges.tolist(), color=COLOURS[0], alpha=0.85)
    middle = float(np.median(values))
    axis.axvline(middle, color="#333333", linewidth=1.0, linestyle=":", label=f"median {middle:,.4g}")
    if limit is not None and high > 0.5 * limit:
        axis.axvline(limit, color=COLOURS[3], linewidth=1.4, label=f"room {limit:,}")
    dress(axis, name)
    axis.margins(x=0.02, y=0.12)
    axis.xaxis.set_major_locator(_locator(np.issubdtype(values.dtype, np.integer)))
    axis.yaxis.set_major_locator(_locator())
    axis.legend(fontsize=8, frameon=False, loc="best", handlelength=1.4)


def _locator(whole: bool = True) -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, integer=True) if whole else MaxNLocator(6)
