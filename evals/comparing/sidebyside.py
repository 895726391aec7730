"""Finished evaluations side by side: tables, paired differences from each to the next, published figures beside.

A folder is one evaluation (it holds predictions.jsonl) or the output of several benchmarks (its folders do).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evals import stage
from evals.benchmarks import find
from evals.benchmarks.published import figures
from evals.comparing import chart, compare
from evals.comparing.compare import COMPARED
from evals.ranks import FILE
from evals.recipe import EvalRecipe
from evals.scoring.report import Scores
from stage.recipe import config
from vlm.common.bootstrap import few_questions
from vlm.common.errors import UserError

Runs = dict[str, list[Scores]]
"""Name → its reports, one per seed."""


def evaluations(folder: str | Path) -> dict[str, Scores]:
    """The reports of a folder by benchmark ("" for an evaluation by recipe), computed afresh from predictions."""
    folder = Path(folder)
    found = [folder] if (folder / FILE).exists() else [path.parent for path in sorted(folder.glob(f"*/{FILE}"))]
    if not found:
        raise UserError(f"{folder} holds no {FILE}, nor do its folders; name the output folder of launch/eval.py")
    reports: dict[str, Scores] = {}
    for place in found:
        recipe = config.load(place / "recipe.yaml", EvalRecipe)
        name = recipe.benchmark or ("" if place == folder else place.name)
        reports[name] = stage.load_report(place, recipe)
    return reports


def named(spec: str) -> tuple[str, list[dict[str, Scores]]]:
    """`name=folder[,folder…]` → the name and its evaluations, one per seed."""
    name, given, folders = spec.partition("=")
    if not (name and given and folders):
        raise UserError(f"{spec!r} cannot be read; expected name=folder, or name=folder,folder for several seeds")
    return name, [evaluations(folder) for folder in folders.split(",")]


def differences(runs: Runs, metrics: Sequence[str] = COMPARED) -> list[str]:
    """One line per metric and step from a name to the next."""
    lines = []
    names = list(runs)
    for before, after in zip(names, names[1:], strict=False):
        for metric in metrics:
            if all(metric in report.metrics for report in [*runs[before], *runs[after]]):
                lines.append(f"{before} → {after}: {compare.paired(runs[before], runs[after], metric)}")
    return lines


def show(specs: Sequence[str], out: Path | None, published: bool = False) -> None:
    """Print tables and differences; write them as Markdown to `out/table.md`, and `out/comparison.png`.

    published: put what papers report beside it, marked as such.
    """
    given = dict(named(spec) for spec in specs)
    benchmarks = dict.fromkeys(name for seeds in given.values() for one in seeds for name in one)
    console, sections, panels, told = Console(), [], [], set[str]()
    for benchmark in benchmarks:
        runs = {name: [one[benchmark] for one in seeds if benchmark in one] for name, seeds in given.items()}
        runs = {name: reports for name, reports in runs.items() if reports}
        columns = {
            name if len(reports) == 1 else f"{name}·{number}": report
            for name, reports in runs.items()
            for number, report in enumerate(reports)
        }
        headlines = _headlines(benchmark, columns)
        shown = list(dict.fromkeys([*headlines, *COMPARED]))
        lines = differences(runs, shown) + compare.gains(runs, shown)
        console.print(compare.table(columns, title=benchmark or None, told=told))
        for line in lines:
            console.print(line, highlight=False)
        text = compare.markdown(columns) + (compare.listed(lines) or "\n")
        sections.append(f"## {benchmark}\n\n{text}" if benchmark else text)
        if published and benchmark and (papers := beside(benchmark, columns)):
            console.print(papers, highlight=False, markup=False)
            sections[-1] += f"\n{papers}"
        panels += [panel(benchmark, metric, columns, published) for metric in headlines]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.md").write_text("\n".join(sections))
        if panels:
            chart.draw(panels, out / "comparison.png", title="Benchmarks")


def beside(benchmark: str, columns: dict[str, Scores]) -> str:
    """Markdown: what papers report on a benchmark, and ours under the same metric."""
    rows = [["model", "metric (%)", "value", "source"], ["---", "---", "---:", "---"]]
    told = figures(benchmark)
    for metric in dict.fromkeys(figure.metric for figure in told):
        for figure in told:
            if figure.metric == metric:
                source = f"published: {figure.source}" + (f" ({figure.note})" if figure.note else "")
                rows.append([figure.model, metric, f"{100 * figure.value:.2f}", source])
        for name, report in columns.items():
            whole = report.coverage
            missed = f" ({whole})" if whole is not None and whole.left_out else ""
            rows.append([f"**{name}**", metric, compare.cell(report, metric), f"measured here{missed}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n" if told else ""


def panel(benchmark: str, metric: str, columns: dict[str, Scores], published: bool) -> chart.Panel:
    """The benchmark's headline as a picture; published figures by another convention are named with it."""
    told = figures(benchmark) if published else []
    marks = [
        chart.Mark(
            one.model + ("" if one.metric == metric else f" ({one.metric.rpartition(':')[2]})"),
            one.value,
            published=True,
        )
        for one in told
    ]
    notes = "; ".join(dict.fromkeys(one.note for one in told if one.note))
    for name, report in compare.beside(columns).items():
        if metric in report.metrics:
            low, high = report.intervals.get(metric, (None, None))
            marks.append(chart.Mark(name, report.metrics[metric].value, low, high))
    fewest = min((report.metrics[metric].n for report in columns.values() if metric in report.metrics), default=0)
    said = [f"published: {notes}"] if notes else []
    return chart.Panel(
        benchmark or metric.partition("/")[0], f"{metric}, %", marks, "; ".join([*said, *few_questions([fewest])])
    )


def _headlines(benchmark: str, columns: dict[str, Scores]) -> list[str]:
    """For each task the metric that stands for it: the benchmark's own, else the first that all who were asked the task
    have, and that can be resampled."""
    wanted = find(benchmark).headline if benchmark else ""
    tasks: dict[str, list[Scores]] = {}
    for report in columns.values():
        for task in dict.fromkeys(map(_task, report.intervals)):
            tasks.setdefault(task, []).append(report)
    found = []
    for task, (first, *others) in tasks.items():
        shared = [one for one in first.intervals if _task(one) == task and all(one in o.intervals for o in others)]
        found += [wanted] if wanted in shared else shared[:1]
    return [metric for metric in found if metric != "format"] or found


def _task(metric: str) -> str:
    return metric.partition("/")[0]
