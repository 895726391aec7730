"""How all our figures look: small panels, laid out, titled, written as files or into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2563a8", "#d9730d", "#2e8b57", "#a33b8f", "#8a6d1d", "#5b6470")


def sheet(
    count: int, width: float, heights: float | Sequence[float], margin: float, columns: int = 3, least: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """(figure, `count` panels), in `columns` at most; four stand two by two.

    In inches: width and heights of the panels (one height for all lines, or one for each), margin below, and the
    least width of the whole.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(columns, count) if count != 4 else min(2, columns)
    lines = -(-count // columns)
    heights = heights if isinstance(heights, Sequence) else [heights] * lines
    size = (max(least, width * columns), sum(heights) + margin)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))
    axes = list(figure.subplots(lines, columns, squeeze=False, height_ratios=heights).flat)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def dress(axis: Axes, title: str, numbers: Literal["x", "y"] = "y", pad: float | None = None) -> None:
    """The look that all our panels share. numbers: the axis that has a grid. pad: points between title and panel."""
    axis.set_title(title, fontsize=10.5, loc="left", fontweight="bold", pad=pad)
    axis.grid(axis=numbers, color="#e3e3e3", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8.5, color="#999999", labelcolor="#333333")
    axis.ticklabel_format(axis=numbers, style="sci", scilimits=(-3, 4), useMathText=True)
    (axis.yaxis if numbers == "y" else axis.xaxis).get_offset_text().set_fontsize(8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")


def headline(figure: Figure, text: str) -> None:
    """The title of the whole, if there is one."""
    if text:
        figure.suptitle(text, fontsize=13, fontweight="bold", x=0.01, ha="left")


def save(figure: Figure, path: str | Path) -> None:
    """As PNG and as SVG, whichever of them `path` names."""
    figure.savefig(Path(path).with_suffix(".png"), dpi=150, facecolor="white")
    Path(path).with_suffix(".svg").write_bytes(svg(figure))


def uri(figure: Figure) -> str:
    """As an SVG that stands in a page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure)).decode()


def svg(figure: Figure) -> bytes:
    """The same bytes each time; text is text."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context({"svg.hashsalt": "nadir", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", dpi=150, facecolor="white", metadata={"Date": None})
    return written.getvalue()
