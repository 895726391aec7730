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
    ):
        self.section = section
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
        )

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.rows:
            task = sys.intern(sample.task)
            sample.source = self.section.name or sample.source
            self.read[task] += 1
            if self.wanted is not None and task not in self.wanted:
                continue
            self.tasks.append(task)
            if self.drawing:
                self.keys.append(draw_key(self.seed, sample))
            yield sample
            if len(self.tasks) == self.section.limit:
                self.rows.close()  # it tells what it has seen
                return

    def passed(self) -> Passed:
        """Once all rows are read."""
        names = sorted(set(self.tasks))
        number = {task: place for place, task in enumerate(names)}
        by = np.fromiter((number[task] for task in self.tasks), np.uint8, len(self.tasks))
        counts = (self.faults.skipped, self.faults.left_out.total())
        return Passed(self.section, self.wanted, self.read, names, by, lambda: np.asarray(self.keys), *counts)

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

    def uses(self, quota: int | None) -> np.ndarray:
        """Numbers of the rows, in the order in which the mixture uses them; `quota`: its part by ratio.

        Raises: DataError where a draw leaves nothing.
        """
        count, section = len(self.by), self.section
        if quota is not None:
            if not count:
                raise DataError(f"{section.path}: no rows to fill ratio = {section.ratio:g} with; {self._filters()}")
            passes, rest = divmod(quota, count)
            return np.concatenate([np.tile(np.arange(count), passes), drawn(self.keys(), rest)])
        kept = np.arange(count)
        if section.percent is not None:
            kept = drawn(self.keys(), percentage(section.percent, count))
            if not len(kept):
                raise DataError(
                    f"{section.path}: percent = {section.percent:g} of {count} rows is none; {self._filters()}"
                )
        return np.tile(kept, section.repeat)

    def _filters(self) -> str:
        wanted = "all" if self.wanted is None else ", ".join(sorted(self.wanted))
        return f"tasks: {wanted}, found {dict(self.read)}; raise it, or leave the source out"

    def part(self, uses: np.ndarray) -> Part:
        """What was read and used, by task."""
        times = np.bincount(uses, minlength=len(self.by))
        kept = np.bincount(self.by[times > 0], minlength=len(self.names)).tolist()
        rows = np.bincount(self.by, weights=times, minlength=len(self.names)).tolist()
        found = {task: (kept[n], round(rows[n])) for n, task in enumerate(self.names)}
        lines = [Line(task, self.read[task], *found.get(task, (0, 0))) for task in sorted(self.read)]
        return Part(self.section.path, lines, self.faulty, self.left_out)
