"""The report for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from samples.doctor.leaks import Leak
from samples.doctor.report import Report, SourceCounts, summary
from samples.mixture.record import short

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHOWN = 5
"""Examples of each finding; report.json has more."""


def render(report: Report, console: Console, strict: bool = False) -> None:
    """Print the report."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False)

    console.print(_sources(report))
    for source in report.sources:
        for text, style in _contents(source):
            say(text, style)
    for mixture in report.mixtures:
        console.print(mixture.table())
    console.print(_measures(report))
    for leak in report.leaks[:SHOWN]:
        say(_pair(leak))
    if len(report.leaks) > SHOWN:
        say(f"  … and {len(report.leaks) - SHOWN:,} more, in report.json")
    shown = (
        report.unfit,
        report.tones,
        report.turned,
        report.replies,
        report.repeated,
        report.long,
        report.boxes,
        report.masks,
    )
    for found in shown:
        for kind, examples in found.examples.items():
            say(f"{kind}: {'; '.join(examples[:SHOWN])}{' …' * (found.counts[kind] > SHOWN)}")
    for note in report.notes:
        say(f"note: {note}")
    for warning in report.warnings:
        say(f"warning: {warning}", "yellow")
    for fault in report.faults:
        say(f"fault: {fault}", "red")
    if report.fit(strict):
        say("fit: no faults" + (f", {len(report.warnings)} warnings" if report.warnings else ""), "green")
    else:
        why = "" if report.faults else " (--strict: warnings count)"
        say(f"not fit{why}", "bold red")


def _sources(report: Report) -> Table:
    from rich.table import Table

    table = Table(title="Rows", title_justify="left")
    table.add_column("")
    table.add_column("source", overflow="fold")
    for name in ("rows", "fit", "other tasks", "unfit", "faulty", "no question"):
        table.add_column(name, justify="right")
    for source in report.sources:
        faulty, empty = source.faults.skipped, source.faults.left_out.total()
        counts = (source.rows, source.fit, source.other_tasks, source.unfit, faulty, empty)
        table.add_row(source.role, short(source.path), *(f"{count:,}" for count in counts))
    return table


def _contents(source: SourceCounts) -> Iterator[tuple[str, str]]:
    """(text, style) lines: the question types of each task, and each kind of fault with the first row that has it."""
    for task, kinds in source.kinds.items():
        types = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items() if kind)
        if types:
            yield f"{short(source.path)}, {task}: {types}", ""
    for kind, count in source.faults.kinds.most_common():
        yield f"{short(source.path)}: {count:,} × {kind}, first: {source.faults.examples[kind]}", "red"
    for kind, count in source.faults.left_out.most_common():
        yield f"{short(source.path)}: {count:,} × {kind}, no question: {source.faults.examples[kind]}", ""
    for kind, count in source.faults.objects.most_common():
        yield f"{short(source.path)}: {count:,} × {kind}, left out of its row: {source.faults.examples[kind]}", ""
    if source.faults.cut:
        yield f"{short(source.path)}: in {source.faults.cut:,} rows boxes exceed the image, and are cut to it", ""
    if source.faults.swapped:
        yield f"{short(source.path)}: {source.faults.swapped:,} names have another suffix than their files, used", ""


def _measures(report: Report) -> Table:
    from rich.table import Table

    table = Table(title=f"Measures ({report.pictures:,} different pictures)", title_justify="left")
    table.add_column("")
    for name in ("count", "least", "median", "95%", "most"):
        table.add_column(name, justify="right")
    sides = {name: np.repeat([size[n] for size in report.sizes], list(report.sizes.values()))
             for n, name in enumerate(("image width", "image height"))}  # fmt: skip
    measured = {
        **sides,
        "visual tokens of an image": report.visual_tokens,
        "tokens of a row": report.lengths,
        "words of an answer": report.answer_words,
        "box, √(share of the image)": report.box_sides,
        "mask, √(share of the image)": report.mask_sides,
        "IoU of a mask with its own text": report.mask_ious,
        "region zoomed into, √(share of the image)": report.zoom_sides,
    }
    for name, values in measured.items():
        if found := summary(np.asarray(values)):
            table.add_row(name, f"{found.pop('count'):,}", *(f"{value:,.4g}" for value in found.values()))
    return table


def _pair(leak: Leak) -> str:
    if leak.kind == "same file":
        return f"leak: {leak.eval}, shown in training by {leak.train_row} and in evaluation by {leak.eval_row}"
    how = leak.kind if leak.kind != "alike" else f"alike ({leak.bits} bits apart)"
    return f"leak, {how}: {leak.eval} ({leak.eval_row}) and {leak.train} of training ({leak.train_row})"
