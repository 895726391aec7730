"""Samples from files of all formats (`samples.readers.formats`).

Every row is checked; the kinds of faults: `samples.readers.rows`.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from samples.facts import zoomed
from samples.readers.checks import TASKS, checked
from samples.readers.detection.objects import TASK as DETECTION
from samples.readers.detection.objects import restricted
from samples.readers.formats import FORMATS, Format, detect, listed
from samples.readers.frames import FRAMES, Frames, in_pixels, zooms_of
from samples.readers.keys import Keys, check_names
from samples.readers.look import FIRST, Look
from samples.readers.rows import LeftOut, Place, RowFault
from samples.sample import Sample
from vlm.boxes import spoken
from vlm.common.errors import DataError
from vlm.sections import RasterSection

log = logging.getLogger(__name__)
AHEAD = 500
"""Rows behind a box that is no box in pixels, in which one looks for the frame."""
Check = Callable[[Sample], None]
"""Raises RowFault for a sample that a stage cannot take (a control token of its model's in a text). With `identity`, a
text that tells apart what it refuses, what passed it is kept (`samples.store`)."""


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
    """Kept rows with a box that exceeded the image within its format's share, or a region or zoom that did: it was cut
    to it."""
    objects: Counter[str] = field(default_factory=Counter)
    """Objects left out of rows that are kept: without area (`flat_object`), wholly outside (`object_outside`), of
    classes that are not asked for (`other_class`)."""
    frames: Frames = field(default_factory=Frames)
    "What the boxes look like, where no frame is declared."
    sized: bool = True
    "Whether the row that was kept last states the size of its image."

    swapped: int = 0
    "Names of pictures whose files have another suffix (`.jpg` in the row, `.png` in the folder)."
    travelling: dict[str, None] = field(default_factory=dict)
    "Columns that are no field of ours and travel on to rewards, in order (`samples.readers.keys`)."
    staying: dict[str, None] = field(default_factory=dict)
    "Columns that cannot, for training uses their names itself."

    notes: list[tuple[int, str]] = field(default_factory=list)
    "What was logged of the source: level and text."
    alone: bool = True
    "Whether the rows are those of the one file that was named; else it was walked over others, too."

    @property
    def skipped(self) -> int:
        return self.kinds.total()

    def note(self, level: int, message: str) -> None:
        self.notes.append((level, message))
        log.log(level, "%s", message)

    def add(self, kind: str, message: str) -> None:
        self.kinds[kind] += 1
        self.examples.setdefault(kind, message)

    def leave(self, kind: str, message: str) -> None:
        self.left_out[kind] += 1
        self.examples.setdefault(kind, message)

    def drop(self, kind: str, message: str) -> None:
        self.objects[kind] += 1
        self.examples.setdefault(kind, message)

    def columns_said(self) -> list[str]:
        """What a run's first lines say of the columns."""
        said = []
        if self.travelling:
            said.append(f"columns that travel on: {', '.join(self.travelling)}")
        if self.staying:
            hint = "training uses these names itself; `columns:` of the source renames them"
            said.append(f"columns that stay behind: {', '.join(self.staying)} ({hint})")
        return said

    def __str__(self) -> str:
        parts = [f"{self.kept} kept", f"{self.skipped} skipped"]
        if self.left_out:
            parts.append(f"{self.left_out.total()} left out")
        lines = [f"{self.rows} rows = {' + '.join(parts)}"]
        for kind, count in [*self.kinds.most_common(), *self.left_out.most_common()]:
            lines.append(f"  {kind}: {count} (first: {self.examples[kind]})")
        for kind, count in self.objects.most_common():
            lines.append(f"  {kind}: {count} objects left out of kept rows (first: {self.examples[kind]})")
        if self.cut:
            lines.append(f"  in {self.cut} of the kept rows, boxes or regions were cut to the image")
        if self.swapped:
            lines.append(f"  {self.swapped} names of pictures have another suffix than their files")
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
    frame: str | None = None,
    columns: Mapping[str, str] | None = None,
    check: Check | None = None,
    raster: RasterSection | None = None,
    classes: Sequence[str] | None = None,
    frames: int | None = None,
) -> Generator[Sample, None, None]:
    """Samples of a file, a folder, or a dataset of the hub (`hub:OWNER/NAME`), in order; streamed.

    format: one of FORMATS, or None to tell by content where that is unambiguous. images: the folder that
    image names start from (default: what the format says, mostly the file's own). task: overrides the rows' tasks.
    on_fault: "skip" leaves faulty rows out and counts them in `faults`. verify_images: open every image's header,
    which also fills `size`; without it only where boxes need a size that the row does not state. split: which part of a
    folder or a hub dataset, where there are several. outside: rows may name images anywhere on this disk; otherwise
    only below their folder, and by absolute paths in our own JSONL (`samples.readers.rows.Place`). frame: of the boxes,
    one of `samples.readers.frames.FRAMES`, in formats that leave it open; without it they are pixels, and a file whose
    boxes all look like another frame is refused from 50 boxes on, and warned of below. columns: our name of a key ← the
    file's. check: raises RowFault for samples that the caller cannot take. raster: how images with other bands than
    three or one of 8 bits are read. classes: what rows of detection ask for, instead of all classes of the data;
    objects of others leave their rows and are counted. frames: how many pictures of a series a row shows at most.

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
    wanted = None if classes is None else stated(classes, path)
    look = Look(path, split, columns, wanted)
    if columns and look.rows is not None:
        check_names(columns, islice(look.rows.good(), FIRST), path)
    chosen = detect(look) if format is None else FORMATS[format]
    _fits_path(look, chosen)
    _fits_frame(look, chosen, frame)
    if wanted is not None and not chosen.detects:
        raise DataError(f"{look.path}: found classes: {wanted}, {undetected(chosen)}")
    if frames is not None and (why := unthinned(chosen, frames)):
        raise DataError(f"{look.path}: found frames: {frames}, {why}")
    faults = Faults() if faults is None else faults
    faults.alone = chosen.walk is None
    place = Place(look.home, images, outside, chosen.absolute and not look.is_table, raster, frames)
    reader = RowReader(chosen, place, task, verify_images, columns, check, frame, on_fault == "skip", wanted)
    return _samples(look, reader, on_fault, faults)


def _fits_frame(look: Look, format: Format, frame: str | None) -> None:
    if frame is None:
        return
    if frame not in FRAMES:
        raise DataError(f"{look.path}: found the frame {frame!r}, expected one of {', '.join(FRAMES)}")
    if not format.any_frame:
        raise DataError(f"{look.path}: found frame: {frame}, {fixed(format)}")


def fixed(format: Format) -> str:
    """Why a source of this format has no `frame:`."""
    open_ones = ", ".join(one.name for one in FORMATS.values() if one.any_frame)
    return f"but {format.name} fixes the frame of its boxes: {format.about}; leave `frame` out (it is for {open_ones})"


def undetected(format: Format) -> str:
    """Why a source of this format has no `classes:`."""
    names = ", ".join(one.name for one in FORMATS.values() if one.detects)
    return f"but rows of {format.name} are not of detection; leave `classes` out (it is for {names})"


def unthinned(format: Format, frames: int) -> str:
    """Why a source of this format has no such `frames:`; "" where it may."""
    if frames < 2:
        return "expected 2 at least: the first and the last picture"
    names = ", ".join(one.name for one in FORMATS.values() if one.series)
    return "" if format.series else f"but rows of {format.name} are no series; leave `frames` out (it is for {names})"


def stated(classes: Sequence[str], where: Any) -> list[str]:
    """The classes that a source states, in words, sorted. Raises: DataError for none, one without words, and for one
    that stands twice."""
    words = [spoken(name) for name in classes]
    if not words or not all(name[:1].isalpha() and "," not in name for name in words):
        raise DataError(
            f"{where}: found classes: {list(classes)}, expected names without commas: [plane, storage tank]"
        )
    twice = [name for name, count in Counter(words).items() if count > 1]
    if twice:
        raise DataError(f"{where}: found classes: {list(classes)}, in which {twice[0]!r} stands twice; keep one")
    return sorted(words)


def _fits_path(look: Look, format: Format) -> None:
    if look.is_folder and not format.folders:
        raise DataError(f"{look.path}: is a folder, expected a file of the format {format.name}: {format.about}")
    if look.split is not None and not (look.is_hub or (look.is_folder and format.splits) or format.row_splits):
        raise DataError(f"{look.path}: found the split {look.split!r}, but {format.name} has none here; name its file")


class RowReader:
    """Rows of one source → samples, each checked."""

    def __init__(
        self,
        format: Format,
        place: Place,
        task: str | None = None,
        verify: bool = True,
        columns: Mapping[str, str] | None = None,
        check: Check | None = None,
        frame: str | None = None,
        skip: bool = False,
        classes: list[str] | None = None,
    ):
        """frame: of the boxes, where it is declared. skip: objects without area leave their rows, and do not refuse
        them. classes: of rows of detection, in words, sorted; objects of others leave their rows."""
        self.format, self.place, self.task, self.verify, self.check = format, place, task, verify, check
        self.frame, self.skip, self.classes = frame, skip, classes
        self.objects = Counter[str]()
        "Objects of detection by class, where classes are stated: of those, and of others, which were left out."
        self.keys = Keys(format.name, columns)
        self.frames: Frames | None = None
        "Is shown the boxes of each row, where no frame is declared."
        self.sized = True
        "Whether the row that was read last states the size of its image."

    def record(self, row: dict[str, Any] | RowFault, place: Place) -> dict[str, Any]:
        """What a row says in our words, boxes in the file's frame. Raises: RowFault."""
        if isinstance(row, RowFault):
            raise row
        self.keys.refuse(row)
        return self.keys.meant(row, self.format.convert(row, place, self.task), place)

    def sample(self, row: dict[str, Any] | RowFault, place: Place | None = None) -> tuple[Sample, bool]:
        """(the sample, whether boxes, regions or zooms of it were cut to the image). Raises: RowFault."""
        place = place or self.place
        place.dropped = []
        columns = None if isinstance(row, RowFault) else self.keys.columns(row)
        record = self.record(row, place)
        assert not isinstance(row, RowFault)
        if self.frame is not None:
            record = in_pixels(record, self.frame, place)
        elif self.frames is not None:
            self.frames.see(record, place)
            if self.frames.certain:
                raise Doubtful
        flat = self.format.flat is not None and self.format.flat(row)
        found = checked(record, place, self.verify, self.format.overhang, flat, self.skip)
        boxes = found["boxes"]
        if self.classes is not None and found["task"] == DETECTION:
            self.objects.update(found["labels"])
            found = restricted(found, self.classes, place)
        sample = Sample(**found, columns=columns)
        if self.check is not None:
            self.check(sample)
        self.sized = record.get("size") is not None
        cut = self.format.overhang > 0 and boxes != record.get("boxes") and sample.quads is None
        cut = cut or sample.regions != (record.get("regions") or None)
        return sample, cut or zoomed(sample.messages) != zooms_of(record)


class Doubtful(Exception):
    """The boxes seen are in another frame than pixels."""


def _samples(look: Look, reader: RowReader, on_fault: str, faults: Faults) -> Generator[Sample, None, None]:
    kept, others, first = 0, 0, ""
    stem, format, place, frame = look.home.stem, reader.format, reader.place, reader.frame
    watching = format.any_frame and frame is None
    reader.frames = faults.frames if watching else None
    faults.travelling, faults.staying = reader.keys.travelling, reader.keys.staying
    rows = iter(look.each() if format.walk is None else format.walk(look))
    try:
        for where, row in rows:
            try:
                sample, cut = reader.sample(row)
            except Doubtful:
                raise DataError(f"{look.path}: {faults.frames}") from None
            except RowFault as fault:
                message = f"{look.path}, {look.unit(where)}, {fault}"
                if frame not in (None, "pixel") and fault.kind.startswith("box_"):
                    message += f" (in pixels, from frame: {frame})"
                if on_fault == "error" and not isinstance(fault, LeftOut):
                    if watching and fault.kind in ("box_inverted", "box_outside"):
                        message += _hint(rows, reader, faults.frames)
                    raise DataError(message) from fault
                others += 1
                first = first or message
                faults.rows += 1
                (faults.leave if isinstance(fault, LeftOut) else faults.add)(fault.kind, message)
                continue
            sample.source = sample.source or stem
            sample.id = sample.id or f"#{where}"
            faults.cut += cut
            for kind, said in place.dropped:
                faults.drop(kind, f"{look.path}, {look.unit(where)}, {said}")
            kept += 1
            faults.rows += 1
            faults.kept += 1
            faults.sized = reader.sized
            try:
                yield sample
            except GeneratorExit:  # a limit: what was read is all there is to tell
                _doubt(look, faults)
                raise
        _doubt(look, faults)
    finally:  # also where no more rows are wanted
        faults.alone = faults.alone and place.alone
        if said := _absent(reader):
            faults.note(logging.WARNING, f"{look.path}: {said}")
        for said, count in place.told.items():
            faults.note(logging.WARNING, f"{look.path}: {count} {said}")
        faults.swapped += place.swaps
        if place.swaps:
            found = f"{place.swaps} names of pictures have another suffix than their files (the first: {place.swap})"
            faults.note(logging.WARNING, f"{look.path}: {found}; those files are used")
    if others:
        faults.note(logging.INFO, f"{look.path}: {others} of {kept + others} rows are no samples")
    if not kept:
        why = "are faulty or ask nothing" if faults.left_out else "are faulty"
        said = f"all {others} rows {why}; {first}" if others else "no rows"
        raise DataError(f"{look.path}: {said}")


def _absent(reader: RowReader) -> str:
    """Which of the classes that were stated no object has; "" for none."""
    classes, seen = reader.classes or [], reader.objects
    absent = [name for name in classes if not seen[name]]
    if not absent:
        return ""
    others = ", ".join(f"{name} ({count})" for name, count in seen.most_common() if name not in classes) or "none"
    return f"no object of the rows read is of the classes {', '.join(absent)}; others that were left out: {others}"


def _doubt(look: Look, faults: Faults) -> None:
    if said := str(faults.frames):
        faults.note(logging.WARNING, f"{look.path}: {said}")


def _hint(rows: Iterator[tuple[int | str, dict[str, Any] | RowFault]], reader: RowReader, frames: Frames) -> str:
    """What the boxes of the next rows look like, for the message about one that is no box in pixels."""
    for _, row in islice(rows, AHEAD):
        try:
            frames.see(reader.record(row, reader.place), reader.place)
        except RowFault:
            continue
    return f". In these {frames}" if str(frames) else ""
