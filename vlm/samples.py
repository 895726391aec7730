"""The one record of training and evaluation data, and reading it from files.

Our own JSONL holds one Sample per line, images relative to the file's folder or absolute, other keys ignored:

    {"images": ["images/3.png"], "task": "grounding", "boxes": [[10, 20, 90, 80]], "size": [112, 112],
     "messages": [{"role": "user", "content": "the red ship near the pier"}], "id": "3"}

Other layouts: `vlm.readers.conversations`. Every row is checked; the kinds of faults: `vlm.readers.rows`.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlm.errors import DataError
from vlm.readers import conversations
from vlm.readers.checks import TASKS, checked
from vlm.readers.rows import Place, RowFault, Rows

log = logging.getLogger(__name__)

FORMATS = {
    "nadir": "our JSONL, one Sample per line",
    "vg_dior": "conversations, boxes in pixels: [10,20,90,80]",
    "vhm": "conversations, boxes in per mille: [[012,025,112,100]]",
    "conversations": "conversations with text answers only",
    "sharegpt": "messages[{from, value}] and images[]",
}


@dataclass(slots=True)
class Sample:
    """One question about one or more images, with its reference."""

    images: list[str | bytes]
    "Absolute paths or encoded bytes, decoded by `vlm.images`; they stand before the first user text."
    messages: list[dict[str, str]]
    'Turns {"role", "content"}: user and assistant in turn, perhaps a system turn first; no "<image>" tags.'
    task: str
    "One of TASKS."
    answer: str | None = None
    "The reference answer: what stands inside <answer>…</answer>."
    boxes: list[list[float]] | None = None
    "x1, y1, x2, y2 in pixels of the original image, y down; the whole image is 0, 0, w, h."
    quads: list[list[float]] | None = None
    "x1, y1, …, x4, y4 around each object, likewise in pixels; `boxes` then go around them, cut to the image."
    size: tuple[int, int] | None = None
    "(width, height) in pixels of the first image, upright."
    choices: list[str] | None = None
    "Texts of the options in order A, B, C …"
    source: str = ""
    "Where it came from: the file's stem unless the row says otherwise."
    id: str = ""
    "Unique within its source: the row's own, else its number in the file."
    kind: str | None = None
    'The question type within the task ("count"); several are separated by commas.'


@dataclass(slots=True)
class Faults:
    """What `on_fault="skip"` left out. rows == kept + skipped, after every row."""

    rows: int = 0
    kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    "The first message of each kind."

    @property
    def skipped(self) -> int:
        return self.kinds.total()

    def add(self, kind: str, message: str) -> None:
        self.kinds[kind] += 1
        self.examples.setdefault(kind, message)

    def __str__(self) -> str:
        counts = "".join(f"\n  {kind}: {n} (first: {self.examples[kind]})" for kind, n in self.kinds.most_common())
        return f"{self.rows} rows = {self.kept} kept + {self.skipped} skipped{counts}"


def read(
    path: str | os.PathLike[str],
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    task: str | None = None,
    on_fault: Literal["error", "skip"] = "error",
    faults: Faults | None = None,
    verify_images: bool = True,
) -> Iterator[Sample]:
    """Samples of a file, in order.

    format: one of FORMATS, or None to tell by content where that is unambiguous. images: the folder that
    image names start from (default: the file's own). task: overrides the rows' tasks. on_fault: "skip" leaves
    faulty rows out and counts them in `faults`. verify_images: open every image's header, which also fills
    `size`; without it only where boxes need a size that the row does not state.

    Raises: DataError, at once for the file, its format or an unknown task; while iterating for a faulty row
    (naming file, row and field), or at the end where no row was good.
    """
    path = Path(path)
    if task is not None and task not in TASKS:
        raise DataError(f"{path}: found the task {task!r} for this source, expected one of {', '.join(TASKS)}")
    if format is not None and format not in FORMATS:
        raise DataError(f"{path}: found the format {format!r}, expected one of:{_formats(FORMATS)}")
    if on_fault not in ("error", "skip"):
        raise ValueError(f"on_fault is 'error' or 'skip', not {on_fault!r}")
    if images is not None and not os.path.isdir(images):
        raise DataError(f"{path}: the image folder {str(images)!r} does not exist")
    rows = Rows(path)
    format = format or _detect(rows)
    faults = Faults() if faults is None else faults
    return _samples(rows, format, Place(path, images), task, on_fault, faults, verify_images)


def _samples(
    rows: Rows, format: str, place: Place, task: str | None, on_fault: str, faults: Faults, verify: bool
) -> Iterator[Sample]:
    kept, skipped, first = 0, 0, ""
    unit = "row" if rows.items is not None else "line"
    for number, row in rows:
        try:
            if isinstance(row, RowFault):
                raise row
            record = row | ({} if task is None else {"task": task})
            if format != "nadir":
                record = conversations.convert(row, format, place, task)
            sample = Sample(**checked(record, place, verify))
            sample.source = sample.source or rows.path.stem
            sample.id = sample.id or f"#{number}"
        except RowFault as fault:
            message = f"{rows.path}, {unit} {number}, {fault}"
            if on_fault == "error":
                raise DataError(message) from fault
            skipped += 1
            faults.rows += 1
            faults.add(fault.kind, message)
            first = message if skipped == 1 else first
            continue
        kept += 1
        faults.rows += 1
        faults.kept += 1
        yield sample
    if skipped:
        log.info("%s: skipped %d of %d rows", rows.path, skipped, kept + skipped)
    if not kept:
        raise DataError(f"{rows.path}: all {skipped} rows are faulty; {first}" if skipped else f"{rows.path}: no rows")


def write(path: str | os.PathLike[str], samples: Iterable[Sample]) -> int:
    """Samples as our own JSONL; returns how many. Images below the file's folder are written relative to it.

    The file appears whole or not at all.
    """
    path = Path(path)
    folder, part, count = path.parent.absolute(), path.with_name(path.name + ".part"), 0
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(json.dumps(_row(sample, folder), ensure_ascii=False) + "\n")
            count += 1
    part.replace(path)
    return count


def _row(sample: Sample, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"images": [image_name(image, folder) for image in sample.images]}
    row |= {"messages": sample.messages, "task": sample.task}
    for name in ("answer", "boxes", "quads", "size", "choices", "source", "id", "kind"):
        value = getattr(sample, name)
        if value is not None and value != "":
            row[name] = value
    if sample.answer == "":
        row["answer"] = ""
    return row


def image_name(image: str | bytes, folder: Path) -> str:
    """How a row in `folder` (absolute) names an image: relative where it lies below, a data URL for bytes."""
    if isinstance(image, bytes):
        return "data:;base64," + base64.b64encode(image).decode()
    return Path(image).relative_to(folder).as_posix() if Path(image).is_relative_to(folder) else image


def _formats(names: Iterable[str]) -> str:
    return "".join(f"\n  {name}: {FORMATS[name]}" for name in names)


def _detect(rows: Rows) -> str:
    """The format of a file by its content. Raises DataError where several fit: frames are never guessed."""
    first = next((row for row in rows.good() if conversations.turns(row)), None)
    if first is None:
        keys = ", ".join(map(str, next(rows.good(), {}))) or "none"
        raise DataError(f"{rows.path}: unknown layout (keys of the first row: {keys}); formats are:{_formats(FORMATS)}")
    if "messages" not in first:
        boxed = any(map(conversations.boxed, rows.good()))
        fitting = ["vg_dior", "vhm", "conversations"] if boxed else ["conversations"]
    elif conversations.uses_from(first):
        fitting = ["sharegpt"]
    elif "task" in first:
        fitting = ["nadir"]
    else:  # role and content: a Sample that lacks its task, or ShareGPT
        fitting = ["sharegpt"] if rows.items is not None else ["nadir", "sharegpt"]
    if len(fitting) > 1:
        raise DataError(f"{rows.path}: the format cannot be told by content; name one of these:{_formats(fitting)}")
    return fitting[0]
