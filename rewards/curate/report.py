"""What a curation did: table.md, and what the pictures are made of."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewards.curate.recipe import CurateRecipe
from rewards.score.model.exchange import Exchange
from samples import Faults
from samples.sections import SourceSection


@dataclass(frozen=True)
class Line:
    """One source, counted. rows == scored + skipped; rows of other tasks and blank lines are not in them."""

    name: str
    path: Path
    section: SourceSection
    rows: int
    skipped: int
    scored: int
    kept: int
    mean: float
    "Of the scored rows' scores; nan where there are none."
    kept_mean: float
    lowest_kept: float
    faults: str
    "What was skipped and why; empty where nothing was."

    @classmethod
    def of(cls, section: SourceSection, path: Path, faults: Faults, values: np.ndarray, mask: np.ndarray) -> Line:
        scored, kept = values[np.isfinite(values)], values[mask]
        return cls(
            name=Path(section.path).name,
            path=path,
            section=section,
            rows=faults.rows,
            skipped=faults.skipped,
            scored=len(scored),
            kept=len(kept),
            mean=float(scored.mean()) if len(scored) else math.nan,
            kept_mean=float(kept.mean()) if len(kept) else math.nan,
            lowest_kept=float(kept.min()) if len(kept) else math.nan,
            faults=str(faults) if faults.skipped else "",
        )


@dataclass(frozen=True)
class Example:
    """A row to be looked at."""

    score: float
    where: str
    exchange: Exchange


@dataclass(frozen=True)
class Report:
    lines: list[Line]
    recipe: CurateRecipe
    best: list[Example]
    worst: list[Example]

    def total(self, name: str) -> int:
        """Sum over the sources of `rows`, `skipped`, `scored` or `kept`."""
        return sum(getattr(line, name) for line in self.lines)


def rule(recipe: CurateRecipe) -> str:
    """What is kept, in words."""
    keep = recipe.keep
    each = " of each source" if keep.per_source else ""
    if keep.threshold is not None:
        return f"rows that score at least {keep.threshold:g}"
    if keep.count is not None:
        return f"the best {keep.count} rows{each}"
    assert keep.share is not None  # the recipe's check says so
    return f"the best {100 * keep.share:g}%{each}"


def markdown(report: Report) -> str:
    """The table per source, the faults, and the lines with which a training recipe reads what was kept."""
    head = ["source", "rows", "skipped", "scored", "kept", "kept share", "mean score", "mean kept", "lowest kept"]
    table = [head, ["---", *["---:"] * (len(head) - 1)]]
    table += [
        [
            line.name,
            *(str(n) for n in (line.rows, line.skipped, line.scored, line.kept)),
            _share(line.kept, line.scored),
            *map(_number, (line.mean, line.kept_mean, line.lowest_kept)),
        ]
        for line in report.lines
    ]
    if len(report.lines) > 1:
        sums = [report.total(name) for name in ("rows", "skipped", "scored", "kept")]
        table.append(["all", *map(str, sums), _share(sums[3], sums[2]), "", "", ""])
    parts = [
        f"Kept by `{report.recipe.by}`: {rule(report.recipe)}.",
        "\n".join("| " + " | ".join(row) + " |" for row in table),
    ]
    parts += [f"{line.name}: {line.faults}" for line in report.lines if line.faults]
    parts.append("The kept rows, as a training recipe reads them:")
    parts.append("\n".join(["```yaml", "data:", "  train:", *map(_source, report.lines), "```"]))
    return "\n\n".join(parts) + "\n"


def _source(line: Line) -> str:
    """The kept file with the image folder that the original had without saying so: its own."""
    section = line.section
    fields: dict[str, Any] = {
        "path": str(line.path.absolute()),
        "images": section.images or str(Path(section.path).absolute().parent),
    }
    fields |= {"format": section.format, "task": section.task, "outside": section.outside or None}
    return "    - {" + ", ".join(f"{key}: {json.dumps(v)}" for key, v in fields.items() if v is not None) + "}"


def _share(kept: int, scored: int) -> str:
    return f"{100 * kept / scored:.1f}%" if scored else "–"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"
