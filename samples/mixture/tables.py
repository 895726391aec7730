"""A source as a table of checked samples (`samples.store`): read now, or by whoever came first."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from samples.facts import CODEC, Facts
from samples.fingerprints import RowDigest
from samples.mixture.marks import Marks, first_missing, folder_of, row_key
from samples.mixture.source import Passed, Source
from samples.reading import Check
from samples.sample import Sample
from samples.sections import DataSection, SourceSection
from samples.shares import draw_key
from samples.store import Identified, Key, Table, Writer, kept
from samples.store.keeping import alone
from vlm.common.console import say
from vlm.common.errors import DataError
from vlm.pictures import images

logger = logging.getLogger("samples.reading")
EVERY = 20.0
"""Seconds after which a first reading says how far it is."""


def stored(section: SourceSection, data: DataSection, seed: int, check: Check | None = None) -> Table[Sample]:
    """The samples that pass `tasks` and `limit`. What is known of them beside, in `about`:

    read, faulty, left_out  good rows by task, and the numbers of the others
    said, faults            what a run's first lines say of the columns, and of what was left out
    digest                  of all rows (`samples.fingerprints`)

    Raises: DataError for a faulty row.
    """

    def build(writer: Writer) -> dict[str, Any]:
        source = Source(section, data, seed, data.on_fault, check=check)
        digest = RowDigest(folder_of(section.path))
        heard = time.monotonic() + EVERY
        for number, sample in enumerate(source, 1):
            digest.see(sample)
            writer.add(sample)
            if not number % 1000 and time.monotonic() > heard:
                heard += EVERY
                say(f"{section.path}: {number:,} rows are read and checked")
        if source.drawing:
            writer.arrays[f"draw-{seed}"] = np.asarray(source.keys)
        faults = source.faults
        told.append(writer.count)
        counted.update(tally(check))
        return {
            "read": source.read,
            "faulty": faults.skipped,
            "left_out": faults.left_out.total(),
            "said": [f"{section.path}: {line}" for line in faults.columns_said()],
            "faults": str(faults) if faults.skipped or faults.objects else "",
            "notes": faults.notes,
            "digest": digest.hex(),
            "alone": faults.alone,
            "tally": counted - before,
        }

    told: list[int] = []
    before, counted = Counter(tally(check)), Counter[str]()
    found = kept(_key(section, data, check), build, CODEC, still)
    if not told:  # read before, and by another process
        for level, message in found.about["notes"]:
            logger.log(level, "%s", message)
        tally(check).update(found.about["tally"])
    return found


def tally(check: Check | None) -> Counter[str]:
    """What a check counts (`samples.store.Identified`)."""
    found: Counter[str] | None = getattr(check, "tally", None)
    return Counter() if found is None else found


def passed(
    table: Table[Sample], section: SourceSection, data: DataSection, seed: int, marks: Marks | None = None
) -> Passed:
    """What the draw needs of the table of a source. Raises: DataError where a row has no mark."""
    tasks = [Facts(*facts).task for facts in table.facts]
    names = sorted(set(tasks))
    by = np.array([names.index(task) for task in tasks], np.uint8)[table.kinds()]
    about, wanted = table.about, data.wanted_tasks(section)
    counts = (about["faulty"], about["left_out"])
    blind = None
    if marks is not None:
        blind, missing = marks.of_all(_row_keys(table, section))
        marks.refuse(section.path, len(table), int(missing.sum()), first_missing(missing, table))
    return Passed(section, wanted, Counter(about["read"]), names, by, lambda: _keys(table, seed), *counts, blind)


def _keys(table: Table[Sample], seed: int) -> np.ndarray:
    """`draw_key` of each row."""
    return _noted(table, f"draw-{seed}", lambda sample: draw_key(seed, sample))


def _row_keys(table: Table[Sample], section: SourceSection) -> np.ndarray:
    """`row_key` of each row."""
    folder = folder_of(section.path)
    return _noted(table, "row-keys", lambda sample: row_key(sample, folder))


def _noted(table: Table[Sample], name: str, of: Callable[[Sample], int]) -> np.ndarray:
    """A number below 2⁶⁴ of each row. They are noted: the next start has no need to read the rows for them."""
    with alone(table):
        if (found := table.array(name)) is None:
            table.note(name, np.fromiter(map(of, table), np.uint64, len(table)))
            found = table.array(name)
    assert found is not None
    return found


def _key(section: SourceSection, data: DataSection, check: Check | None) -> Key | None:
    """None where no file's bytes tell whether the rows are the same: of folders, and of checks that do not say what
    they refuse."""
    path = Path(section.path)
    if section.path.startswith("hub:") or not path.is_file() or not (check is None or isinstance(check, Identified)):
        return None
    wanted, raster = data.wanted_tasks(section), section.reading
    settings = {
        "path": section.path,
        "images": section.images and os.path.abspath(section.images),
        "raster": raster and raster.model_dump(mode="json"),
        "tasks": None if wanted is None else sorted(wanted),
        "on_fault": data.on_fault,
        "check": check and check.identity,
        "pixels": images.limit(),
    }
    names = ("format", "task", "split", "outside", "frame", "columns", "classes", "limit", "name", "notation", "tools")
    stated = {name: getattr(section, name) for name in (*names, "frames")}
    return Key(path, settings | stated, data.cache)


def still(sample: Sample) -> bool:
    """Whether the pictures of a sample can be read, and have the size that was checked."""
    try:
        sizes = [images.size(image) for image in sample.images if isinstance(image, str)]
    except DataError:
        return False
    bare = not sample.images or isinstance(sample.images[0], bytes)
    return bare or sizes[0] == sample.size
