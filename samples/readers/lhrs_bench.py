"""LHRS-Bench (Muhtar et al. 2024, arXiv 2402.02544): multiple choice, 690 questions of 11 types.

    {"qtype": {"1": "identity", …}, "data": [{"filename": "a.png", "qa_pairs": [
        {"question": "What is it?", "choices": "A. harbor B. airport", "answer": "A", "type": ["1", "11"]}]}]}

and ScoreRS's variant, a list whose questions hold the choices:

    [{"image": "a.png", "type": ["1", "11"], "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?\\nA. harbor\\nB. airport"}, {"from": "gpt", "value": "A"}]}]

`kind` holds all types of a question ("1,11"): it counts in each. Choices are cut out of the question.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Any

from samples.readers import conversations
from samples.readers.look import Look
from samples.readers.records import answer, kinds, record, rows_in, text
from samples.readers.rows import LeftOut, Place, RowFault, show

FOLDERS = ("images", "image", "LHRS-Bench", "imgs_png", "imgs_jpg")
TYPES = frozenset(map(str, range(1, 12)))
MARKS = 100
"""Letters looked at, the last ones: a text of nothing but "A. A. A. …" shall not take forever."""
_MARKS = re.compile(r"(?:^|(?<=[\s(]))\(?([A-Z])[.):]\s+")


def split_choices(said: str) -> tuple[str, list[str]] | None:
    """`"What? A. x B. y"` → ("What?", ["x", "y"]); None unless letters from A on stand there in order, two at least.

    The last row of letters counts, so that an "A. " in the question itself does not mislead.
    """
    marks = list(_MARKS.finditer(said))[-MARKS:]
    for first in reversed([place for place, match in enumerate(marks) if match[1] == "A"]):
        run = [marks[first]]
        for match in marks[first + 1 :]:
            if match[1] == string.ascii_uppercase[len(run) % 26]:
                run.append(match)
        if len(run) > 1:
            ends = [match.start() for match in run[1:]] + [len(said)]
            texts = [said[match.end() : end].strip(" \t\r\n;,") for match, end in zip(run, ends, strict=True)]
            return said[: run[0].start()].rstrip(" \t\r\n(").removesuffix("Choices:").rstrip(), texts
    return None


def fits(look: Look) -> bool:
    if look.key == "data":
        return any("qa_pairs" in row for row in look.first)
    return any(_variant(row) for row in look.first[:1])


def _variant(row: dict[str, Any]) -> bool:
    raw, types = conversations.turns(row), row.get("type")
    if not isinstance(types, list) or not types or not all(isinstance(one, str) and one in TYPES for one in types):
        return False
    first = raw[0] if isinstance(raw, list) and raw and isinstance(raw[0], dict) else {}
    return "choices" not in row and isinstance(first.get("value"), str) and split_choices(first["value"]) is not None


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(number of the row, and of the question in it)."""
    for number, row in look.each():
        if isinstance(row, RowFault) or "qa_pairs" not in row:
            yield number, row
            continue
        try:
            pairs = rows_in(row, "qa_pairs")
        except RowFault as fault:
            yield number, fault
            continue
        for place, pair in enumerate(pairs, 1):
            where = f"row {number}, question {place}"
            if isinstance(pair, dict):
                yield where, pair | {"filename": row.get("filename"), "id": f"{number}/{place}"}
            else:
                yield where, RowFault("wrong_type", "qa_pairs", show(pair), "an object with question, choices, answer")
        if not pairs:
            yield f"row {number}", LeftOut("no_question", "an image without questions")


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    if conversations.turns(row) is not None:
        return _talked(row, place, task)
    image = place.seek(row.get("filename"), FOLDERS, "filename", swap=True)
    choices = row.get("choices")
    if isinstance(choices, str):
        choices = _choices(choices, "choices")[1]
    more = {"choices": choices, "kind": kinds(row.get("type")), "id": row.get("id", "")}
    return record(image, text(row, "question"), task or "choice", answer(row, "answer"), **more)


def _talked(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    found = conversations.convert(row, "conversations", place, task or "choice", FOLDERS)
    asked = next((turn for turn in found["messages"] if turn["role"] == "user"), None)
    if asked is not None and found["choices"] is None:
        asked["content"], found["choices"] = _choices(asked["content"], "conversations")
    return found


def _choices(said: str, field: str) -> tuple[str, list[str]]:
    found = split_choices(said)
    if found is None:
        raise RowFault("choices", field, show(said), "choices such as 'A. harbor B. airport'")
    return found
