"""Rows put in order for reading: per benchmark a table of labels by metrics, published figures below, and the notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from studies.tables.rows import Row
from vlm.common.bootstrap import few_questions, seeds_alone


@dataclass(frozen=True)
class Line:
    """One line: the label, then a number or None for each metric."""

    label: str
    cells: tuple[Row | None, ...]

    @property
    def published(self) -> bool:
        return any(cell is not None and cell.kind == "published" for cell in self.cells)

    @property
    def seeds(self) -> str:
        """How many, "2–3" where that depends on the metric; nothing for a published line."""
        counts = sorted({cell.n_seeds for cell in self.cells if cell is not None and cell.n_seeds})
        return "–".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]])) if counts else ""


@dataclass(frozen=True)
class Grid:
    """One table. Numbers are shares; they are shown in percent."""

    title: str
    metrics: tuple[str, ...]
    questions: tuple[str, ...]
    "How many questions each metric is over; empty where only published figures are there."
    lines: tuple[Line, ...]
    differences: bool = False
    notes: tuple[str, ...] = field(default=())


def grids(rows: Sequence[Row]) -> list[Grid]:
    """For each benchmark the means, with published figures below, then the differences."""
    out = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        here = [row for row in rows if row.benchmark == benchmark]
        parts = {"means": [row for row in here if row.kind != "difference"]}
        parts["differences"] = [row for row in here if row.kind == "difference"]
        for name, found in parts.items():
            if found:
                out.append(_grid(benchmark, found, name == "differences"))
    return out


def _grid(benchmark: str, rows: list[Row], differences: bool) -> Grid:
    metrics = tuple(dict.fromkeys(row.metric for row in rows))
    at = {(row.kind, row.label, row.against, row.metric): row for row in rows}
    lines = []
    for kind, label, against in dict.fromkeys((row.kind, row.label, row.against) for row in rows):
        cells = tuple(at.get((kind, label, against, metric)) for metric in metrics)
        lines.append(Line(f"{label} − {against}" if against else label, cells))
    lines.sort(key=lambda line: line.published)
    counts = [sorted({row.n_items for row in rows if row.metric == metric and row.n_items}) for metric in metrics]
    questions = tuple("–".join(str(n) for n in dict.fromkeys([*c[:1], *c[-1:]])) for c in counts)
    plain = all(row.kind == "published" for row in rows)
    title = " ".join(part for part in (benchmark, "(published only)" if plain else "") if part)
    if differences:
        title = f"{title}: differences" if title else "Differences"
    return Grid(title, metrics, questions, tuple(lines), differences, tuple(notes(rows)))


SCHEMES = {
    "items": "{percent}% intervals of what has one seed: percentile bootstrap over questions only (Efron 1979); what "
    "another seed would give is not in them",
    "crossed": "{percent}% intervals of several seeds: percentile bootstrap over seeds and questions, drawn apart, a "
    "question for all seeds at once (Owen 2007, arXiv 0712.1111; runs as in Agarwal et al. 2021, arXiv 2108.13264)",
    "nested": "{percent}% intervals of seeds with questions of their own: percentile bootstrap over seeds, then over "
    "each one's questions (Davison & Hinkley 1997, section 3.8)",
}


def notes(rows: Sequence[Row]) -> list[str]:
    """What one must know to read the numbers."""
    if any(row.kind == "difference" for row in rows):
        return _paired(rows)
    out = []
    for scheme, text in SCHEMES.items():
        levels = dict.fromkeys(row.level for row in rows if row.scheme == scheme and row.level)
        out += [text.format(percent=f"{100 * level:g}") for level in levels]
    out += _few(rows)
    for label, note in dict.fromkeys((row.label, row.note) for row in rows if row.kind == "measured" and row.note):
        out.append(f"{label}: {note}")
    for source, note in dict.fromkeys((row.source, row.note) for row in rows if row.kind == "published"):
        out.append(f"† published, not measured here: {source}" + (f" ({note})" if note else ""))
    return out


def _few(rows: Sequence[Row]) -> list[str]:
    """What an interval of few questions or few seeds is worth."""
    found = {(row.n_seeds, row.level) for row in rows if row.n_seeds and row.level and 1 < row.n_seeds < 10}
    told = few_questions(row.n_items for row in rows if row.n_items and row.level)
    told += [
        f"{seeds} seeds are few: where they differ by more than their questions explain, such an interval holds the "
        f"truth in {100 * seeds_alone(seeds, level):.0f}% of cases, not {100 * level:g}%"
        for seeds, level in sorted(found)
    ]
    return told


def _paired(rows: Sequence[Row]) -> list[str]:
    """Notes of differences, whose intervals are made as those of the means: what pairs, one note for all that agree."""
    told: dict[str, list[str]] = {}
    for row in rows:
        who = told.setdefault(row.note, [])
        who.append(f"{row.label} − {row.against}")
    every = len(told) == 1
    out = ["paired: a resample draws the same questions, and pairs of seeds, for both sides; else as the means"]
    out += [note if every else f"{', '.join(dict.fromkeys(who))}: {note}" for note, who in told.items()]
    return [*out, *_few(rows), "bold: the interval is on one side of 0; several comparisons are not corrected for"]
