"""Models side by side on each benchmark as one picture: ours with intervals, published figures without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm.common.figures import COLOURS, dress, headline, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

OURS, PUBLISHED = COLOURS[0], COLOURS[4]


@dataclass(frozen=True)
class Mark:
    """One model on one benchmark, as shares; low and high are None for what has no interval."""

    model: str
    value: float
    low: float | None = None
    high: float | None = None
    published: bool = False


@dataclass(frozen=True)
class Panel:
    """One benchmark and metric."""

    title: str
    subtitle: str
    marks: Sequence[Mark]
    note: str = ""
    "Below the axis."


def draw(panels: Sequence[Panel], png: str | Path, title: str = "") -> None:
    """Write the picture, at most two panels abreast. ValueError where there is nothing to draw."""
    panels = [panel for panel in panels if panel.marks]
    if not panels:
        raise ValueError("no panels to draw")
    columns = min(2, len(panels))
    tallest = [max(len(p.marks) for p in panels[at : at + columns]) for at in range(0, len(panels), columns)]
    figure, axes = sheet(len(panels), 5.6, [0.95 + 0.27 * count for count in tallest], margin=0.75, columns=columns)
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, panel)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    headline(figure, title)
    figure.savefig(png, dpi=120, facecolor="white")


def _panel(axis: Axes, panel: Panel) -> None:
    for place, mark in enumerate(panel.marks):
        value, colour = 100 * mark.value, PUBLISHED if mark.published else OURS
        if mark.low is not None and mark.high is not None:
            axis.plot([100 * mark.low, 100 * mark.high], [place, place], color=colour, linewidth=2.2, alpha=0.55)
        axis.plot(
            value, place, "o", color=colour, markersize=6.5, markerfacecolor="white" if mark.published else colour
        )
        said = f"{value:.2f}" if mark.published else f"{value:.1f}"  # as papers print it
        axis.annotate(said, (value, place), (0, 6), textcoords="offset points", fontsize=7.5, ha="center")
    axis.set_yticks(range(len(panel.marks)), [mark.model for mark in panel.marks], fontsize=8.5)
    axis.set_ylim(len(panel.marks) - 0.4, -0.75)  # the first on top
    dress(axis, panel.title, numbers="x", pad=16)
    axis.annotate(panel.subtitle, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8.5, color="#555555")
    axis.set_xlabel(panel.note, fontsize=7.5, color="#555555", loc="left")
    axis.margins(x=0.1)


def _legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], marker="o", color=OURS, linewidth=2.2, markersize=6.5, label="measured, 95% interval"),
        Line2D([], [], marker="o", color=PUBLISHED, linewidth=0, markerfacecolor="white", label="published"),
    ]
