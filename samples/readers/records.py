"""What the readers of question files share: taking fields out of a row, and putting a record together.

A record is a dictionary with the keys of `samples.Sample`, still unchecked; `samples.readers.checks` checks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from samples.readers.rows import RowFault, show
from vlm.pictures import places


def text(row: dict[str, Any], name: str, expected: str = "text") -> str:
    """A field that must be there and be text, stripped."""
    value = row.get(name)
    if value is None or value == "":
        raise RowFault("missing_field", name, "none", expected)
    if not isinstance(value, str):
        raise RowFault("wrong_type", name, show(value), expected)
    return value.strip()


def answer(row: dict[str, Any], name: str) -> str:
    """A truth that must be there: text, or a number (several projects write counts as numbers)."""
    value = row.get(name)
    if type(value) in (int, float):
        return str(value)
    return text(row, name, "the true answer")


def rows_in(row: dict[str, Any], name: str) -> list[Any]:
    """A list that may be missing."""
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowFault("wrong_type", name, show(value), "a list")
    return value


def pairs_in(
    row: dict[str, Any], number: int | str, expected: str
) -> Iterator[tuple[int, int | str, dict[str, Any] | RowFault]]:
    """(place from 1, row and question in words, the question with the row's `filename`) for each of its `qa_pairs`.

    number: of the row. expected: what a question holds, for messages.
    """
    try:
        pairs = rows_in(row, "qa_pairs")
    except RowFault as fault:
        yield 0, number, fault
        return
    for place, pair in enumerate(pairs, 1):
        where = f"row {number}, question {place}"
        if isinstance(pair, dict):
            yield place, where, pair | {"filename": row.get("filename")}
        else:
            yield place, where, RowFault("wrong_type", "qa_pairs", show(pair), expected)


def record(
    image: str | bytes | None, question: str, task: str, answer: str | None = None, /, **more: Any
) -> dict[str, Any]:
    """One question about one image, or several (`images`). An answer becomes the assistant's turn, too, so that SFT can
    learn it.

    Boxes never do: they have no text until a notation is chosen.
    """
    images = more.pop("images", [] if image is None else [image])
    messages = settled([{"role": "user", "content": question.strip()}], len(images), "question")
    messages[0]["content"] = messages[0]["content"].strip()
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return {"images": images, "messages": messages, "task": task, "answer": answer, **more}


def settled(messages: list[dict[str, Any]], images: int, field: str = "messages") -> list[dict[str, Any]]:
    """`vlm.pictures.places.settled` of a row's turns. Raises: RowFault, also for a tag that is not the user's."""
    placed = False
    for number, turn in enumerate(messages, 1):
        if "<image>" in turn["content"]:
            placed = True
            if turn["role"] != "user":
                raise RowFault(
                    "image_tag", f"{field}[{number}]", show(turn["content"]), "<image> in a user's text only"
                )
    if not placed:
        return messages
    try:
        return places.settled(messages, images)
    except places.Misplaced as error:
        raise RowFault("image_tag", field, error.found, error.expected) from error


def kinds(*parts: Any) -> str | None:
    """Question types joined with commas: a question counts in each. Raises: RowFault for one that is no text."""
    found = []
    for part in parts:
        for one in part if isinstance(part, list) else [part]:
            if one is None or one == "":
                continue
            if type(one) is int:
                one = str(one)
            if not isinstance(one, str):
                raise RowFault("wrong_type", "type", show(one), "text or a list of texts")
            found.append(one.strip())
    return ",".join(found) or None


def json_boxes(said: str | None) -> list[list[float]] | None:
    """The boxes that a text states as `[10,20,90,80]` or a list of such; None for anything else."""
    try:
        value = json.loads(said or "")
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]
    right = isinstance(value, list) and all(
        isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= {int, float} for box in value
    )
    return value if right else None
