"""Samples from files of all formats (`samples.readers.formats`).

Every row is checked; the kinds of faults: `samples.readers.rows`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from samples.readers.checks import TASKS, checked
from samples.readers.formats import FORMATS, Format, detect, listed
from samples.readers.look import Look
from samples.readers.rows import LeftOut, Place, RowFault
from samples.sample import Sample
from vlm.common.errors import DataError
from vlm.sections import RasterSection

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Faults:
    """What did not become a sample, and why. rows == kept + skipped + left_out.total(), after every row."""

    rows: int = 0
    kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    'Faulty rows that `on_fault="skip"` left out.'
    examples: dict[str, str] = field(default_factory=dict)
    "The first message of each kind."
    left_out: Counter[str] = field(default_factory=Counter)
    "Rows that ask nothing a task could score (an inactive stub, a formula): counted, never an error."
    cut: int = 0
    "Kept rows with a box that exceeded the image within its format's share, and was cut to it."

    @property
    def skipped(self) -> int:
        return self.kinds.total()

    def add(self, kind: str, message: str) -> None:
        self.kinds[kind] += 1
        self.examples.setdefault(kind, message)

    def leave(self, kind: str, message: str) -> None:
        self.left_out[kind] += 1
        self.examples.setdefault(kind, message)

    def __str__(self) -> str:
        parts = [f"{self.kept} kept", f"{self.skipped} skipped"]
        if self.left_out:
            parts.append(f"{self.left_out.total()} left out")
        lines = [f"{self.rows} rows = {' + '.join(parts)}"]
        for kind, count in [*self.kinds.most_common(), *self.left_out.most_common()]:
            lines.append(f"  {kind}: {count} (first: {self.examples[kind]})")
        if self.cut:
            lines.append(f"  in {self.cut} of the kept rows, boxes were cut to the image")
        return "\n".join(lines)


def read(
    path: str | os.PathLike[str],
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    task: str | None = None,
    on_fault: Literal["error", "skip"] = "error",
    faults: Faults | None = None,
    verify_images: bool = True,
    split: str | None = None,
    outside: bool = False,
    raster: RasterSection | None = None,
) -> Iterator[Sample]:
    """Samples of a file, a folder, or a dataset of the hub (`hub:OWNER/NAME`), in order; streamed.

    format: one of FORMATS, or None to tell by content where that is unambiguous. images: the folder that
    image names start from (default: what the format says, mostly the file's own). task: overrides the rows' tasks.
    on_fault: "skip" leaves faulty rows out and counts them in `faults`. verify_images: open every image's header,
    which also fills `size`; without it only where boxes need a size that the row does not state. split: which part of a
    folder or a hub dataset, where there are several. outside: rows may name images anywhere on this disk; otherwise
    only below their folder, and by absolute paths in our own JSONL (`samples.readers.rows.Place`). raster: how images
    with other bands than three or one of 8 bits are read.

    Raises: DataError, immediately for the file, its format or an unknown task; while iterating for a faulty row
    (naming file, row and field) and for a file that breaks off, or at the end where no row was good.
    """
    path = path if str(path).startswith("hub:") else Path(path)
    if task is not None and task not in TASKS:
        raise DataError(f"{path}: found the task {task!r} for this source, expected one of {', '.join(TASKS)}")
    if format is not None and format not in FORMATS:
        raise DataError(f"{path}: found the format {format!r}, expected one of:{listed(FORMATS)}")
    if on_fault not in ("error", "skip"):
        raise ValueError(f"on_fault is 'error' or 'skip', not {on_fault!r}")
    if images is not None and not os.path.isdir(images):
        raise DataError(f"{path}: the image folder {str(images)!r} does not exist")
    look = Look(path, split)
    chosen = detect(look) if format is None else FORMATS[format]
    _fits_path(look, chosen)
    faults = Faults() if faults is None else faults
    place = Place(look.home, images, outside, chosen.absolute and not look.is_table, raster)
    return _samples(look, chosen, place, task, on_fault, faults, verify_images)


def _fits_path(look: Look, format: Format) -> None:
    if look.is_folder and not format.folders:
        raise DataError(f"{look.path}: is a folder, expected a file of the format {format.name}: {format.about}")
    if look.split is not None and not (look.is_hub or (look.is_folder and format.splits)):
        raise DataError(f"{look.path}: found the split {look.split!r}, but {format.name} has none here; name its file")


def _samples(
    look: Look, format: Format, place: Place, task: str | None, on_fault: str, faults: Faults, verify: bool
) -> Iterator[Sample]:
    kept, others, first = 0, 0, ""
    stem = look.home.stem
    for where, row in look.each() if format.walk is None else format.walk(look):
        try:
            if isinstance(row, RowFault):
                raise row
            record = format.convert(row, place, task)
            sample = Sample(**checked(record, place, verify, format.overhang))
        except RowFault as fault:
            message = f"{look.path}, {look.unit(where)}, {fault}"
            if on_fault == "error" and not isinstance(fault, LeftOut):
                raise DataError(message) from fault
            others += 1
            first = first or message
            faults.rows += 1
            (faults.leave if isinstance(fault, LeftOut) else faults.add)(fault.kind, message)
            continue
        sample.source = sample.source or stem
        sample.id = sample.id or f"#{where}"
        faults.cut += format.overhang > 0 and sample.boxes != record.get("boxes") and sample.quads is None
        kept += 1
        faults.rows += 1
        faults.kept += 1
        yield sample
    if others:
        log.info("%s: %d of %d rows are no samples", look.path, others, kept + others)
    if not kept:
        why = "are faulty or ask nothing" if faults.left_out else "are faulty"
        said = f"all {others} rows {why}; {first}" if others else "no rows"
        raise DataError(f"{look.path}: {said}")
