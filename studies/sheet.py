"""A picture of small panels, as the tables' and the scaling curves' are: laid out, titled, written as PNG and SVG."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any


def sheet(count: int, columns: int, panel: tuple[float, float], least: float, margin: float) -> tuple[Any, list[Any]]:
    """(figure, `count` axes). In inches: panel, width and height of one; least, of the whole width; margin, below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines, (width, height) = -(-count // columns), panel
    figure = Figure(figsize=(max(least, width * columns), height * lines + margin), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.remove()
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)
    return figure, axes[:count]


def title(figure: Any, text: str) -> None:
    if text:
        figure.suptitle(text, fontsize=13, fontweight="bold", x=0.01, ha="left")


def save(figure: Any, path: str | Path) -> None:
    """As PNG and as SVG, whichever of them `path` names."""
    figure.savefig(Path(path).with_suffix(".png"), dpi=150, facecolor="white")
    Path(path).with_suffix(".svg").write_bytes(svg(figure))


def uri(figure: Any) -> str:
    """As an SVG that stands in a page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure)).decode()


def svg(figure: Any) -> bytes:
    """The same bytes each time; text is text."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context({"svg.hashsalt": "nadir", "svg.fonttype": "none"}):
        figure.savefig(written, format="svg", dpi=150, facecolor="white", metadata={"Date": None})
    return written.getvalue()
