"""What is noted of each sample while the data is read, so that no later start must read all rows again to know it.

Few different facts occur, whatever the number of rows: a table keeps them once, and a number beside each row
(`samples.store`).
"""

from __future__ import annotations

import string
from typing import Any, Literal, NamedTuple, TypedDict

from samples.sample import Sample
from samples.store import Codec
from vlm import answers

OPTIONAL = ("answer", "boxes", "quads", "choices", "kind", "regions")
"""Fields of a Sample that rows may lack."""


class Facts(NamedTuple):
    task: str
    columns: tuple[str, ...] = ()
    "Names of its columns."
    values: tuple[str, ...] = ()
    "Those of them, and of OPTIONAL, that have a value."
    reply: Literal["", "bare", "tagged"] = ""
    "Whether it ends in an assistant's turn, with or without `<think>` and `<answer>` (`vlm.answers.parse`)."
    truth: Literal["", "text", "boxes"] = ""
    "Without such a turn: what the style `direct` writes it from."
    strip: bool = False
    "Whether its size is one that no Qwen2-VL takes (`vlm.shapes.smart_resize`)."
    shown: bool = False
    "Whether it has pictures."


def facts_of(sample: Sample) -> Facts:
    reply: Literal["", "bare", "tagged"] = ""
    truth: Literal["", "text", "boxes"] = ""
    if sample.messages and sample.messages[-1]["role"] == "assistant":
        reply = "tagged" if answers.parse(sample.messages[-1]["content"]).well_formed else "bare"
    elif answer_of(sample) is not None:
        truth = "text"
    elif truth_of(sample) is not None:
        truth = "boxes"
    size = sample.size
    strip = size is not None and max(size) > 200 * min(size)
    return Facts(sample.task, tuple(sample.columns or ()), values_of(sample), reply, truth, strip, bool(sample.images))


def values_of(sample: Sample) -> tuple[str, ...]:
    """`Facts.values` of a sample."""
    found = [name for name in OPTIONAL if getattr(sample, name) is not None]
    return (*found, *(name for name, value in (sample.columns or {}).items() if value is not None))


def remembered(found: dict[str, Any]) -> Sample:
    """A sample of its fields as JSON has them."""
    if (size := found.get("size")) is not None:
        found["size"] = tuple(size)
    return Sample(**found)


CODEC = Codec(remembered, facts_of, Facts._make)
"""Samples in tables."""


class Truth(TypedDict):
    """The boxes of a Sample that a reference is written from."""

    boxes: list[list[float]]
    quads: list[list[float]] | None
    size: tuple[int, int]


def truth_of(sample: Sample) -> Truth | None:
    """None of a sample without boxes, or whose size is not known."""
    if not sample.boxes or sample.size is None:
        return None
    return {"boxes": sample.boxes, "quads": sample.quads, "size": sample.size}


def answer_of(sample: Sample) -> str | None:
    """The reply of the style `direct` that stands in the truth as text: the answer, of a choice its letter.

    None where there is no such text, and for grounding, whose reply is its boxes.
    """
    if sample.answer is None or answers.blank(sample.answer) or sample.task == "grounding":
        return None
    if sample.choices and sample.task == "choice":
        place = answers.option(sample.answer, sample.choices)
        return None if place is None else string.ascii_uppercase[place]
    return sample.answer
