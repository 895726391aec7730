"""Finished evaluations side by side: the table, and paired differences from each to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evals import compare, stage
from evals.report import Report
from vlm.errors import UserError

COMPARED = ("grounding/acc@0.5", "grounding/miou", "vqa/exact", "choice/accuracy", "format")


def named(spec: str) -> tuple[str, list[Report]]:
    """`name=folder[,folder…]` → the name and its reports, one per seed."""
    name, given, folders = spec.partition("=")
    if not (name and given and folders):
        raise UserError(f"{spec!r} cannot be read; expected name=folder, or name=folder,folder for several seeds")
    return name, [stage.load_report(Path(folder)) for folder in folders.split(",")]


def differences(runs: dict[str, list[Report]]) -> list[str]:
    """One line per metric and step from a name to the next."""
    lines = []
    names = list(runs)
    for before, after in zip(names, names[1:], strict=False):
        for metric in COMPARED:
            if all(metric in report.metrics for report in [*runs[before], *runs[after]]):
                lines.append(f"{before} → {after}: {compare.paired(runs[before], runs[after], metric)}")
    return lines


def show(specs: Sequence[str], out: Path | None) -> None:
    """Print the table and the differences; write them as Markdown to `out/table.md` too."""
    from rich.console import Console

    runs = dict(named(spec) for spec in specs)
    columns = {
        name if len(reports) == 1 else f"{name}·{number}": report
        for name, reports in runs.items()
        for number, report in enumerate(reports)
    }
    lines = differences(runs)
    console = Console()
    console.print(compare.table(columns))
    for line in lines:
        console.print(line, highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.md").write_text(compare.markdown(columns) + "\n" + "".join(f"- {line}\n" for line in lines))
