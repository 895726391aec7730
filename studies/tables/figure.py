"""The table as a picture: means with intervals and each seed's own value, published figures in hollow marks.

Arms that differ in one thing ({Zero, SFT, R1} with and without the score) stand side by side: a group along the axis,
a colour and a marker for the variant. Colours are Okabe & Ito's (2008), told apart by the colour-blind; markers differ
as well, so the picture can be printed in grey.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stage.metrics.turns import COUNTED, scale
from studies.tables.rows import Row
from vlm.common.figures import dress, headline, save, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALONE = ("#555555", "o")
"""An arm without variants beside others that have some."""
LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
INK = "#444444"
SEPARATOR = re.compile(r"\s*[,;/|]\s*|-(?=\D)|\+|\s+(?=with)")
"""Between a group and its variant: of `R1-without` and `R1 without ScoreRS`, but not of `lr 1e-5`."""
Arms = Mapping[str, tuple[str, str]]
"""Label → its group along the axis, and its variant within."""

Looks = Mapping[tuple[str, str], tuple[str, str]]
"""Group and variant → colour and marker."""


def arms(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Groups and variants as the labels tell them.

    A label that begins with another one is its variant ("r1_no_score" of "r1"); labels that begin alike up to a
    separator are variants of that ("R1-with" and "R1-without" of "R1"); all others are groups of their own.

    >>> arms(["Zero-with", "Zero-without", "SFT"])
    {'Zero-with': ('Zero', 'with'), 'Zero-without': ('Zero', 'without'), 'SFT': ('SFT', '')}
    """
    heads = {label: SEPARATOR.split(label, maxsplit=1)[0] for label in labels}
    found = {}
    for label in labels:
        begun = [one for one in labels if one != label and re.match(re.escape(one) + r"[\W_]", label)]
        alike = [one for one in labels if one != label and heads[one] == heads[label] != one]
        group = max(begun, key=len) if begun else heads[label] if alike and heads[label] != label else label
        found[label] = group, label[len(group) :].strip(" _-,;+/|")
    return found


def draw(
    rows: Sequence[Row], path: str | Path, of: Arms | None = None, title: str = "", plain: str = "as named"
) -> None:
    """Write the picture (`drawn`) as PNG and as SVG, whichever of them `path` names."""
    save(drawn(rows, of, title, plain), path)


def drawn(
    rows: Sequence[Row], of: Arms | None = None, title: str = "", plain: str = "as named", columns: int = 3
) -> Figure:
    """The picture as matplotlib's figure: a panel for each benchmark and metric, at most so many columns of them.

    of: groups and variants (default: `arms` of the labels). plain: how the legend calls arms without a variant.
    Raises: ValueError where there is nothing to draw.
    """
    shown = [row for row in rows if row.kind != "difference"]
    panels = list(dict.fromkeys((row.benchmark, row.metric) for row in shown))
    if not panels:
        raise ValueError("no means to draw")
    arm = of or arms(list(dict.fromkeys(row.label for row in shown)))
    looks = _looks(arm)
    figure, axes = sheet(len(panels), 3.9, 3.3, margin=0.75, columns=columns, least=4.6)
    for axis, (benchmark, metric) in zip(axes, panels, strict=True):
        here = [row for row in shown if (row.benchmark, row.metric) == (benchmark, metric)]
        told = " (published)" if all(row.kind == "published" for row in here) else ""
        dress(axis, (f"{benchmark}: {metric}" if benchmark else metric) + told)
        _panel(axis, here, arm, looks)
        axis.set_ylabel("" if metric in COUNTED else "percent", fontsize=9)
    _legend(figure, shown, looks, plain)
    headline(figure, title)
    return figure


def _looks(arm: Arms) -> Looks:
    """Each variant has a colour and a marker; a group without variants, beside others that have some, is grey."""
    sizes = Counter(group for group, _ in set(arm.values()))
    told = list(dict.fromkeys(variant for group, variant in arm.values() if variant or sizes[group] > 1))
    of = {variant: LOOKS[place % len(LOOKS)] for place, variant in enumerate(told)}
    lone = ALONE if told else LOOKS[0]
    return {one: of[one[1]] if one[1] or sizes[one[0]] > 1 else lone for one in arm.values()}


def _panel(axis: Axes, rows: list[Row], arm: Arms, looks: Looks) -> None:
    groups = list(dict.fromkeys(arm[row.label][0] for row in rows))
    within: dict[str, list[str]] = {}
    for group, variant in looks:  # in the same order in every panel
        if any(arm[row.label] == (group, variant) for row in rows):
            within.setdefault(group, []).append(variant)
    for row in rows:
        group, variant = arm[row.label]
        count = len(within[group])
        shift = (within[group].index(variant) - (count - 1) / 2) * min(0.34, 0.8 / count)
        _point(axis, groups.index(group) + shift, row, *looks[arm[row.label]])
    width = max(7, 40 // len(groups))  # characters that fit below one group
    axis.set_xticks(range(len(groups)), [textwrap.fill(group, width) for group in groups])
    axis.tick_params(axis="x", length=0, labelsize=9.5 if len(groups) < 5 else 7.5)
    axis.set_xlim(-0.6, len(groups) - 0.4)
    axis.margins(y=0.16)


def _point(axis: Axes, place: float, row: Row, colour: str, marker: str) -> None:
    told, (times, digits) = row.kind == "published", scale(row.metric)
    if row.low is not None and row.high is not None:
        ends = [times * row.low, times * row.high]
        axis.plot([place, place], ends, color=colour, linewidth=2, solid_capstyle="butt")
    if len(row.per_seed) > 1:
        own = [times * value for value in row.per_seed]
        equal = [sum(abs(one - other) < 0.05 for other in own[:at]) for at, one in enumerate(own)]
        axis.plot(
            [place - 0.1 - 0.05 * count for count in equal],
            own,
            linestyle="",
            marker=marker,
            markersize=3,
            color=colour,
            alpha=0.45,
        )
    fill = "white" if told else colour
    axis.plot(place, times * row.value, marker, markersize=7.5, color=colour, markerfacecolor=fill, markeredgewidth=1.4)
    said = f"{times * row.value:.{2 if told else digits}f}"
    top, gap = (max((row.value, *row.per_seed)), 7) if row.high is None else (row.high, 3)
    axis.annotate(said, (place, times * top), (0, gap), textcoords="offset points", fontsize=8, ha="center", color=INK)


def _legend(figure: Figure, rows: list[Row], looks: Looks, plain: str) -> None:
    from matplotlib.lines import Line2D

    told = dict.fromkeys((variant, look) for (_, variant), look in looks.items() if look != ALONE)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=7, linewidth=2, label=variant or plain)
        for variant, (colour, marker) in told
        if any(variant for variant, _ in told)
    ]
    if levels := {row.level for row in rows if row.level}:
        text = f"{100 * max(levels):g}% interval"
        handles.append(Line2D([], [], color=INK, linewidth=2, label=text))
    if any(len(row.per_seed) > 1 for row in rows):
        handles.append(Line2D([], [], color=INK, marker="o", markersize=3, linewidth=0, alpha=0.45, label="each seed"))
    if any(row.kind == "published" for row in rows):
        handles.append(
            Line2D([], [], color=INK, marker="o", markerfacecolor="white", linewidth=0, label="published, no interval")
        )
    columns = min(len(handles), max(2, int(figure.get_size_inches()[0] / 1.9)))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
