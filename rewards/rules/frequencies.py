"""Where the document frequency of the reward `caption` comes from: reference captions, or a file that was counted once.

    frequencies: {path: data/LEVIR-CC/LevirCCcaptions.json, split: train}     # a data source; no picture is opened
    frequencies: data/levir_cc.json                  # python launch/data.py RECIPE --frequencies FILE writes it

    {"documents": 6815, "counts": {"a road": 1203, "a road is": 310, …}, "consensus": 1.31}

A document is a picture, or a pair: rows of the same pictures are one, so that a file with one caption a row counts as
one with five. A source's pictures must be there, as rows name them; where they are not, a counted file does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rewards.rules.cider import ORDERS, Frequencies, consensus, counted
from samples import FORMATS, Sample, read
from samples.sections import FileSection, known_tasks
from stage.recipe import config
from vlm.answers import words
from vlm.common.errors import DataError, RecipeError
from vlm.common.files import replace
from vlm.common.section import LocatedPath, Section

TASK = "caption"
MOST = 2000
"""Documents that the consensus is taken from, evenly spaced: its standard error is some 1% then."""
NEEDED = (
    "reward 'caption' needs a fixed document frequency, for one drawn from the batch would change what a caption earns "
    "from step to step; write `frequencies: {path: …, format: …, split: train}` (reference captions, as a data source) "
    "or `frequencies: FILE.json` (`python launch/data.py RECIPE --frequencies FILE.json` counts the training captions)"
)
Document = list[list[str]]
"""Captions of one picture, as words."""


class CorpusSection(FileSection):
    """Reference captions; rows of other tasks are passed over."""

    unit = "rows"
    expected = "a file or folder with captions"

    path: LocatedPath
    "A file, a published folder, or a dataset of the hub: hub:OWNER/NAME."
    split: str | None = None
    "Which part of it; where the data has several."
    format: str | None = None
    "Format of the file; without it, detected from its contents."
    task: str | None = None
    "Task of every row, whatever the rows say themselves: caption."

    def check(self) -> None:
        super().check()
        if self.format is not None and self.format not in FORMATS:
            raise RecipeError(f"format = {self.format!r}; known formats: {', '.join(FORMATS)}")
        known_tasks("task", [] if self.task is None else [self.task])


class _Counted(Section):
    path: LocatedPath


def frequencies_of(stated: str | Mapping[str, Any] | None) -> tuple[Frequencies, str]:
    """What the option `frequencies` says, and where it is from. Raises: RecipeError, DataError."""
    where = "reward 'caption', frequencies"
    if stated is None:
        raise RecipeError(NEEDED)
    if isinstance(stated, str):
        path = config.build({"path": stated}, _Counted, where=where).path
        return load(Path(path)), path
    if not isinstance(stated, Mapping):
        raise RecipeError(f"{where}: found {stated!r}; {NEEDED}")
    section = config.build(dict(stated), CorpusSection, where=where)
    return of_samples(_samples(section), section.path), section.path


def of_samples(samples: Iterable[Sample], where: str) -> Frequencies:
    """Frequencies of the captions among samples. Raises: DataError where fewer than two pictures have some."""
    texts: dict[Any, set[str]] = {}
    for number, sample in enumerate(samples):
        if sample.task != TASK:
            continue
        said = texts.setdefault(tuple(sample.images) or number, set())
        said.update(sample.references or [sample.answer or ""])
    documents = [found for found in (_document(said) for said in texts.values()) if found]
    if len(documents) < 2:
        raise DataError(
            f"{where}: found {len(documents)} pictures with captions among the rows of the task {TASK!r}, expected two "
            "at least (hundreds, for frequencies that mean something)"
        )
    found = counted(documents)
    some = documents[:: -(-len(documents) // MOST)]
    return Frequencies(found.documents, found.counts, consensus(some, found))


def _document(texts: Iterable[str]) -> Document:
    """Sorted, for sums that do not depend on the order of a set."""
    return [tokens for tokens in map(words, sorted(texts)) if tokens]


def _samples(section: CorpusSection) -> Iterable[Sample]:
    found = read(
        section.path,
        section.format,
        section.images,
        section.task,
        verify_images=False,
        split=section.split,
        outside=section.outside,
        columns=section.columns,
    )
    return islice(found, section.limit)


def write(path: Path, found: Frequencies) -> None:
    """As JSON, n-grams in alphabetic order."""
    content = {"documents": found.documents, "consensus": found.consensus, "counts": dict(sorted(found.counts.items()))}
    replace(path, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def load(path: Path) -> Frequencies:
    """What `write` has written. Raises: DataError that names the file, the key, what was found and expected."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); {_EXPECTED}") from error
    if not isinstance(content, dict) or not {"documents", "counts"} <= content.keys() <= {*_KEYS}:
        shown = sorted(content)[:5] if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: found {shown}, {_EXPECTED}")
    documents, counts, human = (content.get(key) for key in _KEYS)
    if type(documents) is not int or documents < 2:
        raise DataError(f"{path}, documents: found {documents!r}, expected their number, two at least")
    if not isinstance(counts, dict) or not counts:
        raise DataError(f"{path}, counts: found {str(counts)[:40]}, expected n-grams with their numbers of documents")
    for ngram, count in counts.items():
        tokens = words(ngram)
        if not 1 <= len(tokens) <= len(ORDERS) or " ".join(tokens) != ngram:
            raise DataError(f"{path}, counts: found the n-gram {ngram!r}, expected 1 to 4 words in lower case")
        if type(count) is not int or not 1 <= count <= documents:
            raise DataError(f"{path}, counts, {ngram!r}: found {count!r}, expected 1 to {documents} documents")
    if human is not None and not (type(human) in (int, float) and 0 < human <= 10):
        raise DataError(f"{path}, consensus: found {human!r}, expected a CIDEr-D in (0, 10], or null")
    return Frequencies(documents, counts, human)


_KEYS = ("documents", "counts", "consensus")
_EXPECTED = (
    'expected {"documents": N, "counts": {"a road": 3, …}, "consensus": C or null}; reference captions are stated as '
    "`frequencies: {path: …}`"
)
