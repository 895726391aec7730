"""A plan as tables for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from studies.matrix import cost, marks
from studies.matrix.planning import Plan, Run

MIB = 2**20


def show(plan: Plan, at_once: int, console: Console | None = None) -> None:
    console = console or Console()
    console.print(runs(plan))
    found = cost.kinds(plan)
    console.print(kinds(found))
    for line in remarks(plan, found, at_once):
        console.print(line, markup=False, highlight=False)


def runs(plan: Plan) -> Table:
    """Each run, and what has become of its stages."""
    table = Table(title=f"{plan.name}: {len(plan.runs)} runs", title_justify="left")
    for name in ("run", "seed", *plan.matrix.stages):
        table.add_column(name, no_wrap=name == "run")
    for run in plan.runs:
        seed = "any" if run.seed is None else str(run.seed)
        table.add_row(run.label, seed, *(_cell(run, name) for name in plan.matrix.stages))
    return table


def _cell(run: Run, name: str) -> str:
    if name not in run.stages:
        return "–"
    stage = run.stages[name]
    if stage.runs[0] is not run:
        first = stage.runs[0]
        return f"as {first.label}" if first.seed == run.seed else f"as {first.folder}"
    return str(marks.state(stage))


def kinds(found: list[cost.Kind]) -> Table:
    """What each kind of stage costs."""
    table = Table(title="Stages", title_justify="left")
    for index, name in enumerate(("stage", "to do", "finished", "reused", "work to do", "one takes", "one fills")):
        table.add_column(name, justify="right" if index else "left")
    for kind in found:
        table.add_row(
            kind.name,
            str(kind.stages - kind.finished),
            str(kind.finished),
            str(kind.shared),
            str(kind.work),
            "?" if kind.seconds is None else marks.clock(kind.seconds),
            "?" if kind.bytes is None else f"{kind.bytes / MIB:,.0f} MiB",
        )
    return table


def remarks(plan: Plan, found: list[cost.Kind], at_once: int) -> list[str]:
    """What stands under the tables."""
    lines = []
    for run in plan.runs:
        same = [axis for axis, value in run.values.items() if value is None or "+" in value]
        if same and run.seed in (None, plan.matrix.seeds[0]):
            lines.append(f"note: {run.label} is the same work with any {' and '.join(same)}: one run")
    todo = sum(kind.stages - kind.finished for kind in found)
    seconds = cost.left(plan, found, at_once)
    if not todo:
        lines.append("nothing is left to do")
    elif seconds is None:
        lines.append(f"{todo} stages to do, {at_once} at a time; how long is known when one of each kind has finished")
    else:
        lines.append(
            f"{todo} stages to do, {at_once} at a time: about {marks.clock(seconds)} by those that have finished"
        )
    if todo and all(kind.bytes is not None for kind in found if kind.stages > kind.finished):
        needed = sum((kind.stages - kind.finished) * kind.bytes for kind in found if kind.bytes is not None)
        lines.append(f"disk: about {needed / MIB:,.0f} MiB more, by those that have finished")
    return lines
