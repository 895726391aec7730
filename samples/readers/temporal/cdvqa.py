"""CDVQA (Yuan et al. 2022, IEEE TGRS, "Change Detection Meets Visual Question Answering"): pairs of SECOND's pictures.

As ermongroup/TEOChat reads it (videollava/eval/cdvqa_utils.py at 08c6eb3): RSVQA's files, with the pictures' as well.

    Test_questions.json  {"questions": [{"id": 0, "active": true, "type": "change_or_not", "question": "…",
                                         "answers_ids": [0]}]}
    Test_answers.json    {"answers": [{"id": 0, "answer": "yes", "active": true}]}
    Test_images.json     {"images": [{"id": 0, "active": true, "file_name": "00003.png", "questions_ids": [0, 1]}]}
    second_dataset/im1/00003.png, second_dataset/im2/00003.png

`path` is a questions file; which pictures a question is about stands in the images file alone. Questions and pictures
that are not active are left out. Each question ends as TEOChat asks it: with "Answer with yes or no." or the answers
that its type can have; "NVG_surface" is "nonvegetated ground surface". `kind` is the type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.look import Look
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import LeftOut, Place, RowFault, show
from vlm.common.errors import DataError

ENDING = "questions.json"
SIDES = ("im1", "im2")
HOMES = ("second_dataset", ".", "../second_dataset", "images")
_TENTHS = [f"{low}_to_{low + 10}" for low in range(0, 100, 10)]
_COVERS = ["buildings", "low_vegetation", "nonvegetated ground surface", "playgrounds", "trees", "water"]
YES_NO = ("change_or_not", "increase_or_not", "decrease_or_not")
OPTIONS = {"change_ratio": ["0", *_TENTHS], "change_ratio_types": ["0", *_TENTHS[:7]]}
"""Type → the answers that it can have; of other types the land covers."""


def fits(look: Look) -> bool:
    """RSVQA's files are named alike, and their pictures have no `file_name`."""
    if look.is_folder or look.key != "questions" or not look.path.name.endswith(ENDING):
        return False
    images = _beside(look.path, "images.json")
    try:
        with images.open("rb") as file:
            return b'"file_name"' in file.read(1 << 14)
    except OSError:
        return False


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(number in the questions file, the question with its picture's name and its answer)."""
    if not look.path.name.endswith(ENDING):
        raise DataError(f"{look.path}: found a name that leads to no answers, expected one that ends in {ENDING}")
    answers = {_number(one, place): one for place, one in enumerate(_list(look.path, "answers"))}
    pictures: dict[Any, dict[str, Any]] = {}
    for one in _list(look.path, "images"):
        pictures |= dict.fromkeys(_ids(one.get("questions_ids")), one)
    for place, (where, row) in enumerate(look.each()):
        if isinstance(row, RowFault):
            yield where, row
            continue
        picture = pictures.get(number := _number(row, place))
        if row.get("active", True) is False or (picture or {}).get("active", True) is False:
            yield where, LeftOut("inactive", "a stub: the question, or its picture, is not active in this split")
        elif picture is None:
            expected = f"a picture that lists question {number!r} in {_beside(look.path, 'images.json')}"
            yield where, RowFault("missing_image", "questions_ids", "none", expected)
        else:
            said = _ids(row.get("answers_ids"))
            found = answers.get(said[0]) if said else None
            more = {"file_name": picture.get("file_name"), "answer": (found or {}).get("answer"), "id": number}
            yield where, row | more


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    name = place.own(text(row, "file_name", "the pictures' name"), "file_name")
    pair = [place.find(*(f"{home}/{side}/{name}" for home in HOMES)) for side in SIDES]
    kind = text(row, "type")
    if kind in YES_NO:
        told = "Answer with yes or no."
    else:
        told = f"Choose from one of the following options: {', '.join(OPTIONS.get(kind, _COVERS))}."
    said = answer(row, "answer").replace("NVG_surface", "nonvegetated ground surface")
    more = {"images": pair, "id": row.get("id", ""), "kind": kinds(kind)}
    return record(None, f"{text(row, 'question')} {told}", task or "vqa", said, **more)


def _ids(value: Any) -> list[int | str]:
    return [one for one in value if isinstance(one, int | str)] if isinstance(value, list) else []


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name.removesuffix(ENDING) + ending)


def _list(path: Path, key: str) -> list[dict[str, Any]]:
    """The list of a file beside the questions. Raises: DataError."""
    file = _beside(path, f"{key}.json")
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({error}); CDVQA's questions need it") from error
    rows = found.get(key) if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise DataError(f"{file}: found {show(found)}, expected {{'{key}': [{{…}}, …]}}")
    return rows


def _number(row: dict[str, Any], place: int) -> int | str:
    """A row's own number, else its place in the file: the loader takes one for the other."""
    value = row.get("id", place)
    return value if isinstance(value, int | str) else place
