"""Is one run better than another? Paired bootstrap over the same questions (`vlm.common.bootstrap`); tables of reports.

Pairing matters: most questions are answered alike by both runs, so the interval of the difference is much
narrower than the two runs' own intervals suggest (Koehn 2004, "Statistical significance tests for machine
translation evaluation").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console, ConsoleOptions, Group
from rich.table import Table
from rich.text import Text

from evals.controls import CONTROLS
from evals.scoring.metrics import CONVENTIONS
from evals.scoring.report import LEVEL, Scores
from stage.endpoint.kept import spoken
from stage.metrics.turns import COUNTED, scale
from vlm.common.bootstrap import few_questions, quantiles, replicates
from vlm.common.errors import DataError

COMPARED = (
    *("grounding/acc@0.5", "grounding/miou", "vqa/exact", "vqa/exact:lenient"),
    *("choice/accuracy", "choice/accuracy:lenient", "open_ended/gold", "caption/cider", "format"),
    *("detection/ap_nc@0.5", "detection/mf1", "detection/boxes_said"),
    *("segmentation/giou", "segmentation/ciou", "change/f1"),
)
"""What differences are told of, where a benchmark has no other headline."""
NAMED = 44
"""Columns that a metric's name may take before it is folded."""
EDGE = 3
"""Columns of a table's line and the blanks beside it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """b - a of one metric, mostly of shares (0.05 is 5 points), with a percentile interval."""

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    level: float
    n: int
    "Questions."
    seeds: int
    "Pairs of runs."
    of: int | None = None
    "Questions that there were, where some were left out."

    def __str__(self) -> str:
        runs = f", {self.seeds} seeds" if self.seeds > 1 else ""
        (times, digits), points = scale(self.metric), "" if self.metric in COUNTED else " points"
        a, b = (f"{times * value:.{digits}f}" for value in (self.a, self.b))
        change, low, high = (f"{times * value:+.{digits}f}" for value in (self.difference, self.low, self.high))
        return (
            f"{self.metric} {a} -> {b}: {change}{points} [{low}, {high}] "
            f"({100 * self.level:g}% paired, n = {self.n}{f' of {self.of}' if self.of else ''}{runs})"
        )


def paired(
    a: Scores | Sequence[Scores],
    b: Scores | Sequence[Scores],
    metric: str,
    *,
    level: float = 0.95,
    count: int = 10_000,
    seed: int = 0,
) -> Difference:
    """How much better b is than a, with the interval of a paired bootstrap of `count` resamples.

    a and b are one report each, or one per training seed, in the same order; a single report stands against
    all of the other side (one base, three fine-tuned runs). All must hold the same questions. Each resample
    draws questions with replacement, the same ones for every seed and both sides, and, with several seeds,
    pairs of seeds with replacement too (`vlm.common.bootstrap`: with few seeds the interval is too narrow).

    Raises: DataError where the questions differ or the metric applies to none.
    """
    left, right = ([report.statistic(metric) for report in side] for side in _broadcast(_list(a), _list(b)))
    try:
        low, high = quantiles(replicates(right, left, count=count, seed=seed), level)
    except DataError as error:
        raise DataError(f"{metric}: {error}") from error
    before, after = (fmean(one.value for one in side) for side in (left, right))
    return Difference(
        metric=metric,
        a=before,
        b=after,
        difference=after - before,
        low=low,
        high=high,
        level=level,
        n=len(left[0].keys),
        seeds=len(left),
        of=_offered([*_list(a), *_list(b)], metric),
    )


def _offered(reports: Sequence[Scores], metric: str) -> int | None:
    """The most questions that there were for one of the reports; None where none says that some were left out."""
    found = [report.of(report.metrics[metric]) for report in reports]
    most = max((one for one in found if one is not None), default=0)
    return most if most > reports[0].metrics[metric].n else None


def _list(reports: Scores | Sequence[Scores]) -> list[Scores]:
    return list(reports) if isinstance(reports, Sequence) else [reports]


def _broadcast(left: list[Scores], right: list[Scores]) -> tuple[list[Scores], list[Scores]]:
    count = max(len(left), len(right))
    if not left or not right or {len(left), len(right)} - {1, count}:
        raise DataError(f"found {len(left)} runs against {len(right)}, expected as many on both sides (or one)")
    return left * (count // len(left)), right * (count // len(right))


def beside(reports: Mapping[str, Scores]) -> dict[str, Scores]:
    """Each report, and behind it those of its controls (`r1`, `r1·blind`)."""
    out: dict[str, Scores] = {}
    for name, report in reports.items():
        out |= {name: report} | {f"{name}·{control}": scores for control, scores in report.controls.items()}
    return out


def gains(runs: Mapping[str, Sequence[Scores]], metrics: Sequence[str] = COMPARED) -> list[str]:
    """What each run gains over its controls: a line for each metric whose questions were all asked again.

    runs: name → its reports, one per seed. A control that was asked fewer of a metric's questions has no line of it:
    `swapped` has one of captions of pairs, and none of questions about one picture.
    """
    lines = []
    for name, reports in runs.items():
        for control in dict.fromkeys(control for report in reports for control in report.controls):
            own = [report.controls[control] for report in reports if control in report.controls]
            whole = [report for report in reports if control in report.controls]
            for metric in metrics:
                if metric == "format" or not all(metric in report.found for report in (*own, *whole)):
                    continue
                pairs = zip(own, whole, strict=True)
                if all({*a.statistic(metric).keys} == {*b.statistic(metric).keys} for a, b in pairs):
                    lines.append(f"{name}·{control} → {name}: {paired(own, whole, metric)}")
    return lines


def listed(lines: Iterable[str]) -> str:
    """Lines as a list in Markdown; nothing of none."""
    found = "".join(f"- {line}\n" for line in lines)
    return f"\n{found}" if found else ""


def rows(reports: Mapping[str, Scores], told: set[str] | None = None) -> tuple[list[list[str]], list[str]]:
    """Cells of the table, in percent (metric, n, one per report with its interval), and the notes below it.

    told: clauses of conventions that have been said, here or before, and are not said again; None: each metric has its
    convention in full.
    """
    controls = dict.fromkeys(name for report in reports.values() for name in report.controls if name in CONTROLS)
    unasked = [
        (f"{name}·{control}", why) for name, report in reports.items() for control, why in report.unasked.items()
    ]
    reports = beside(reports)
    names: dict[str, None] = {}
    for report in reports.values():
        names |= dict.fromkeys([*report.metrics, *report.missing])
    cells, notes = [], []
    for name in _ordered(names):
        found = [report.metrics.get(name) for report in reports.values()]
        counts = dict.fromkeys(one.count(one.metrics[name]) for one in reports.values() if name in one.metrics)
        cells.append([name, " / ".join(counts), *(cell(report, name) for report in reports.values())])
        if "[" not in name:
            texts = dict.fromkeys(metric.convention for metric in found if metric)
            texts |= dict.fromkeys(f"not computed: {r.missing[name]}" for r in reports.values() if name in r.missing)
            if said := " | ".join(texts) if told is None else _once(texts, told):
                notes.append(f"{name}: {said}")
    notes.append(f"in brackets: {100 * LEVEL:g}% bootstrap intervals over questions")
    counted = (one.metrics[name].n for one in reports.values() for name in one.intervals)
    notes += few_questions(counted)
    notes += [f"·{name}: {CONTROLS[name].meaning}" for name in controls]
    notes += [f"{name}: not asked: {why}" for name, why in unasked]
    drawn: dict[str, list[str]] = {}
    for name, report in reports.items():
        if report.sampling:
            drawn.setdefault(report.sampling, []).append(name)
    for name, report in reports.items():
        if report.coverage is not None and report.coverage.left_out:
            notes.append(f"{name}: {report.coverage}")
        if report.refused:
            notes.append(f"{name}: {spoken(report.refused)}")
    for how, whose in drawn.items():
        notes.append(f"answers{'' if len(drawn) == 1 else ' of ' + ', '.join(whose)}: {how}")
    return cells, notes


def _once(texts: Iterable[str], told: set[str]) -> str:
    """Conventions without the clauses that are told already; empty where all are."""
    found = []
    for text in texts:
        clauses = text.split("; ")
        new = [clause for clause in clauses if clause not in told]
        told.update(new)
        if new:
            found.append("; ".join([*new, *(["else as above"] if len(new) < len(clauses) else [])]))
    return " | ".join(found)


def cell(report: Scores, name: str) -> str:
    """A number in percent with its interval, as tables show it."""
    if name not in report.metrics:
        return "not computed" if name in report.missing else "–"
    times, digits = scale(name)
    text = f"{times * report.metrics[name].value:.{digits}f}"
    if name not in report.intervals:
        return text
    low, high = report.intervals[name]
    return f"{text} [{times * low:.{digits}f}, {times * high:.{digits}f}]"


def _ordered(names: Mapping[str, None]) -> list[str]:
    """Task by task as they come, `format` last; within a task those of CONVENTIONS in its order with their types behind
    them, then others as they come."""
    position = {name: number for number, name in enumerate(CONVENTIONS)}
    tasks = {name.partition("/")[0]: number for number, name in reversed(list(enumerate(CONVENTIONS)))}

    def place(name: str) -> tuple:
        base = name.partition("[")[0]
        task = tasks.get(base.partition("/")[0], len(tasks)) if base != "format" else float("inf")
        return (task, position[base], name) if base in position else (task, len(position), "")

    return sorted(names, key=place)


def table(reports: Mapping[str, Scores], title: str | None = None, told: set[str] | None = None) -> Group:
    """Several reports side by side for the terminal, in percent, the conventions below, each said once.

    told: what tables before this one have said of them.
    """
    cells, notes = rows(reports, set() if told is None else told)
    return Group(Sheet(cells, list(beside(reports)), title), Text("\n".join(notes)))


@dataclass(frozen=True)
class Sheet:
    """A table that cuts no name short: runs that do not fit beside each other come in a table of their own below."""

    cells: list[list[str]]
    runs: list[str]
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        columns = [["metric (%)", "n", *self.runs], *self.cells]
        full = [max(len(row[place]) for row in columns) for place in range(len(columns[0]))]
        words = [[word for row in self.cells for word in row[place].split()] for place in range(len(full))]
        least = [max(map(len, found), default=1) for found in words]
        least[0] = min(full[0], NAMED)
        shown: list[list[int]] = []
        for place in range(2, len(full)):
            if not shown or _taken([*shown[-1], place], least) > options.max_width:
                shown.append([0, 1])
            shown[-1].append(place)
        for number, places in enumerate(shown):
            widths = {place: least[place] for place in places}
            spare = options.max_width - _taken(places, least)
            widths[0] = max(1, widths[0] + min(spare, 0))
            for at, place in enumerate(places[1:], 1):
                share = max(spare, 0) // (len(places) - at)
                widths[place] += min(share, full[place] - least[place])
                spare -= widths[place] - least[place]
            yield self._table(widths, None if number else self.title)

    def _table(self, widths: Mapping[int, int], title: str | None) -> Table:
        """Columns by place, as wide as told."""
        out = Table(title=title)
        heads = ["metric (%)", "n", *self.runs]
        for place, width in widths.items():
            out.add_column(Text(heads[place]), width=width, overflow="fold", justify="right" if place else "left")
        for row in self.cells:
            out.add_row(*(Text(row[place]) for place in widths))  # Text: [type] in a string would be taken for markup
        return out


def _taken(places: Sequence[int], widths: Sequence[int]) -> int:
    """Of a terminal's columns, by a table of these."""
    return 1 + sum(widths[place] + EDGE for place in places)


def markdown(reports: Mapping[str, Scores]) -> str:
    """The same as a Markdown table followed by a list of the conventions."""
    cells, notes = rows(reports)
    heads = list(beside(reports))
    lines = [["metric (%)", "n", *heads], ["---", *["---:"] * (len(heads) + 1)], *cells]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *(f"- {note}" for note in notes)]) + "\n"
