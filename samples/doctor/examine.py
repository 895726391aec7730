"""The examination: one pass over the rows, every picture decoded beside it, then what needs all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from samples import Faults
from samples.doctor.brightness import KINDS
from samples.doctor.gallery import Gallery
from samples.doctor.leaks import leaks
from samples.doctor.report import Report, SourceCounts
from samples.doctor.rows import Rows
from samples.doctor.subject import Examined, Subject
from samples.mixture import Mixture, Source
from samples.mixture.marks import marks_of
from samples.sections import Role
from vlm.common.errors import DataError
from vlm.families import Sight

Told = Callable[[int, int, int], None]
"""`told(rows, decoded, pictures)` while it runs."""
TURNED = "turned by EXIF, and boxes fit both as stored and upright: state `size` in the rows"
EVERY = 500
"""Rows between two calls of it."""


class WrittenFaults(Faults):
    """Faults of which each is written down as it is found, one JSON object a line."""

    def __init__(self, file: TextIO, role: str, path: str):
        super().__init__()
        self.file, self.role, self.path = file, role, path

    def add(self, kind: str, message: str) -> None:
        Faults.add(self, kind, message)
        line = {"role": self.role, "source": self.path, "kind": kind, "message": message}
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")


def examine(subject: Subject, folder: Path, workers: int, told: Told = lambda *counts: None) -> Report:
    """Examine a subject's data; faulty rows are written into `folder/faults.jsonl`.

    Raises: DataError where a file is not there or its format cannot be detected, and for a worker that died.
    """
    report = Report(notes=list(subject.notes))
    with ExitStack() as stack:
        file = stack.enter_context(open(folder / "faults.jsonl", "w", encoding="utf-8", errors="backslashreplace"))
        gallery = stack.enter_context(Gallery(workers))
        rows = Rows(gallery, subject.ruler, subject.sight)
        sources: dict[Role, list[Examined]] = {"train": [], "eval": []}
        for role, opened in sources.items():
            sections = subject.data.sources(role)
            for number, section in enumerate(sections):
                faults = WrittenFaults(file, role, section.path)
                opened.append(_opened(subject, section, faults, role))
                rows.learns = role == "train" or number < len(sections) - subject.others
                _read(opened[-1], role, rows, report, told)
        rows.measure()
        gallery.told = lambda decoded, known: told(len(rows.names), decoded, known)
        gallery.finish()
    _judge_lengths(rows, *_judge_pictures(gallery, rows, report, subject.sight), report)
    report.replies, report.repeated = rows.replies, rows.repeated
    report.namesakes = rows.namesakes if subject.unique else 0
    _mix(subject, sources, report)
    report.boxes, report.answer_words = rows.boxes, np.asarray(rows.answer_words)
    report.box_sides, report.zoom_sides = np.asarray(rows.box_sides), np.asarray(rows.zoom_sides)
    report.masks, report.mask_sides = rows.masks, np.asarray(rows.mask_sides)
    report.mask_ious = np.asarray(rows.mask_ious)
    report.leaks = leaks(gallery)
    for (place, task, kind), count in sorted(rows.kinds.items()):
        report.sources[place].kinds.setdefault(task, {})[kind] = count
    return report


def _opened(subject: Subject, section: Any, faults: Faults, role: Role) -> Examined:
    if subject.open is not None:
        return subject.open(section, faults)
    marks = marks_of(subject.data, role)
    return Source(section, subject.data, subject.seed, "skip", faults=faults, check=subject.check, marks=marks)


def _read(source: Examined, role: Role, rows: Rows, report: Report, told: Told) -> None:
    place = len(report.sources)
    counts = SourceCounts(role, source.section.path)
    report.sources.append(counts)
    gallery = rows.gallery
    try:
        for number, sample in enumerate(source):
            rows.add(sample, role, place, source.faults.sized)
            if number % EVERY == 0:
                told(len(rows.names), gallery.decoded, len(gallery.names))
    except DataError as error:  # all rows are faulty, or the file breaks off
        counts.broken = str(error)
    counts.rows, counts.faults = source.faults.rows, source.faults
    counts.examined = len(source.tasks)
    counts.other_tasks = sum(source.read.values()) - counts.examined


def _judge_pictures(gallery: Gallery, rows: Rows, report: Report, sight: Sight) -> tuple[np.ndarray, np.ndarray]:
    """Sizes, and what cannot be decoded or shown to the model.

    Returns (pictures,) visual tokens and (rows,) whether a row is fit: all its pictures, and what it teaches.
    """
    bad, alone = np.zeros(len(gallery.names), bool), rows.least_together(len(gallery.names))
    tokens = np.zeros(len(gallery.names), np.int64)
    for number, found in enumerate(gallery.looks):
        count = sum(rows[number] for rows in gallery.rows.values())
        first = next(filter(None, (names[number] for names in gallery.shown_by.values())))
        where = f"{gallery.names[number]}, shown by {count} rows, first {first}"
        if found.size is None:
            bad[number] = True
            report.unfit.add("cannot be decoded", f"{where}: {found.fault}")
            continue
        report.sizes[found.size] += 1
        if number in rows.unsized and found.orientation != 1:
            doubtful, name = rows.unsized[number].doubtful(found.orientation)
            if doubtful:
                said = f"{gallery.names[number]}, EXIF orientation {found.orientation}: {doubtful} rows, first {name}"
                report.turned.add(TURNED, said)
        if found.tone:
            report.tones.add(KINDS[found.tone], where)
        try:
            tokens[number] = sight.among(alone[number]).tokens(found.size)
        except ValueError as error:
            bad[number] = True
            report.unfit.add("too long and thin", f"{where}: {error}")
    report.pictures = len(gallery.names)
    report.visual_tokens = tokens[~bad]
    shown = rows.of_pictures(bad) == 0
    report.unfit_rows = int((~shown).sum())
    fit = shown & ~np.asarray(rows.mute, bool)
    for place in np.asarray(rows.places)[~fit].tolist():
        report.sources[place].unfit += 1
    return tokens, fit


def _judge_lengths(rows: Rows, visual: np.ndarray, fit: np.ndarray, report: Report) -> None:
    ruler = rows.ruler
    report.room, report.rule = ruler.room, ruler.rule
    lengths = rows.lengths(visual)
    if not len(lengths):
        return
    report.lengths = lengths[fit]
    if ruler.room is not None:
        for number in np.flatnonzero(fit & (lengths > ruler.room)).tolist():
            report.long.add(f"longer than {ruler.room:,} tokens ({ruler.rule})", rows.names[number])


def _mix(subject: Subject, sources: dict[Role, list[Examined]], report: Report) -> None:
    """What the recipe would draw of the rows."""
    for role, opened in sources.items():
        if not opened:
            report.notes.append(
                f"no contamination is looked for: data.{role} is empty (--against names another recipe)"
            )
            continue
        drawn = [source for source in opened if isinstance(source, Source)]
        if subject.open is not None:
            continue
        mixture = Mixture(role, [], marks=marks_of(subject.data, role))
        try:
            for source, quota in zip(drawn, subject.data.quotas(role), strict=True):
                mixture.parts.append(source.part(source.uses(quota)))
            if not mixture.rows:
                raise DataError(f"data.{role}: no rows left, tasks {subject.data.tasks or 'all'}")
        except DataError as error:
            report.mixture_faults.append(str(error))
        report.mixtures.append(mixture)
