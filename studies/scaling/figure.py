"""Learned reward and gold over sqrt(KL), measured and fitted: a panel for each curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm.common.figures import dress, headline, save, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {"learned": ("#D55E00", "s"), "gold": ("#0072B2", "o")}  # Okabe & Ito's; markers differ as well
TITLES = {"best-of-n": "best of n", "grpo": "GRPO"}
INK = "#444444"


def draw(records: Sequence[dict[str, Any]], path: str | Path, title: str = "") -> None:
    """Write `drawn` as PNG and as SVG, whichever of them `path` names."""
    save(drawn(records, title), path)


def drawn(records: Sequence[dict[str, Any]], title: str = "") -> Figure:
    """The matplotlib figure. records: of `studies.scaling.summary`.

    Gains are in standard deviations of the start's answers, so that both rewards share an axis; where one was not
    logged, in the reward's own unit. Raises: ValueError where there is nothing to draw.
    """
    from matplotlib.lines import Line2D

    if not records:
        raise ValueError("no curves to draw")
    figure, axes = sheet(len(records), 4.4, 3.5, margin=0.7, least=5.0)
    for axis, record in zip(axes, records, strict=True):
        _panel(axis, record)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=0, label=which)
        for which, (colour, marker) in LOOKS.items()
    ]
    handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.6, label="fitted form"))
    if any(record["gold"]["fit"] and record["gold"]["fit"]["peak_measured"] for record in records):
        handles.append(Line2D([], [], color=LOOKS["gold"][0], linestyle=":", linewidth=1.4, label="gold is highest"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    headline(figure, title)
    return figure


def _panel(axis: Axes, record: dict[str, Any]) -> None:
    shared = all(record[which]["std"] for which in LOOKS)
    for which, (colour, marker) in LOOKS.items():
        part = record[which]
        unit = part["std"] if shared else 1.0
        for series in part["series"]:
            _points(axis, series, unit, colour, marker)
        if fit := part["fit"]:
            line = np.array(fit["line"]["reward"]) - fit["offset"]
            axis.plot(fit["line"]["d"], line / unit, "--", color=colour, linewidth=1.6)
            if which == "gold" and fit["peak_measured"]:
                axis.axvline(fit["peak"]["value"], color=colour, linestyle=":", linewidth=1.4)
    label, method = record["label"], TITLES[record["method"]]
    dress(axis, label if label.casefold() == method.casefold() else f"{label} ({method})")
    axis.set_xlabel(
        "√KL from the start, nats" + (", upper bound" if record["method"] == "best-of-n" else ""), fontsize=9
    )
    axis.set_ylabel("gained, in standard deviations" if shared else "gained, own units", fontsize=9)
    axis.axhline(0, color="#999999", linewidth=0.8)
    axis.set_xlim(left=0)


def _points(axis: Axes, series: dict[str, Any], unit: float, colour: str, marker: str) -> None:
    d, gain = np.array(series["d"]), np.array(series["gain"]) / unit
    if "low" in series:
        low, high = (np.array(series[name]) / unit for name in ("low", "high"))
        axis.vlines(d, low, high, color=colour, linewidth=1.5)
        axis.plot(d, gain, marker, color=colour, markersize=5)
        return
    axis.plot(d, gain, marker, color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
