"""scores.png: how scores are spread and what was kept. examples.png: the best and the worst rows, to be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from rewards.curate.report import Example, Line, Report, rule
from vlm.pictures.drawing import CARD, GAP, INK, PALE, PAPER, RIGHT, WRONG, Font, Fonts, Picture, card, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, BLUE = "#c3c8cd", "#2563a8"
SCORERS = {"score": "the score model", "clip": "CLIP", "random": "chance"}
BINS = 60
CELL, COLUMNS, TEXT_LINES = 260, 4, 7  # pixels, cells in a row, lines of text under an image
MOST_SOURCES = 12


def histogram(report: Report, values: Sequence[np.ndarray], masks: Sequence[np.ndarray], png: Path) -> None:
    """Scores of all rows and of the kept ones; with several sources, beside it the kept share of each."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    several = len(report.lines) > 1
    shown = report.lines[:MOST_SOURCES]
    size = (11.5, max(4.0, 1.6 + 0.36 * len(shown))) if several else (6.8, 4.0)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    panels = figure.subplots(1, 2 if several else 1, squeeze=False, width_ratios=[1.25, 1] if several else None)[0]
    _spread(panels[0], report, values, masks)
    if several:
        _shares(panels[1], report, shown)
    for axis in panels:
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8.5, color="#999999", labelcolor="#333333")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#999999")
    share = f"{report.total('kept'):,} of {report.total('scored'):,} rows"
    figure.suptitle(f"Kept: {rule(report.recipe)} ({share})", fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.savefig(png, dpi=120, facecolor="white")


def _spread(axis: Axes, report: Report, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
    """Counts per bin, summed source by source, so that no second copy of all scores is made."""
    finite = [v[np.isfinite(v)] for v in values]
    low = min(float(v.min()) for v in finite if len(v))
    high = max(float(v.max()) for v in finite if len(v))
    pad = 0.5 if low == high else 0.0
    edges = np.linspace(low - pad, high + pad, BINS + 1)
    everything = np.sum([np.histogram(v, edges)[0] for v in finite], axis=0)
    kept = np.sum([np.histogram(v[mask], edges)[0] for v, mask in zip(values, masks, strict=True)], axis=0)
    axis.stairs(everything, edges, fill=True, color=GREY, label="all rows")
    axis.stairs(kept, edges, fill=True, color=BLUE, label="kept")
    lowest = min(line.lowest_kept for line in report.lines if line.kept)
    if not report.recipe.keep.per_source:
        axis.axvline(lowest, ymax=0.84, color=INK, linewidth=1, linestyle="--", label=f"lowest kept: {lowest:.4g}")
    axis.set_xlabel(f"score by {SCORERS[report.recipe.by]}", fontsize=9)
    axis.set_ylabel("rows", fontsize=9)
    axis.margins(x=0.01)
    axis.set_ylim(0, max(1, everything.max()) * 1.22)  # room for the legend
    axis.legend(fontsize=8.5, frameon=False, loc="upper left", ncols=3, handlelength=1.2, columnspacing=1.2)


def _shares(axis: Axes, report: Report, shown: Sequence[Line]) -> None:
    names = [line.name if len(line.name) <= 28 else f"{line.name[:27]}…" for line in shown]
    shares = [100 * line.kept / line.scored if line.scored else 0.0 for line in shown]
    places = np.arange(len(shown))[::-1]
    axis.barh(places, shares, color=BLUE, height=0.62)
    axis.set_yticks(places, names)
    for place, line, share in zip(places, shown, shares, strict=True):
        axis.text(share + 1.5, place, f"{share:.0f}% of {line.scored:,}", va="center", fontsize=8.5, color=INK)
    axis.set_xlim(0, 135)
    axis.set_xticks([0, 25, 50, 75, 100])
    more = len(report.lines) - len(shown)
    axis.set_xlabel("kept share (percent)" + (f"; {more} more sources in table.md" if more else ""), fontsize=9)


def examples(report: Report, png: Path) -> Image.Image:
    """The best rows above the worst, each with its image, score and text."""
    fonts = Fonts(CELL)
    groups = [("Best", report.best, RIGHT), ("Worst", report.worst, WRONG)]
    columns = min(COLUMNS, len(report.best))
    cells = [(title, [_cell(e, colour, fonts) for e in found], colour) for title, found, colour in groups]
    height = max(cell.height for _, drawn, _ in cells for cell in drawn)
    rows = math.ceil(len(report.best) / columns)
    head = 44
    page = Image.new("RGB", (columns * (CELL + GAP) + GAP, 2 * (head + rows * (height + GAP))), PAPER)
    pen, top = ImageDraw.Draw(page), 0
    for title, drawn, colour in cells:
        pen.text((GAP, top + 14), f"{title} by {SCORERS[report.recipe.by]}", font=fonts.title, fill=colour)
        top += head
        for number, cell in enumerate(drawn):
            row, column = divmod(number, columns)
            left, upper = GAP + column * (CELL + GAP), top + row * (height + GAP)
            pen.rectangle([left, upper, left + CELL - 1, upper + height - 1], fill=CARD)
            page.paste(cell, (left, upper))
        top += rows * (height + GAP)
    page.save(png)
    return page


def _cell(example: Example, colour: str, fonts: Fonts) -> Image.Image:
    """The image in a square, the score, the text of the exchange."""
    shown = example.exchange.images
    picture = Picture(shown[0] if shown else Image.new("RGB", (1, 1), CARD), "")
    return card(picture, CELL, colour, [(f"{example.score:.4g}", fonts.text, colour), *_text(example, fonts)])


def _text(example: Example, fonts: Fonts) -> list[tuple[str, Font, str]]:
    """Lines, each with font and colour; of a long exchange the end, which holds the answer."""
    lines: list[tuple[str, Font, str]] = []
    for turn in example.exchange.messages:
        ink = PALE if turn["role"] == "user" else INK
        lines += [(line, fonts.small, ink) for line in wrap(turn["content"], fonts.small, fonts.width, TEXT_LINES)]
    return lines if len(lines) <= TEXT_LINES else [("…", fonts.small, PALE), *lines[len(lines) - TEXT_LINES + 1 :]]
