"""Rows with candidates: our own JSONL (`samples`) with a list of texts to be compared.

    {"images": ["a.png"], "task": "caption", "question": "", "candidates": ["Two ships …", "A harbour …"], "id": "3"}
    {"images": ["b.png"], "task": "vqa", "question": "How many planes?", "answer": "4", "candidates": ["4", "five"]}

`question` is short for `messages` with one user turn. Tasks with a truth (vqa, choice, classification, grounding) need
it, as they do everywhere; write `"task": "open_ended"` to have such a question judged instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rewards.prefer.recipe import CandidateSource
from rewards.score.training.preferences import good_rows
from samples import Faults, Sample
from samples.facts import zoomed
from samples.fingerprints import of_pictures
from samples.readers.checks import checked, valid_text
from samples.readers.keys import Keys, check_names, renamed
from samples.readers.look import FIRST
from samples.readers.rows import Place, RowFault, Rows, show
from vlm.answers import blank
from vlm.common.errors import DataError
from vlm.pictures.places import named
from vlm.prompts import options_text, picture_names

logger = logging.getLogger(__name__)

MOST = 26
"""Candidates of one row: they are lettered for the judge."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question and the texts to be compared."""

    sample: Sample
    candidates: tuple[str, ...]
    "In the file's order, no text twice; one is left where all were the same."
    sizes: tuple[tuple[int, int], ...]
    "(width, height) in pixels of each image."

    @property
    def key(self) -> str:
        return f"{self.sample.source}/{self.sample.id}"

    @property
    def question(self) -> str:
        """What was asked, with the options where there are any and pictures named by their dates, as
        `Exchange.from_sample` puts it; a caption that answers no question stays without, as the reward `score` has it.
        """
        asked = next(turn["content"] for turn in self.sample.messages if turn["role"] == "user")
        asked = f"{asked}\n{options_text(self.sample.choices)}" if self.sample.choices else asked
        names = picture_names(self.sample, "dated") if asked.strip() else None
        return asked if names is None else named([{"role": "user", "content": asked}], names)[0]["content"]

    @property
    def fingerprint(self) -> str:
        """Changes with what the judge gets: a rating of other texts under the same key is not this row's."""
        shown = [
            hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else Path(image).name
            for image in self.sample.images
        ]
        asked = json.dumps([self.question, self.candidates, shown, self.sizes])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    @property
    def pictures(self) -> str:
        """Changes with the content of its picture files."""
        return of_pictures(self.sample.images)


def collect(sources: Sequence[CandidateSource], on_fault: str) -> list[Item]:
    """All rows of the sources. Raises: DataError for a faulty row, two rows of one key, or none at all."""
    items: dict[str, Item] = {}
    for source in sources:
        faults = Faults()
        for item in read(source, on_fault, faults):
            if item.key in items:
                raise DataError(
                    f"{source.path}: two rows are called {item.key}; give rows distinct ids, or each source a `name:`"
                )
            items[item.key] = item
        if faults.skipped:
            logger.warning("%s: %s", source.path, faults)
    if not items:
        raise DataError(f"data: no rows left of {', '.join(source.path for source in sources)}")
    return list(items.values())


def read(source: CandidateSource, on_fault: str, faults: Faults) -> Iterator[Item]:
    """The rows of one file, in order, images checked. Raises: DataError naming file, row and field."""
    path = Path(source.path)
    rows, place = Rows(path), Place(path, source.images, source.outside, True, source.reading)
    given = {} if source.task is None else {"task": source.task}
    check_names(source.columns, islice(rows.good(), FIRST), path)
    keys = Keys("nadir", source.columns, optional=("candidates",))

    def item(row: dict[str, Any], number: int) -> Item:
        found = _item(renamed(row, source.columns) | given, place, path.stem, number, keys)
        found.sample.source = source.name or found.sample.source
        return found

    return good_rows(rows, item, on_fault, faults, source.limit)


def _item(row: dict[str, Any], place: Place, stem: str, number: int, keys: Keys) -> Item:
    columns = keys.columns(row)
    keys.refuse(row)
    if "messages" not in row and "question" in row:
        row = row | {"messages": [{"role": "user", "content": row["question"]}]}
    row = keys.meant(row, row, place)
    sample = Sample(**checked(row, place, verify=True), columns=columns)
    if sum(turn["role"] == "user" for turn in sample.messages) > 1:
        raise RowFault("conversation", "messages", show(sample.messages), "one question: candidates answer one turn")
    if regions := zoomed(sample.messages):
        expected = "questions without: candidates are judged by the pictures of the row"
        raise RowFault("zoom", "messages.zoom", f"a turn that zooms into {regions[0]}", expected)
    sample.source, sample.id = sample.source or stem, sample.id or f"#{number}"
    return Item(sample, _candidates(row.get("candidates")), tuple(place.size(image) for image in sample.images))


def _candidates(value: Any) -> tuple[str, ...]:
    """The different texts; samples of one model may well be all the same, which is no fault."""
    expected = f"a list of 2 to {MOST} texts"
    if not isinstance(value, list):
        raise RowFault("missing_field" if value is None else "wrong_type", "candidates", show(value), expected)
    for text in value:
        said = "texts that are not blank, in valid Unicode"
        if blank(valid_text("candidates", text, said)):
            raise RowFault("wrong_type", "candidates", show(text), said)
        if "<image>" in text:
            raise RowFault("image_tag", "candidates", show(text), "no <image> tags: pictures stand in the question")
    distinct = tuple(dict.fromkeys(value))
    if len(value) < 2 or len(distinct) > MOST:
        raise RowFault("candidates", "candidates", f"{len(value)}, {len(distinct)} of them different", expected)
    return distinct
