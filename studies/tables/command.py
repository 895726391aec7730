"""Several seeds of several runs as one table and one figure:

    python launch/table.py runs/ablation --figure runs/ablation/figure.png
    python launch/table.py runs/ablation --format tex --pair Zero-without:Zero-with --pair R1-without:R1-with
    python launch/table.py base=runs/eval/base r1=runs/a/eval,runs/b/eval --metrics grounding/acc@0.5 --published

A FOLDER is a study (<label>/seed-N/eval below it), one run of a study, or an evaluation; label=folder,folder names the
seeds of a label oneself. Numbers are computed afresh from predictions.jsonl: the mean over seeds, with an interval over
seeds and questions, and paired differences of every label from the first, or of the pairs that are named. A study of
two axes or more has the main effects of each axis, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from stage.cli import guarded
from studies import study
from studies.tables import effects, figure, layout, rows, text
from studies.tables.rows import Figure, Report, Row, Runs
from vlm.common.errors import UserError

FORMATS = {"md": text.markdown, "tex": text.latex, "csv": text.to_csv}
Load = Callable[[Path], Mapping[str, Report]]
"""`load(folder)` → the reports of an evaluation by benchmark ("" for one by recipe)."""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("runs", nargs="+", metavar="FOLDER|label=folder[,folder…]")
    out.add_argument("--labels", type=_list, help="only these labels, in this order, separated by commas")
    out.add_argument("--metrics", type=_list, help="only these, separated by commas (default: all but single types)")
    out.add_argument("--against", help="the label that the others are compared with (default: the first)")
    out.add_argument("--pair", action="append", metavar="A:B", help="compare B with A instead; may be repeated")
    beside = "show published figures too, marked as such: of the same benchmarks, or of this one"
    out.add_argument("--published", nargs="?", const="", metavar="BENCHMARK", help=beside)
    out.add_argument(
        "--rename",
        action="append",
        metavar="OLD=NEW",
        help="how a label is shown (a published one: in the figure); may be repeated",
    )
    out.add_argument(
        "--format", choices=FORMATS, default="md", help="Markdown, LaTeX (booktabs), or CSV with every digit"
    )
    out.add_argument("--out", type=Path, help="write the table here instead of printing it")
    out.add_argument("--figure", type=Path, help="draw the means here, as PNG and as SVG")
    out.add_argument("--title", default="", help="of the figure")
    out.add_argument("--level", type=float, default=rows.LEVEL, help="of the intervals (default: %(default)s)")
    out.add_argument("--stage", default="eval", help="what an evaluation's folder is called in the study")
    return out


def main(argv: Sequence[str] | None, load: Load, published: Callable[[str], Iterable[Figure]]) -> int:
    """The command line; returns the exit code. published: the figures of a benchmark."""
    arguments = parser().parse_args(argv)
    return guarded(lambda: show(arguments, load, published))


def show(arguments: argparse.Namespace, load: Load, published: Callable[[str], Iterable[Figure]]) -> None:
    """Table and figure. Raises: UserError for what cannot be read or compared."""
    if not 0 < arguments.level < 1:
        raise UserError(f"--level {arguments.level}: expected a share between 0 and 1, such as 0.95")
    folders = layout.find(arguments.runs, arguments.stage)
    if unknown := [label for label in arguments.labels or () if label not in folders]:
        raise UserError(f"--labels: no run is called {unknown[0]!r}; there are {', '.join(folders)}")
    chosen = {label: folders[label] for label in arguments.labels or folders}
    runs = {label: {seed: load(place) for seed, place in seeds.items()} for label, seeds in chosen.items()}
    found = table(runs, arguments, published)
    found += main_effects(runs, arguments)
    said = FORMATS[arguments.format](found)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(said, encoding="utf-8")
    else:
        sys.stdout.write(said)
    if arguments.figure:
        arguments.figure.parent.mkdir(parents=True, exist_ok=True)
        # in the table a published figure keeps the name it has in its paper; here it may stand with one of ours
        shown = rows.renamed(found, _names(arguments), published=True)
        figure.draw(shown, arguments.figure, title=arguments.title)


def table(runs: Runs, arguments: argparse.Namespace, published: Callable[[str], Iterable[Figure]]) -> list[Row]:
    """All rows, under the labels that they are shown with."""
    names = rows.metrics(runs, arguments.metrics or ())
    first, *others = dict.fromkeys([arguments.against or next(iter(runs)), *runs])
    pairs = [_split(pair, ":", "--pair") for pair in arguments.pair or ()] or [(first, other) for other in others]
    found = rows.means(runs, names, level=arguments.level)
    found += rows.differences(runs, pairs, names, level=arguments.level)
    if arguments.published is not None:
        asked = [arguments.published] if arguments.published else filter(None, rows.benchmarks(runs))
        told = rows.published((one for name in asked for one in published(name)), arguments.metrics)
        if not told:
            raise UserError(
                f"--published: there are no such figures of {arguments.published or 'what was evaluated here'}; name a "
                "benchmark that has some, such as vg-dior, and a metric that they are of"
            )
        found += told
    return rows.renamed(found, _names(arguments))


def main_effects(runs: Runs, arguments: argparse.Namespace) -> list[Row]:
    """Those of each study that was named, unless pairs were asked for."""
    studies = [study.read(folder) for folder in arguments.runs if (Path(folder) / study.FILE).exists()]
    names = rows.metrics(runs, arguments.metrics or ())
    asked = [] if arguments.pair or arguments.against else studies
    return [row for one in asked for row in effects.effects(runs, one, names, level=arguments.level)]


def _names(arguments: argparse.Namespace) -> dict[str, str]:
    return dict(_split(one, "=", "--rename") for one in arguments.rename or ())


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _split(text: str, sign: str, option: str) -> tuple[str, str]:
    before, there, after = text.partition(sign)
    if not (before and there and after):
        raise UserError(f"{option} {text!r} cannot be read; expected two names with {sign!r} between them")
    return before, after
