"""How all our figures look."""

from __future__ import annotations

COLOURS = ("#2563a8", "#d9730d", "#2e8b57", "#a33b8f", "#8a6d1d", "#5b6470")


def dress(axis, title: str) -> None:
    """The look that all our panels share."""
    axis.set_title(title, fontsize=10.5, loc="left", fontweight="bold")
    axis.grid(axis="y", color="#e3e3e3", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=8.5, color="#999999", labelcolor="#333333")
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    axis.yaxis.get_offset_text().set_fontsize(8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")
