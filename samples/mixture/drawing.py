"""Reading sources, and drawing from them."""

from __future__ import annotations

import hashlib
import logging
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from samples import Faults, Sample, read
from samples.fingerprints import of_rows
from samples.mixture.record import Line, Mixture, Part
from samples.reading import Check
from samples.sections import DataSection, Role, SourceSection
from samples.shares import draw_key, drawn, percentage
from vlm.common.console import say
from vlm.common.errors import DataError, RecipeError

logger = logging.getLogger(__name__)


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

    def uses(self, quota: int | None) -> np.ndarray:
        """Numbers of the rows that passed, in the order in which the mixture uses them; `quota`: its part by ratio.

        Raises: DataError where a draw leaves nothing.
        """
        count, section = len(self.tasks), self.section
        if quota is not None:
            if not count:
                raise DataError(f"{section.path}: no rows to fill ratio = {section.ratio:g} with; {self._filters()}")
            passes, rest = divmod(quota, count)
            return np.concatenate([np.tile(np.arange(count), passes), drawn(self.keys, rest)])
        kept = np.arange(count)
        if section.percent is not None:
            kept = drawn(self.keys, percentage(section.percent, count))
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
        times = np.bincount(uses, minlength=len(self.tasks))
        kept: Counter[str] = Counter()
        rows: Counter[str] = Counter()
        for task, count in zip(self.tasks, times.tolist(), strict=True):
            kept[task] += count > 0
            rows[task] += count
        lines = [Line(task, self.read[task], kept[task], rows[task]) for task in sorted(self.read)]
        return Part(self.section.path, lines, self.faults.skipped, self.faults.left_out.total())


def draw(data: DataSection, role: Role, seed: int, check: Check | None = None) -> Mixture:
    """The rows of `data.train` or `data.eval`, checked; says which columns travel on.

    A source is held whole until its rows are drawn; the rest of it is then dropped. check: as in `samples.read`.
    Raises: DataError for a faulty row (under `on_fault: error`), a draw that leaves nothing, and an empty mixture.
    """
    sections = data.sources(role)
    mixture = Mixture(role, [])
    for section, quota in zip(sections, data.quotas(role), strict=True):
        source = Source(section, data, seed, data.on_fault, check=check)
        rows = list(source)
        _say_columns(source)
        uses = source.uses(quota)
        mixture.samples += [rows[number] for number in uses.tolist()]
        mixture.parts.append(_told_apart(source.part(uses), rows, uses))
        if source.faults.skipped or source.faults.objects:
            logger.warning("%s: %s", source.section.path, source.faults)
    if not mixture.rows:
        paths = [section.path for section in sections]
        raise DataError(f"data.{role}: no rows left; sources {paths}, tasks {data.tasks or 'all'}")
    return mixture


def _told_apart(part: Part, rows: list[Sample], uses: np.ndarray) -> Part:
    """The part with what tells its content apart. rows: all that passed; uses: numbers of those that are used."""
    path = Path(part.path)
    folder = (path if path.is_dir() else path.parent).absolute()
    used = hashlib.sha256(uses.astype("<i8").tobytes()).hexdigest()
    size = path.stat().st_size if path.is_file() else None
    return replace(part, bytes=size, digest=of_rows(rows, folder), used=used)


class KeyFaults(Faults):
    """Faults of a dry run: it may be made where pictures are not, but wrong keys and texts end it as they end a run."""

    ENDING = frozenset({"unknown_key", "other_key", "control_token", "empty_reply", "cut_picture", "cut_reply"})

    def add(self, kind: str, message: str) -> None:
        if kind in self.ENDING:
            raise DataError(message)
        super().add(kind, message)


def _say_columns(source: Source) -> None:
    for line in source.faults.columns_said():
        say(f"{source.section.path}: {line}")


def draw_all(data: DataSection, seed: int, check: Check | None = None) -> dict[Role, Mixture]:
    """`train`, and `eval` where the recipe names held-out data. Raises: as `draw`."""
    roles: list[Role] = ["train", "eval"] if data.eval else ["train"]
    return {role: draw(data, role, seed, check) for role in roles}


def count(
    data: DataSection,
    role: Role,
    seed: int,
    see: Callable[[Sample], object] | None = None,
    check: Check | None = None,
) -> Mixture:
    """The same without samples, for a dry run: faulty rows are left out and counted, images are not opened.

    see: is shown each row that the mixture uses, once. For it, a source is held whole where its rows are drawn.
    A file that is not here counts with its `limit`. Raises: RecipeError where neither file nor limit nor ratio says how
    many rows it gives; DataError as `draw`, but for faulty rows.
    """
    mixture = Mixture(role, [])
    for section, quota in zip(data.sources(role), data.quotas(role), strict=True):
        if section.path.startswith("hub:") or Path(section.path).exists():
            faults = KeyFaults() if data.on_fault == "error" else Faults()
            source = Source(section, data, seed, "skip", False, faults, check)
            held: list[Sample] = []
            take = held.append if see is not None and source.drawing else see
            for sample in source:
                if take is not None:
                    take(sample)
            uses = source.uses(quota)
            if see is not None and source.drawing:
                for number in np.unique(uses).tolist():
                    see(held[number])
            mixture.parts.append(source.part(uses))
            _say_columns(source)
        else:
            mixture.parts.append(_absent(section, quota, role))
    return mixture


def _absent(section: SourceSection, quota: int | None, role: Role) -> Part:
    if quota is not None:
        logger.warning("%s is not here; planning with the %d rows of its ratio", section.path, quota)
        return Part(section.path, [Line("?", section.limit or 0, min(quota, section.limit or quota), quota)])
    if section.limit is None:
        raise RecipeError(f"data.{role}: {section.path} is not here and has no `limit`; state one to plan with")
    logger.warning("%s is not here; planning with its limit of %d rows", section.path, section.limit)
    kept = section.limit if section.percent is None else percentage(section.percent, section.limit)
    return Part(section.path, [Line("?", section.limit, kept, kept * section.repeat)])
