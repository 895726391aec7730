"""What is noted of each sample while the data is read, so that no later start must read all rows again to know it.

Few different facts occur, whatever the number of rows: a table keeps them once, and a number beside each row
(`samples.store`).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypedDict

from samples.sample import DETECTED, Sample
from samples.store import Codec
from vlm import answers, prompts
from vlm.boxes.asking import Drawn as Asked

OPTIONAL = ("answer", "boxes", "quads", "choices", "kind", "regions", "mask", "dates", *DETECTED)
"""Fields of a Sample that rows may lack."""


PLACES = ("grounding", "detection", "segmentation")
"""Tasks whose reply says where something is."""


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
    zooms: Literal["", "reply", "asked"] = ""
    "Whether turns of it zoom: in the reply at its end alone, or in what is asked, too."


def facts_of(sample: Sample) -> Facts:
    reply: Literal["", "bare", "tagged"] = ""
    truth: Literal["", "text", "boxes"] = ""
    first = prompts.replied(sample.messages)
    if first < len(sample.messages):
        reply = "tagged" if answers.parse(sample.messages[-1]["content"]).well_formed else "bare"
    elif answer_of(sample) is not None:
        truth = "text"
    elif truth_of(sample) is not None:
        truth = "boxes"
    size = sample.size
    strip = size is not None and max(size) > 200 * min(size)
    zooms: Literal["", "reply", "asked"] = "reply" if zoomed(sample.messages[first:]) else ""
    if zoomed(sample.messages[:first]):
        zooms = "asked"
    columns = tuple(sample.columns or ())
    return Facts(sample.task, columns, values_of(sample), reply, truth, strip, bool(sample.images), zooms)


def zoomed(messages: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """The regions that turns zoom into, in order: pixels of the original first image."""
    return [turn["zoom"] for turn in messages if "zoom" in turn]


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
    """The boxes, or the mask, of a Sample that a reference is written from."""

    boxes: list[list[float]]
    quads: list[list[float]] | None
    size: tuple[int, int]
    labels: list[str] | None
    "What the objects are called, where the text says it; then there may be none."
    classes: list[str] | None
    written: str | None
    "Its own notation, as `Sample.written`."
    mask: dict[str, Any] | None
    "Of segmentation: what the reference is, instead of boxes."
    named: str | None
    "What it is a mask of, as the row asks for it."
    form: str | None
    "How it is written (`vlm.masks.FORMS`)."


def truth_of(sample: Sample, asked: Asked | None = None) -> Truth | None:
    """None of a sample without boxes or mask, or whose size is not known. asked: how the row is asked for
    (`vlm.boxes.asking`): objects of detection may have other names, a mask has a form."""
    detected, masked = sample.task == "detection", sample.task == "segmentation"
    if sample.size is None or not (sample.mask if masked else sample.boxes or (detected and sample.boxes is not None)):
        return None
    labels, classes = (sample.labels, sample.classes) if detected else (None, None)
    if asked is not None and labels is not None and classes is not None:
        labels, classes = asked.names(labels, classes), asked.names(classes, classes)
    return {
        "boxes": sample.boxes or [], "quads": sample.quads, "size": sample.size,
        "labels": labels, "classes": classes, "written": sample.written,
        "mask": sample.mask if masked else None, "named": asked_last(sample) if masked else None,
        "form": asked.form if asked is not None else None,
    }  # fmt: skip


def asked_last(sample: Sample) -> str:
    """The text of the last question, as the data has it."""
    return next(turn["content"] for turn in reversed(sample.messages) if turn["role"] == "user")


def answer_of(sample: Sample) -> str | None:
    """The reply of the style `direct` that stands in the truth as text: the answer, of a choice its letter.

    None where there is no such text, and for tasks whose reply is boxes or a mask.
    """
    if sample.answer is None or answers.blank(sample.answer) or sample.task in PLACES:
        return None
    if sample.choices and sample.task == "choice":
        place = answers.option(sample.answer, sample.choices)
        return None if place is None else string.ascii_uppercase[place]
    return sample.answer
