"""How all our figures look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2563a8", "#d9730d", "#2e8b57", "#a33b8f", "#8a6d1d", "#5b6470")


def dress(axis: Axes, title: str) -> None:
    """The look that all our panels share."""
    axis.set_title(title, fontsize=10.5, loc="left", fontweight="bold")
    axis.grid(axis="y", color="#e3e3e3", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8.5, color="#999999", labelcolor="#333333")
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    axis.yaxis.get_offset_text().set_fontsize(8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")


def sheet(count: int, title: str | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, three abreast at most, with its title; and their axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, count) if count != 4 else 2
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(4.3 * columns, 2.9 * rows + (0.4 if title else 0)))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.09)
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    return figure, axes[:count]
