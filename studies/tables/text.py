"""Tables as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields

from stage.metrics.turns import COUNTED, scale
from studies.tables.grid import Grid, Line, grids
from studies.tables.rows import Row
from vlm.common.errors import DataError

MISSING = "–"


def written(row: Row) -> tuple[str, str]:
    """A number and its interval, a share in percent, without markup: ("54.2", "[50.1, 58.3]"). Published: as papers
    print it."""
    times, digits = scale(row.metric)
    if row.kind == "published":
        return f"{times * row.value:.2f}", ""
    sign = "+" if row.kind == "difference" else ""
    numbers = (
        round(times * number, digits) + 0.0 for number in (row.value, row.low, row.high) if number is not None
    )  # no -0.0
    value, *ends = (f"{number:{sign}.{digits}f}" for number in numbers)
    return value, f"[{', '.join(ends)}]" if ends else ""


def clear(row: Row) -> bool:
    """Whether a difference's interval is on one side of 0."""
    if row.kind != "difference" or row.low is None or row.high is None:
        return False
    return row.low > 0 or row.high < 0


def markdown(rows: Sequence[Row]) -> str:
    """A table for each benchmark, shares in percent, notes below."""
    return "\n\n".join(_markdown(grid) for grid in grids(rows)) + "\n"


def _markdown(grid: Grid) -> str:
    def cell(row: Row | None) -> str:
        if row is None:
            return MISSING
        value, ends = written(row)
        return f"**{value}** {ends}" if clear(row) else f"{value} {ends}".strip()

    def label(line: Line) -> str:
        return f"*{_pipe(line.label)}* †" if line.published else _pipe(line.label)

    heads = [_pipe(text) for text in _heads(grid)]
    table = [[heads[0], *heads[1:]], ["---", *["---:"] * (len(heads) - 1)]]
    table += [[label(line), *map(cell, line.cells), line.seeds or MISSING] for line in grid.lines]
    parts = [f"### {grid.title}"] if grid.title else []
    parts.append("\n".join("| " + " | ".join(line) + " |" for line in table))
    parts.append("\n".join(f"- {note}" for note in grid.notes))
    return "\n\n".join(parts)


def _pipe(text: str) -> str:
    return text.replace("|", "\\|")


def _heads(grid: Grid) -> list[str]:
    def over(name: str, questions: str) -> str:
        unit = "number" if name in COUNTED else "points" if grid.differences else "%"
        return f"{name} ({unit}{f', n = {questions}' if questions else ''})"

    return ["", *map(over, grid.metrics, grid.questions), "seeds"]


_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "–": "--",
    "−": "$-$",
    "≥": "$\\geq$",
    "≤": "$\\leq$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "→": "$\\to$",
    "·": "$\\cdot$",
    "†": "$^\\dagger$",
    "…": "\\ldots{}",
}
_TEX_SIGN = re.compile("|".join(map(re.escape, _TEX)))


def escaped(text: str) -> str:
    """Text as LaTeX shows it.

    >>> escaped("no_score & 5% ≥ x")
    'no\\\\_score \\\\& 5\\\\% $\\\\geq$ x'
    """
    return _TEX_SIGN.sub(lambda found: _TEX[found[0]], text)


def latex(rows: Sequence[Row], caption: Callable[[Grid], str] = lambda grid: grid.title) -> str:
    """A `table` for each benchmark; needs \\usepackage{booktabs}. Signs stand in math mode, notes below the rules."""
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(_latex(grid, caption(grid)) for grid in grids(rows)) + "\n"


def _latex(grid: Grid, caption: str) -> str:
    def cell(row: Row | None) -> str:
        if row is None:
            return "--"
        value, ends = written(row)
        value = f"$\\mathbf{{{value}}}$" if clear(row) else f"${value}$"
        return f"{value} {{\\scriptsize ${ends}$}}" if ends else value

    def line(one: Line) -> str:
        label = f"\\textit{{{escaped(one.label)}}}$^\\dagger$" if one.published else escaped(one.label)
        return " & ".join([label, *map(cell, one.cells), escaped(one.seeds) or "--"]) + " \\\\"

    measured, told = ([line(one) for one in grid.lines if one.published is which] for which in (False, True))
    body = [*measured, *(["\\midrule"] if measured and told else []), *told]
    return "\n".join(
        [
            "\\begin{table}[t]",
            "\\centering",
            *([f"\\caption{{{escaped(caption)}}}"] if caption else []),
            f"\\begin{{tabular}}{{l{'r' * (len(grid.metrics) + 1)}}}",
            "\\toprule",
            " & ".join(escaped(head) for head in _heads(grid)) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\par\\smallskip",
            "\\begin{minipage}{\\linewidth}\\footnotesize",
            *(f"{escaped(note)}.\\par" for note in grid.notes),
            "\\end{minipage}",
            "\\end{table}",
        ]
    )


COLUMNS = tuple(field.name for field in fields(Row))
_NUMBERS = {"value": float, "low": float, "high": float, "level": float, "n_items": int, "n_seeds": int}


def to_csv(rows: Sequence[Row]) -> str:
    """One line a number, in full precision, as shares; `read_csv` gives the same rows back."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = dict(zip(COLUMNS, astuple(row), strict=True))
        values["per_seed"] = ";".join(map(repr, row.per_seed))
        writer.writerow("" if value is None else repr(value) if isinstance(value, float) else value
                        for value in values.values())  # fmt: skip
    return file.getvalue()


def read_csv(text: str) -> list[Row]:
    """The rows of `to_csv`. Raises: DataError naming line and column."""
    out = []
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DataError(f"the table's columns are {reader.fieldnames}; expected {', '.join(COLUMNS)}")
    for row in reader:
        values = dict(row)
        for name, kind in _NUMBERS.items():
            try:
                values[name] = kind(row[name]) if row[name] else None
            except ValueError:
                raise DataError(
                    f"the table's line {reader.line_num}, column {name}: found {row[name]!r}, expected a number"
                ) from None
        values["per_seed"] = tuple(float(part) for part in row["per_seed"].split(";") if part)
        out.append(Row(**values))
    return out
