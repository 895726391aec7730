"""Texts: the format, exact answers, one option of several, and sets of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from rewards.registry import register
from rewards.rules.rows import Column, Inside, given, name_of, per_row, text_of
from vlm import answers
from vlm.common.errors import DataError


@register("format")
def format(prompts: Any = None, completions: Sequence[Any] = (), **columns: Any) -> list[float | None]:
    """1 where the completion keeps the R1 format (see vlm.answers.parse), else 0. Applies to every row."""
    return [float(answers.parse(text_of(completion)).well_formed) for completion in completions]


@register("exact_match")
def exact_match(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    task: Column = None,
    applies_to: Sequence[str] = ("vqa", "classification"),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """1 where the answer equals the row's once normalised, else 0. None where the row has no answer."""

    def judge(row: int, said: str) -> float | None:
        if answer is None or answer[row] is None:
            return None
        truth = answers.normalise(answer[row])
        return float(truth != "" and answers.normalise(said) == truth)

    return per_row("exact_match", completions, columns, task, applies_to, inside, judge)


@register("choice")
def choice(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    choices: Column = None,
    task: Column = None,
    applies_to: Sequence[str] = ("choice",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """1 where the answer names the same one of ``choices`` as the row's ``answer``, else 0.

    How an option is named: vlm.answers.option. Raises DataError where the row's own answer names none of its
    choices.
    """

    def judge(row: int, said: str) -> float | None:
        if not given("choice", row, task, columns, answer=answer, choices=choices):
            return None
        assert answer is not None and choices is not None
        truth = answers.option(answer[row], choices[row])
        if truth is None:
            raise DataError(f"{name_of(row, columns)}: answer {answer[row]!r} names none of the choices {choices[row]}")
        return float(answers.option(said, choices[row]) == truth)

    return per_row(
        "choice",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: choices is not None and answers.option(said, choices[row]) is not None,
    )


@register("label_set")
def label_set(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    answer: Column = None,
    choices: Column = None,
    task: Column = None,
    agreement: Literal["f1", "jaccard"] = "f1",
    vocabulary: Sequence[str] | None = None,
    applies_to: Sequence[str] = ("classification",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """How far the labels of the answer are those of the row's, in [0, 1]. None where the row has no answer.

    Labels stand between commas, semicolons or line breaks, in any order. Missing ones cost, and so do surplus ones,
    repeated ones, and ones that are not in the vocabulary.

    agreement: "f1": 2·hits / (said + true); "jaccard": hits / (said + true - hits).
    vocabulary: all labels there are; by default the row's ``choices``, whose letters name them, too. Where it is known,
    agreement counts from that of naming all of it, which earns 0 (and 1 is still 1); nothing is taken off where all
    are true. Raises DataError where the row's own labels are not in it.
    """

    def judge(row: int, said: str) -> float | None:
        if answer is None or answer[row] is None:
            return None
        known = vocabulary if vocabulary is not None else None if choices is None else choices[row]
        truth = set(_labels(answer[row], known))
        if None in truth:
            raise DataError(f"{name_of(row, columns)}: answer {answer[row]!r} has labels beyond {list(known or ())}")
        found = _labels(said, known)
        if not truth or not found:
            return 0.0
        value = _agreement(len(truth & set(found)), len(found), len(truth), agreement)
        echo = _agreement(len(truth), len(known), len(truth), agreement) if known else 0.0
        return value if echo >= 1 else max(0.0, (value - echo) / (1 - echo))

    def readable(row: int, said: str) -> bool:
        found = _labels(said, vocabulary if vocabulary is not None else None if choices is None else choices[row])
        return bool(found) and None not in found

    return per_row("label_set", completions, columns, task, applies_to, inside, judge, readable=readable)


def _labels(text: str, known: Sequence[str] | None) -> list[str | int | None]:
    """The labels of a text: normalised, or their places among the known ones, None for one that is not known."""
    parts = [part for part in re.split(r"[,;\n]", text) if answers.normalise(part)]
    if known is None:
        return [answers.normalise(part) for part in parts]
    return [answers.option(part, known) for part in parts]


def _agreement(hits: int, said: int, true: int, how: str) -> float:
    return 2 * hits / (said + true) if how == "f1" else hits / (said + true - hits)
