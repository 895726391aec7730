"""One source while it is read, and what the draw needs of it."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from samples import Faults, Sample, read
from samples.mixture.marks import Marks, folder_of, row_key
from samples.mixture.record import Line, Part
from samples.reading import Check
from samples.sections import DataSection, SourceSection
from samples.shares import draw_key, drawn, percentage
from vlm.common.errors import DataError


class Source:
    """One source while it is read: iterate over it once for the samples that pass `tasks` and `limit`.

    Meanwhile it counts, and notes the little of each row that the draw needs.
    """

    def __init__(
        self,
        section: SourceSection,
        data: DataSection,
        seed: int,
        on_fault: Literal["error", "skip"],
        verify_images: bool = True,
        faults: Faults | None = None,
        check: Check | None = None,
        marks: Marks | None = None,
    ):
        """marks: by which rows are left out of what is used."""
        self.section = section
        self.marks = marks
        self.blind = array("B")
        "1 for each row that is left out by marks."
        self.unmarked = 0
        self.first_unmarked = ""
        self.wanted = data.wanted_tasks(section)
        self.seed = seed
        self.faults = Faults() if faults is None else faults
        self.read: Counter[str] = Counter()
        "Good rows by task, those of unwanted tasks included."
        self.tasks: list[str] = []
        "Task of each row that passed."
        self.drawing = section.percent is not None or section.ratio is not None
        "Which rows are used is known when all are read."
        self.keys = array("Q")
        self.rows = read(
            section.path,
            section.format,
            section.images,
            section.task,
            on_fault,
            self.faults,
            verify_images,
            section.split,
            section.outside,
            section.frame,
            section.columns,
            check,
            section.reading,
            section.classes,
            section.frames,
        )

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.rows:
            task = sys.intern(sample.task)
            sample.source = self.section.name or sample.source
            sample.written, sample.tooled = self.section.notation, None if self.section.tools else False
            self.read[task] += 1
            if self.wanted is not None and task not in self.wanted:
                continue
            self.tasks.append(task)
            if self.drawing:
                self.keys.append(draw_key(self.seed, sample))
            if self.marks is not None:
                self._see(sample, self.marks)
            yield sample
            if len(self.tasks) == self.section.limit:
                self.rows.close()  # it tells what it has seen
                return

    def _see(self, sample: Sample, marks: Marks) -> None:
        found = marks.of(row_key(sample, folder_of(self.section.path)))
        self.blind.append(found is True)
        if found is None:
            self.unmarked += 1
            self.first_unmarked = self.first_unmarked or f"{sample.source}/{sample.id}"

    def passed(self) -> Passed:
        """Once all rows are read. Raises: DataError where one has no mark."""
        blind = None
        if self.marks is not None:
            self.marks.refuse(self.section.path, len(self.tasks), self.unmarked, self.first_unmarked)
            blind = np.asarray(self.blind, bool)
        names = sorted(set(self.tasks))
        number = {task: place for place, task in enumerate(names)}
        by = np.fromiter((number[task] for task in self.tasks), np.uint8, len(self.tasks))
        counts = (self.faults.skipped, self.faults.left_out.total())
        return Passed(self.section, self.wanted, self.read, names, by, lambda: np.asarray(self.keys), *counts, blind)

    def uses(self, quota: int | None) -> np.ndarray:
        """`Passed.uses`."""
        return self.passed().uses(quota)

    def part(self, uses: np.ndarray) -> Part:
        """`Passed.part`."""
        return self.passed().part(uses)


@dataclass(frozen=True)
class Passed:
    """The rows of one source that passed `tasks` and `limit`, and what the draw needs of them."""

    section: SourceSection
    wanted: set[str] | None
    read: Counter[str]
    "Good rows by task, those of unwanted tasks included."
    names: list[str]
    "Their tasks, sorted."
    by: np.ndarray
    "The number in `names` of each row's task."
    keys: Callable[[], np.ndarray]
    "`draw_key` of each row."
    faulty: int
    left_out: int
    blind: np.ndarray | None = None
    "(rows,) whether each is left out by marks."

    def uses(self, quota: int | None) -> np.ndarray:
        """Numbers of the rows, in the order in which the mixture uses them; `quota`: its part by ratio.

        Raises: DataError where a draw leaves nothing.
        """
        kept = np.arange(len(self.by)) if self.blind is None else np.flatnonzero(~self.blind)
        count, section = len(kept), self.section
        if quota is not None:
            if not count:
                raise DataError(f"{section.path}: no rows to fill ratio = {section.ratio:g} with; {self._filters()}")
            passes, rest = divmod(quota, count)
            return np.concatenate([np.tile(kept, passes), kept[drawn(self.keys()[kept], rest)]])
        if section.percent is not None:
            kept = kept[drawn(self.keys()[kept], percentage(section.percent, count))]
            if not len(kept):
                raise DataError(
                    f"{section.path}: percent = {section.percent:g} of {count} rows is none; {self._filters()}"
                )
        return np.tile(kept, section.repeat)

    def _filters(self) -> str:
        wanted = "all" if self.wanted is None else ", ".join(sorted(self.wanted))
        blind = "" if self.blind is None else f", of which {int(self.blind.sum())} are left out by data.drop_blind"
        return f"tasks: {wanted}, found {dict(self.read)}{blind}; raise it, or leave the source out"

    def part(self, uses: np.ndarray) -> Part:
        """What was read and used, by task."""
        times = np.bincount(uses, minlength=len(self.by))
        kept = np.bincount(self.by[times > 0], minlength=len(self.names)).tolist()
        rows = np.bincount(self.by, weights=times, minlength=len(self.names)).tolist()
        out = np.zeros(0, bool) if self.blind is None else self.blind
        blind = np.bincount(self.by[: len(out)][out], minlength=len(self.names)).tolist()
        found = {task: (kept[n], round(rows[n]), blind[n]) for n, task in enumerate(self.names)}
        lines = [Line(task, self.read[task], *found.get(task, (0, 0, 0))) for task in sorted(self.read)]
        return Part(self.section.path, lines, self.faulty, self.left_out)
