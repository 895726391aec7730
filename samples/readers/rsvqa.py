"""RSVQA, low and high resolution (Lobry et al. 2020, arXiv 2003.07333): questions and answers in files of their own.

    LR_split_test_questions.json   {"questions": [{"id": 3, "img_id": 7, "type": "count", "question": "…",
                                                   "answers_ids": [3], "active": true}, {"id": 4, "active": false}]}
    LR_split_test_answers.json     {"answers": [{"id": 3, "question_id": 3, "answer": "12", "active": true}]}
    LR_split_test_images.json      not needed: image 7 is `7.tif`
    USGS_split_{train,val,test,test_phili}_….json for high resolution

`path` is a questions file, or the folder and `split` (train, val, test, test_phili). A question that is not active is a
stub of another split: left out (`inactive`). Both files are walked side by side; what is held are answers that came
before their question, none in the published files. `kind` is the question's type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers.look import Look, files, one_of
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import LeftOut, Place, RowFault, Rows, show
from vlm.common.errors import DataError

ENDING = "_questions.json"
FOLDERS = ("Images_LR", "Data", "images", "Images")


def fits(look: Look) -> bool:
    if look.is_folder:
        return any(Rows(path).key == "questions" for path in files(look.path, ENDING, 1))
    return look.key == "questions"


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(number in the questions file, the question with its `answer`)."""
    path = one_of(look, files(look.path, ENDING), "files of questions") if look.is_folder else look.path
    questions = Rows(path)
    if questions.key != "questions":
        raise DataError(f"{path}: found another layout, expected {{'questions': [{{'id', 'img_id', 'question', …}}]}}")
    if not path.name.endswith("questions.json"):
        raise DataError(f"{path}: found a name that leads to no answers, expected one that ends in questions.json")
    answers = Joined(path.with_name(path.name.removesuffix("questions.json") + "answers.json"), "question_id", "answer")
    for number, row in questions:
        where = f"file {path.name}, row {number}" if look.is_folder else number
        if isinstance(row, RowFault):
            yield where, row
        elif row.get("active", True) is False:
            yield where, LeftOut("inactive", "a stub: the question is not active in this split")
        else:
            yield where, answers.join(row)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    name = row.get("img_id")
    if type(name) is not int and not isinstance(name, str):
        raise RowFault("missing_field", "img_id", show(name), "the number of an image")
    image = place.seek(f"{name}.tif" if type(name) is int else name, FOLDERS, "img_id")
    more = {"id": row.get("id", ""), "kind": kinds(row.get("type"))}
    return record(image, text(row, "question"), task or "vqa", answer(row, "answer"), **more)


class Joined:
    """One field of a file's active rows by their question's id; walked once, beside the questions."""

    def __init__(self, path: Path, key: str, field: str):
        self.path, self.key, self.field = path, key, field
        self._rows = (row for _, row in Rows(path) if not isinstance(row, RowFault))
        self._ahead: dict[int | str, Any] = {}
        "Of questions that were not asked for yet."

    def join(self, row: dict[str, Any]) -> dict[str, Any] | RowFault:
        """The question with this field, or the fault that it has none."""
        if (found := self.find(row.get("id"))) is not None:
            return row | {self.field: found}
        return RowFault("missing_field", self.field, "none", f"one for question {row.get('id')!r} in {self.path}")

    def find(self, question: Any) -> Any:
        """The field for a question's id, None where the file has no active row of it."""
        if not isinstance(question, int | str):
            return None
        if question in self._ahead:
            return self._ahead.pop(question)
        for row in self._rows:
            number = row.get(self.key)
            if row.get("active", True) is False or not isinstance(number, int | str):
                continue
            if number == question:
                return row.get(self.field)
            self._ahead[number] = row.get(self.field)
        return None
