"""LHRS-Bench (Muhtar et al. 2024, arXiv 2402.02544): multiple choice, 690 questions of 11 types.

    {"qtype": {"1": "identity", …}, "data": [{"filename": "a.png", "qa_pairs": [
        {"question": "What is it?", "choices": "A. harbor B. airport", "answer": "A", "type": ["1", "11"]}]}]}

on the hub (PumpkinCat/LHRS_Data) as `LHRS-Bench/qa.json` beside `imgs_png/` and `imgs_jpg/`; `path` is the file or the
folder. And ScoreRS's variant, a list whose questions hold the choices:

    [{"image": "a.png", "type": ["1", "11"], "conversations": [
        {"from": "human", "value": "<image>\\nWhat is it?\\nA. harbor\\nB. airport"}, {"from": "gpt", "value": "A"}]}]

`kind` holds all types of a question ("1,11"): it counts in each. Choices are cut out of the question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from samples.readers import conversations, options
from samples.readers.look import Look
from samples.readers.records import answer, kinds, pairs_in, record, text
from samples.readers.rows import LeftOut, Place, RowFault, Rows

FOLDERS = ("images", "image", "LHRS-Bench", "imgs_png", "imgs_jpg")
TYPES = frozenset(map(str, range(1, 12)))


FILE = "qa.json"


def fits(look: Look) -> bool:
    if look.is_folder:
        return (look.path / FILE).is_file() and Rows(look.path / FILE).key == "data"
    if look.key == "data":
        return any("qa_pairs" in row for row in look.first)
    return any(_variant(row) for row in look.first[:1])


def _variant(row: dict[str, Any]) -> bool:
    raw, types = conversations.turns(row), row.get("type")
    if not isinstance(types, list) or not types or not all(isinstance(one, str) and one in TYPES for one in types):
        return False
    first = raw[0] if isinstance(raw, list) and raw and isinstance(raw[0], dict) else {}
    return "choices" not in row and isinstance(first.get("value"), str) and options.split(first["value"]) is not None


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(number of the row, and of the question in it)."""
    for number, row in Rows(look.path / FILE) if look.is_folder else look.each():
        if isinstance(row, RowFault) or "qa_pairs" not in row:
            yield number, row
            continue
        if row["qa_pairs"] in (None, []):
            yield f"row {number}", LeftOut("no_question", "an image without questions")
        for place, where, pair in pairs_in(row, number, "an object with question, choices, answer"):
            yield where, pair if isinstance(pair, RowFault) else pair | {"id": f"{number}/{place}"}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    if conversations.turns(row) is not None:
        return conversations.convert(row, "conversations", place, task or "choice", FOLDERS)
    image = place.seek(row.get("filename"), FOLDERS, "filename", swap=True)
    choices = row.get("choices")
    if isinstance(choices, str):
        choices = options.taken(choices, "choices")[1]
    more = {"choices": choices, "kind": kinds(row.get("type")), "id": row.get("id", ""), "repeats": True}
    return record(image, text(row, "question"), task or "choice", answer(row, "answer"), **more)
