"""From the columns that TRL hands a reward to what the score model is asked: one `Candidate` per row of its tasks.

TRL calls a reward with flat lists in which the G completions of a prompt stand one after another. G is not handed over
and is not guessed: a **group** is a run of neighbouring rows with the same pictures, the same question, and the same
source, id, copy (which time a repeated row is drawn) and reference answer. (Where a prompt's completions are split over
processes, each reads its own part; `rewards.score.reward.shaping` puts them together.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.rules.rows import Inside, name_of, text_of
from rewards.score.model.exchange import Exchange
from rewards.score.reward.reference import ImageKeys, exchange_key
from vlm import answers
from vlm.common.errors import DataError, RecipeError
from vlm.pictures.places import texts

Columns = Mapping[str, Sequence[Any] | None]


@dataclass(slots=True)
class Candidate:
    """One completion of a row that the reward applies to."""

    row: int
    "Its place in the batch."
    exchange: Exchange | None
    "Pictures, question and *answer*, without the trace; None where the completion fails the format."
    reference: Exchange | None
    "The same with the reference answer, where the data has one."
    key: str
    "Of `exchange`; empty where that is None. Equal keys are scored once."
    reference_key: str
    "Of `reference`; empty where that is None."
    pictures: str
    "Digest of its pictures; empty without any."
    group: str
    "Digest of what its group has in common; neighbours with the same one are a group."


@dataclass(frozen=True, slots=True)
class Reader:
    """applies_to, inside: as for the rule rewards. ask: whether the question is scored with the answer; captions, the
    answers to an empty question, never have theirs. needs_reference: a row without a reference answer is refused."""

    applies_to: tuple[str, ...]
    inside: Inside
    ask: bool
    needs_reference: bool

    def read(self, prompts: Sequence[Any] | None, completions: Sequence[Any], columns: Columns) -> list[Candidate]:
        """Candidates in the order of their rows.

        Raises: RecipeError where a row's picture would not reach the score model; DataError where its reference
        answer is missing.
        """
        image_keys, candidates = ImageKeys(), []
        task = columns.get("task")
        for row, completion in enumerate(completions):
            if task is not None and task[row] not in self.applies_to:
                continue
            turns, pictures = self._asked(row, prompts, columns)
            truth = self._truth(row, columns)
            if truth is None and self.needs_reference:
                continue
            said = self._said(completion)
            exchange = None if said is None else _exchange(turns, said, pictures)
            reference = None if truth is None else _exchange(turns, truth, pictures)
            keys = [exchange_key(e, image_keys) if e else "" for e in (exchange, reference)]
            seen = " ".join(map(image_keys, pictures))
            common = (seen, turns, truth, *(_value(columns, name, row) for name in ("source", "id", "copy")))
            group = hashlib.sha256(repr(common).encode()).hexdigest()
            candidates.append(Candidate(row, exchange, reference, *keys, seen, group))
        return candidates

    def _said(self, completion: Any) -> str | None:
        """The text to be scored; None where the completion fails the format."""
        text = text_of(completion)
        if self.inside == "text":
            return None if answers.blank(text) else text.strip()
        parsed = answers.parse(text)
        return parsed.answer if parsed.well_formed else None

    def _truth(self, row: int, columns: Columns) -> str | None:
        truth = _value(columns, "answer", row)
        if truth is not None and not answers.blank(truth):
            return truth.strip()
        if self.needs_reference and columns.get("task") is not None:
            raise DataError(
                f"{name_of(row, columns)}: the reward 'score' measures an answer against the reference answer, and the "
                f"field 'answer' is {truth!r}; add it to the data, or use the variant rank"
            )
        return None

    def _asked(self, row: int, prompts: Sequence[Any] | None, columns: Columns) -> tuple[list[dict], list[Any]]:
        """The turns before the answer, without system turns, and the pictures."""
        prompt = prompts[row] if prompts is not None else ""
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        pictures = _pictures(row, turns, columns)
        if not self.ask or _value(columns, "task", row) == "caption":
            return [{"role": "user", "content": ""}], pictures
        return [turn for turn in texts(turns) if turn["role"] != "system"], pictures


def _exchange(turns: Iterable[dict], answer: str, pictures: Iterable[Any]) -> Exchange:
    return Exchange((*turns, {"role": "assistant", "content": answer}), tuple(pictures))


def _pictures(row: int, turns: Sequence[Mapping[str, Any]], columns: Columns) -> list[Any]:
    """The row's pictures: the column `images` (or `image`), else those in the prompt's own blocks.

    Raises RecipeError where the prompt speaks of a picture that is not there: the answer would be scored blind.
    """
    blocks = [b for turn in turns if not isinstance(turn["content"], str) for b in turn["content"]]
    shown = [block for block in blocks if block["type"] == "image"]
    single = _value(columns, "image", row)
    found = list(_value(columns, "images", row) or ([single] if single is not None else []))
    found = found or [block["image"] for block in shown if block.get("image") is not None]
    file = _value(columns, "image_file", row)
    expected = len(shown) or int(file is not None)
    if len(found) < expected:
        raise RecipeError(
            f"reward 'score': {name_of(row, columns)}: the prompt has {expected} image(s)"
            f"{f' ({file})' if file else ''}, but {len(found)} would reach the score model, which would judge the "
            "answer without looking; hand the pictures over in the column 'images'"
        )
    return found


def _value(columns: Columns, name: str, row: int) -> Any:
    column = columns.get(name)
    return None if column is None else column[row]
