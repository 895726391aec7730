"""What the selectors see of a question's answers: their texts, never their traces.

`readable` takes the answers out of the completions; `agreement` is what the majority goes by; `score_answers` asks a
scorer (the score model, CLIP-score, …). A completion without a readable answer is chosen only where all lack one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from rewards.score.model.exchange import Exchange
from rewards.score.scorer import Scorer
from rewards.values import plain
from samples import Sample
from samples.facts import asked_last
from vlm import answers, boxes, masks
from vlm.common.errors import DataError

Inside = Literal["answer", "text"]
T = TypeVar("T")


def readable(completion: str, inside: Inside) -> str | None:
    """The answer of a completion: what is in its one <answer> … </answer>, or the whole text; None where empty."""
    if inside == "answer":
        return answers.parse(completion).answer or None
    return None if answers.blank(completion) else completion.strip()


def agreement(
    sample: Sample,
    said: Sequence[str | None],
    notation: str,
    resized: tuple[int, int] | None = None,
    form: str = masks.DEFAULT_FORM,
) -> np.ndarray:
    """(M, M) in [0, 1]: how far two answers to a question agree; a row of zeros where an answer cannot be read.

    Grounding: IoU of the boxes, over the best one-to-one matching divided by the larger count; detection likewise,
    matched within each class, and two answers that find nothing agree. Segmentation: IoU of the masks. Choice: both
    name the same option. Else equality of `vlm.answers.normalise`. resized: size at which the model saw the picture.
    form: of masks (`prompt.masks`).
    """
    if sample.task == "segmentation":
        return _covers(sample, said, form, resized)
    if sample.task in ("grounding", "detection"):
        return _overlaps(sample, said, sample.written or notation, resized)
    forms = [_form(sample, text) for text in said]
    same: dict[str | int, list[int]] = {form: [] for form in forms if form is not None}
    for place, normal in enumerate(forms):
        if normal is not None:
            same[normal].append(place)
    table = np.zeros((len(said), len(said)))
    for places in same.values():
        table[np.ix_(places, places)] = 1.0
    return table


def _form(sample: Sample, text: str | None) -> str | int | None:
    """What two equal answers have in common: the option they name, or their normal form."""
    if text is None:
        return None
    option = answers.option(text, sample.choices) if sample.choices else None
    return option if option is not None else answers.normalise(text) or None


def _overlaps(sample: Sample, said: Sequence[str | None], notation: str, resized: tuple[int, int] | None) -> np.ndarray:
    if sample.size is None:
        raise DataError(f"{sample.source}, sample {sample.id}: no size, without which its boxes cannot be read")
    size = sample.size

    def read(text: str) -> tuple[dict[str, list[list[float]]], int] | None:
        if sample.task == "detection":
            return _by_class(boxes.read_detections(text, notation, size, resized, sample.classes))
        found = boxes.read_said(text, notation, size, resized)
        return None if found is None or not found.objects else ({"": found.boxes}, len(found))

    def shared(a: tuple[dict, int], b: tuple[dict, int]) -> float:
        matched = sum(sum(boxes.match_ious(a[0][name], b[0].get(name, []))) for name in a[0])
        return matched / max(a[1], b[1]) if a[1] or b[1] else 1.0

    return _compared(said, read, shared)


def _covers(sample: Sample, said: Sequence[str | None], form: str, resized: tuple[int, int] | None) -> np.ndarray:
    if sample.size is None:
        raise DataError(f"{sample.source}, sample {sample.id}: no size, without which its mask cannot be read")
    size, name = sample.size, asked_last(sample)

    def read(text: str) -> masks.Runs | None:
        found = masks.read_mask(text, form, size, resized, name)
        return found.runs() if found.readable else None

    def shared(a: masks.Runs, b: masks.Runs) -> float:
        both, union = masks.overlap(a, b)
        return both / union if union else 1.0

    return _compared(said, read, shared)


def _compared(
    said: Sequence[str | None], read: Callable[[str], T | None], shared: Callable[[T, T], float]
) -> np.ndarray:
    """The table of `agreement`: each distinct text is read once, each pair of them compared once."""
    distinct = {text: number for number, text in enumerate(dict.fromkeys(text for text in said if text is not None))}
    found = [read(text) for text in distinct]
    table = np.zeros((len(found) + 1, len(found) + 1))  # the last row and column: no answer at all
    for i, a in enumerate(found):
        if a is None:
            continue
        table[i, i] = 1.0
        for j, b in enumerate(found[:i]):
            if b is not None:
                table[i, j] = table[j, i] = shared(a, b)
    places = [distinct[text] if text is not None else len(found) for text in said]
    return table[np.ix_(places, places)]


def _by_class(said: boxes.Detected) -> tuple[dict[str, list[list[float]]], int] | None:
    """(boxes by what they are called, how many are stated); None for what cannot be read."""
    found: dict[str, list[list[float]]] = {}
    for one, box in zip(said.objects, said.boxes, strict=True):
        found.setdefault(one.label or "", []).append(box)
    return (found, len(said)) if said.readable else None


def score_answers(scorer: Scorer, sample: Sample, said: Sequence[str | None]) -> list[float]:
    """A score for each answer, -inf where there is none. Equal texts are scored once, and so are truly tied.

    Raises: DataError where the scorer gives NaN, an infinity, or another number of scores.
    """
    distinct = list(dict.fromkeys(text for text in said if text is not None))
    asked = [Exchange.from_sample(sample, text) for text in distinct]
    given = checked(scorer.score(asked), len(asked), f"{sample.source}/{sample.id}") if asked else []
    known = dict(zip(distinct, given, strict=True))
    return [-math.inf if text is None else known[text] for text in said]


def checked(given: Any, expected: int, what: str) -> list[float]:
    """What a scorer gives, as plain floats; refused, rather than ranked by, where it is broken. Raises: WrongValues,
    DataError."""
    scores = plain(given, expected, f"{what}: the scorer")
    odd = [score for score in scores if score is None or not math.isfinite(score)]
    if odd:
        raise DataError(
            f"{what}: the scorer gave {odd[0]}; expected finite numbers. Weights that overflow in float16 do this: "
            "load them in bfloat16 or float32"
        )
    return [score for score in scores if score is not None]
