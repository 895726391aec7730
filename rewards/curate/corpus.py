"""One file of the corpus: its rows by number, as samples, as what is scored of them, and written back as they were."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rewards.score.model.exchange import Exchange
from samples import Sample
from samples.facts import truth_of, zoomed
from samples.readers.formats import FORMATS, detect
from samples.readers.keys import check_names, renamed
from samples.readers.look import FIRST, Look
from samples.readers.rows import Place, RowFault, Rows
from samples.reading import Check, RowReader
from samples.rows import reference
from samples.sections import SourceSection
from stage.parallel.journal import encoded
from vlm.boxes import write_boxes
from vlm.common.errors import DataError
from vlm.common.files import replacing
from vlm.prompts import replied


class Source:
    """A data file that is read by row, never whole.

    Raises: DataError where the file is missing, its format cannot be detected, or is no list of rows that could be
    written back in part.
    """

    def __init__(self, section: SourceSection, check: Check | None = None):
        """check: raises RowFault for a sample that the scorer cannot take."""
        self.section = section
        self.path = Path(section.path)
        look = Look(self.path, columns=section.columns)
        if section.columns and look.rows is not None:
            check_names(section.columns, islice(look.rows.good(), FIRST), self.path)
        if section.images is not None and not os.path.isdir(section.images):
            raise DataError(f"{self.path}: the image folder {section.images!r} does not exist")
        self.format = FORMATS[section.format] if section.format else detect(look)
        if self.format.walk is not None or not isinstance(look.rows, Rows):
            raise DataError(f"{self.path}: {self.format.name} cannot be curated by row; expected a JSON list or JSONL")
        self.rows = look.rows
        # one for all rows: it remembers which keys are no slips
        self.reader = RowReader(
            self.format, self._place(), section.task, True, section.columns, check, frame=section.frame
        )

    def _place(self) -> Place:
        """A Place remembers the size of every image it saw: one for the whole corpus would hold all their names."""
        section = self.section
        return Place(self.path, section.images, section.outside, self.format.absolute, section.reading)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
        """(number from 1, row or fault) up to the section's limit, which counts rows of the file."""
        yield from islice(self.rows, self.section.limit)

    def sample(self, number: int, row: dict[str, Any] | RowFault) -> Sample:
        """A row, checked as `samples.read` does. Raises: RowFault, also for one that zooms. Of image files the headers
        are read."""
        if not isinstance(row, RowFault):
            row = renamed(row, self.section.columns)
        sample, _ = self.reader.sample(row, self._place())
        sample.source = self.section.name or sample.source or self.path.stem
        sample.id = sample.id or f"#{number}"
        if regions := zoomed(sample.messages):
            expected = "conversations without: a scorer sees no crops; leave these rows out"
            raise RowFault("zoom", "messages.zoom", f"a turn that zooms into {regions[0]}", expected)
        return sample

    def where(self, number: int) -> str:
        """How messages name a row."""
        return f"{self.path}, {self.rows.unit} {number}"


def exchange(sample: Sample, notation: str) -> Exchange:
    """What is scored of a row: the whole conversation, the reference answer last.

    Of a reference with a trace the answer alone counts. Boxes are written in `notation`, those of detection with what
    the objects are called, or that there are none.
    Raises: DataError where there is no answer; RecipeError for a notation without names, of detection.
    """
    answer = sample.answer
    if answer is None and sample.task == "segmentation" and not _answered(sample):
        raise DataError(
            f"{sample.source}, sample {sample.id}: its reference is a mask, which no score model reads; expected an "
            "answer in words: leave these rows out (data.tasks), or write the mask as `answer`"
        )
    if answer is None and sample.task == "detection" and not _answered(sample):
        truth = truth_of(sample)
        answer = None if truth is None else reference(truth, notation, None)["content"]
    elif answer is None and sample.boxes and sample.size and not _answered(sample):
        answer = write_boxes(sample.boxes, notation, sample.size)
    return Exchange.from_sample(sample, answer)


def _answered(sample: Sample) -> bool:
    return replied(sample.messages) < len(sample.messages)


def write(path: Path, rows: Iterable[dict[str, Any]], as_list: bool) -> int:
    """Rows as a JSON list (one row a line) or as JSONL; returns how many. The file appears whole or not at all."""
    count = 0
    with replacing(path) as file:
        for row in rows:
            if as_list:
                file.write(b",\n" if count else b"[\n")
            file.write(encoded(row) + (b"" if as_list else b"\n"))
            count += 1
        if as_list:
            file.write(b"\n]\n" if count else b"[]\n")
    return count
