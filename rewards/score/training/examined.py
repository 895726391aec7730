"""Preferences as the data doctor sees them (`samples.doctor`): a record is a row whose answers are its candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from rewards.score.training.preferences import Check, Preference, of_source
from rewards.score.training.recipe import PreferenceSource, ScoreRecipe
from samples import Faults, Sample
from samples.doctor.subject import Ruler, Subject, tokenizer_of
from vlm.common.errors import RecipeError
from vlm.sections import PromptSection
from vlm.shapes import sight_of

TASK = "preference"
"""What the report calls a record's task."""


class Records:
    """One source of preferences, while it is read."""

    def __init__(self, section: PreferenceSource, faults: Faults, check: Check | None = None):
        self.section, self.faults = section, faults
        self.tasks: list[str] = []
        self.read: Counter[str] = Counter()
        self.rows = of_source(section, "skip", faults, check=check)

    def __iter__(self) -> Iterator[Sample]:
        for record in islice(self.rows, self.section.limit):
            self.tasks.append(TASK)
            self.read[TASK] += 1
            yield as_row(record)


def as_row(record: Preference) -> Sample:
    return Sample(
        record.images,
        record.asked,
        TASK,
        answer=record.ranked[0],
        source=record.source,
        id=record.id,
        columns={"ranked": record.ranked},
    )


class ExchangeRuler(Ruler):
    """Measures a record by its longest exchange: the question with one candidate, no generation prompt."""

    def text_tokens(self, samples: Sequence[Sample]) -> list[int]:
        texts, ends = [], []
        for sample in samples:
            for text in (sample.columns or {})["ranked"]:
                turns = [*sample.messages, {"role": "assistant", "content": text}]
                texts.append(self.tokenizer.apply_chat_template(turns, tokenize=False))
            ends.append(len(texts))
        lengths = [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        return [max(lengths[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def subject(recipe: ScoreRecipe, check: Check | None = None) -> Subject:
    """The subject of a recipe for a score model. The tokenizer is loaded where it is at hand; no weights are."""
    sight = sight_of(recipe)
    ruler = ExchangeRuler(PromptSection(), sight)

    def opened(section: Any, faults: Faults) -> Records:
        return Records(section, faults, check)

    found = Subject(recipe.data, recipe.seed, ruler, sight, open=opened)
    try:
        ruler.tokenizer, ruler.room = tokenizer_of(recipe)
        ruler.rule = "the model's context"
    except RecipeError as error:
        ruler.note = f"row lengths are not measured: {error}"
        found.notes.append(ruler.note)
    return found
