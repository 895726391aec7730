"""The curve of best-of-N as table.md, curve.csv and curve.png."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rewards.select.recipe import BonRecipe
from vlm.common import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ORACLE = "oracle"
INK = "#5b6470"
STYLES = {  # the same line for a selector in every panel; two of them are told apart by more than colour
    "score": ("#2563a8", "-", "o"),
    "clip": ("#d9730d", "-", "s"),
    "majority": ("#2e8b57", "-", "^"),
    "random": (INK, ":", None),
    ORACLE: ("#a33b8f", "--", None),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One metric of what a selector takes out of n answers, mean over questions."""

    metric: str
    selector: str
    n: int
    value: float
    error: float
    "Standard error of the mean over questions; nan with one question."
    questions: int

    @classmethod
    def of(cls, metric: str, selector: str, n: int, values: Sequence[float]) -> Point:
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(metric, selector, n, float(np.mean(values)), spread / math.sqrt(len(values)), len(values))


def save(points: Sequence[Point], folder: Path, recipe: BonRecipe, more: Sequence[str] = ()) -> None:
    """Write the three files, and print the table. more: notes below it."""
    from rich.console import Console

    with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Point)])
        writer.writerows(astuple(point) for point in points)
    text = markdown(points, [*notes(recipe), *more])
    (folder / "table.md").write_text(text, encoding="utf-8")
    draw(points, folder / "curve.png", f"Best of N: {folder.name}")
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def notes(recipe: BonRecipe) -> list[str]:
    """What one must know to read the numbers."""
    lines = ["N below the largest: mean over subsets of the answers drawn, ties averaged"]
    lines.append("±: standard error of the mean over questions")
    drawn = recipe.generation.spoken() if recipe.completions is None else f"brought along, {recipe.completions}"
    lines.append(f"answers: {drawn}")
    if "random" in recipe.selectors:
        lines.append("random: exact, the mean over all answers")
    if "majority" in recipe.selectors:
        lines.append(f"majority: equal answers, or the medoid by IoU; up to {recipe.subsets} seeded subsets a question")
    lines.append(f"{ORACLE}: the best answer that was drawn (pass@N), a bound for every selector")
    whole = "the one <answer>" if recipe.inside == "answer" else "the whole completion"
    return [*lines, f"selectors see {whole}; what has none is taken only where all lack one"]


def _by_metric(points: Sequence[Point]) -> dict[str, dict[str, list[Point]]]:
    """metric → selector → its points by rising n."""
    out: dict[str, dict[str, list[Point]]] = {}
    for point in sorted(points, key=lambda point: point.n):
        out.setdefault(point.metric, {}).setdefault(point.selector, []).append(point)
    return out


def markdown(points: Sequence[Point], notes: Sequence[str] = ()) -> str:
    """One table per metric, in percent, N along the columns; the standard error behind the largest N."""
    parts = []
    for metric, lines in _by_metric(points).items():
        ns = [point.n for point in next(iter(lines.values()))]
        count = next(iter(lines.values()))[0].questions
        head = [f"{metric} (%), {count} questions", *(f"N = {n}" for n in ns)]
        table = [head, ["---", *["---:"] * len(ns)]]
        for selector, row in lines.items():
            cells = [f"{100 * point.value:.1f}" for point in row]
            if math.isfinite(row[-1].error):
                cells[-1] += f" ± {100 * row[-1].error:.1f}"
            table.append([selector, *cells])
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in table))
    parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def draw(points: Sequence[Point], png: Path, title: str) -> None:
    """A panel per metric: percent over N on a logarithmic axis, with the standard error as a band."""
    from matplotlib.patches import Patch

    metrics = _by_metric(points)
    figure, axes = figures.sheet(len(metrics), 4.4, 3.5, 0.9, least=6.0)
    for axis, (metric, lines) in zip(axes, metrics.items(), strict=True):
        _panel(axis, metric, lines)
    handles, labels = axes[0].get_legend_handles_labels()
    handles, labels = [*handles, Patch(color=INK, alpha=0.15)], [*labels, "± standard error"]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figures.headline(figure, title)
    figure.savefig(png, dpi=120, facecolor="white")


def _panel(axis: Axes, metric: str, lines: dict[str, list[Point]]) -> None:
    for selector, row in lines.items():
        colour, dash, marker = STYLES[selector]
        ns, values = [point.n for point in row], np.array([100 * point.value for point in row])
        axis.plot(
            ns, values, color=colour, linestyle=dash, marker=marker, markersize=4.5, linewidth=1.8, label=selector
        )
        error = np.array([100 * point.error for point in row])
        if selector != ORACLE and np.isfinite(error).all():
            axis.fill_between(ns, values - error, values + error, color=colour, alpha=0.10, linewidth=0)
    ns = [point.n for point in next(iter(lines.values()))]
    axis.set_xscale("log", base=2)
    axis.set_xticks(ns, [str(n) for n in ns])
    axis.minorticks_off()
    axis.set_xlabel("N, answers to choose from", fontsize=9)
    axis.set_ylabel("percent", fontsize=9)
    figures.dress(axis, metric)
