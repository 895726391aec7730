"""metrics.jsonl as one picture: a small panel for each quantity that was measured."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stage.guards.disk import spared
from stage.runs import Run, read_metrics
from vlm.common.errors import DataError
from vlm.common.figures import COLOURS, dress, headline, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Panel:
    """Title, and a pattern for the keys drawn in it; the group that matched names the line in the legend."""

    title: str
    pattern: str
    noisy: bool = True  # whether a smoothed line helps


# In the order in which they are read, most wanted first. A picture holds the first nine that have data.
PANELS = (
    Panel("Reward (weighted sum)", r"(?P<train>reward)|(?P<held_out>eval_reward)"),
    Panel("Reward components, raw", r"(?!.*_count)(?:rewards|reward_raw)/(?P<name>[^/]+)(?:/mean)?"),
    Panel("Loss", r"(?P<train>loss)|(?P<held_out>eval_loss)"),
    Panel("Token accuracy", r"(?P<train>mean_token_accuracy)|(?P<held_out>eval_mean_token_accuracy)"),
    Panel("KL to the reference", r"kl"),
    Panel("Completion length (tokens)", r"completions/(?:(?P<mean>mean_length)|(?P<longest>max_length))"),
    Panel("Entropy (nats per token)", r"entropy"),
    Panel("Groups without spread (share)", r"frac_reward_zero_std"),
    Panel("Gradient norm", r"grad_norm"),
    Panel("Learning rate", r"learning_rate", noisy=False),
)
MAX_PANELS = 9
MAX_LINES = 6  # in one panel: more cannot be told apart


def draw(metrics: str | Path, png: str | Path, title: str | None = None) -> list[str]:
    """Draws the series in `metrics` (a metrics.jsonl) into `png`; returns the titles of the panels drawn.

    Each series appears as measured (light) and smoothed (strong; exponential, bias-corrected). DataError when
    no series is there.
    """
    rows = read_metrics(metrics)
    panels = [(panel, lines) for panel in PANELS if (lines := _lines(rows, panel))][:MAX_PANELS]
    if not panels:
        raise DataError(f"{metrics}: found no series to draw in {len(rows)} rows; expected e.g. loss or reward")
    figure, axes = sheet(len(panels), 4.3, 2.9, 0.4 if title else 0.0)
    headline(figure, title or "")
    for axis, (panel, lines) in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, lines)
    figure.supxlabel("optimiser step", fontsize=9, color="#555555")
    figure.savefig(png, dpi=110, facecolor="white")
    return [panel.title for panel, _ in panels]


def draw_run(run: Run, stage: str) -> None:
    """`curves.png` in a run's folder, by its main process. A run shorter than one logging interval has none."""
    if not run.main:
        return
    png = run.folder / "curves.png"
    try:
        with spared(png):
            draw(run.metrics, png, title=f"{stage} · {run.folder.name}")
    except DataError as nothing:
        logger.warning("no curves.png: %s (was the run shorter than training.logging_steps?)", nothing)


def smooth(values: np.ndarray, span: float) -> np.ndarray:
    """Exponential moving average over about `span` points, without the pull towards zero at the start.

    m_t = (1-a) m_{t-1} + a x_t with a = 2/(span+1), divided by 1 - (1-a)^t (Kingma & Ba 2015, section 3).
    """
    share = 2.0 / (max(span, 1.0) + 1.0)
    mean, out = 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        mean += share * (value - mean)
        out[index] = mean / (1.0 - (1.0 - share) ** (index + 1))
    return out


def _lines(rows: list[dict[str, Any]], panel: Panel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{label: (steps, values)} of the panel's series; values that are not finite are left out."""
    points: dict[str, list[tuple[float, float]]] = {}
    labels: dict[str, str] = {}
    for row in rows:
        for key, value in row.items():
            match = re.fullmatch(panel.pattern, key)
            if match and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(key, []).append((row["step"], value))
                labels[key] = _label(match)
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key in list(points)[:MAX_LINES]:
        steps, values = np.array(points[key], dtype=float).T
        lines[key if labels[key] in lines else labels[key]] = steps, values
    return lines


def _label(match: re.Match[str]) -> str:
    for group, text in match.groupdict().items():
        if text is not None:
            return text if group == "name" else group.replace("_", " ")
    return ""


def _draw_panel(axis: Axes, panel: Panel, lines: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for (label, (steps, values)), colour in zip(lines.items(), COLOURS, strict=False):
        if len(values) < 8 or not panel.noisy:  # fewer are an evaluation's, too few to smooth
            marker = "o" if len(values) < 8 else None
            axis.plot(steps, values, color=colour, linewidth=1.7, marker=marker, markersize=3.5, label=label)
            continue
        axis.plot(steps, values, color=colour, linewidth=0.9, alpha=0.28)
        axis.plot(steps, smooth(values, span=len(values) / 12), color=colour, linewidth=1.9, label=label)
    dress(axis, panel.title)
    axis.margins(x=0.02, y=0.12)
    if len(lines) > 1:
        axis.legend(fontsize=8, frameon=False, loc="best", handlelength=1.4)
