"""Evaluation sets of multiple choice about pictures larger than a model sees: MME-RealWorld and XLRS-Bench.

MME-RealWorld (Zhang et al. 2024, arXiv 2408.13257; yfzhang114/MME-RealWorld, evaluation/eval_your_results.py at 11af66f
and output_test_template.json at 1cd8d11; a row of its remote sensing part in VisionXLab/RSCoVLM,
playground/data_analysis/explore_mme_realworld_rs.ipynb at 91af821), a JSON list:

    {"Question_id": "perception/remote_sensing/color/0001", "Image": "remote_sensing/03553_Toronto.png",
     "Text": "What color is the roof …?", "Question Type": "Multiple Choice",
     "Answer choices": ["(A) Yellow", "(B) Blue", "(C) Gray", "(D) White", "(E) The image does not feature the color."],
     "Ground truth": "D", "Category": "color", "Subtask": "Remote Sensing", "Task": "Perception"}

`split` chooses a Subtask; `kind` is `Category` (of remote sensing: color, count, position). An option may be empty.

XLRS-Bench (Wang et al. 2025, arXiv 2503.23771; initiacms/XLRS-Bench-lite as EvolvingLMMs-Lab/lmms-eval reads it,
lmms_eval/tasks/xlrs/mcq_utils.py at 70b804f), a table of the hub whose pictures stand in its rows:

    {"index": 7, "image": [picture, …], "question": "…", "multi-choice options": ["(A) 3", "(B) 5", …],
     "answer": "B", "category": "Counting/Regional counting", "l2-category": …}

`kind` is `category`, level 2 and level 3. Of "Overall Land use classification" several options may be right: such a
row, and every other whose `answer` has several letters, is vqa with `choices`, and its answer is the letters with
blanks between them. The others are choice.

Its pictures, some hundred megapixels each, are written to files once (`samples.readers.embedded`).

XLRS-Bench's captions and visual grounding are not read: no published loader says in which frame `bbox` is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from samples.readers import embedded, options
from samples.readers.look import Look
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import Place, RowFault, show
from vlm.common.errors import DataError

OPTIONS = "multi-choice options"
SEVERAL = "overall land use classification"
"""Level 3 of the questions with several right options, in lower case."""
UNREAD = (
    "questions with options (XLRS-Bench-lite); XLRS-Bench's captions and visual grounding are not read, for no "
    "published loader says in which frame their boxes are"
)
_LETTERS = re.compile(r"[A-Z](?:[\s,;]*[A-Z])*")


def walk_mme(look: Look) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
    """The rows of the Subtask that `split` names. Raises: DataError where the file has no such."""
    if look.split is None:
        yield from look.each()
        return
    names = look.once("subtasks", lambda: {str(row["Subtask"]) for row in look.good() if "Subtask" in row})
    if look.split not in names:
        there = ", ".join(sorted(names)) or "none"
        raise DataError(f"{look.path}: found the split {look.split!r}, expected one of its Subtasks: {there}")
    for number, row in look.each():
        if isinstance(row, RowFault) or row.get("Subtask") == look.split:
            yield number, row
        elif row.get("Subtask") is None:
            yield number, RowFault("missing_field", "Subtask", "none", "one of the Subtasks: a split is asked for")


def convert_mme(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("Image"), ("images",), "Image")
    more = {"id": row.get("Question_id", ""), "kind": kinds(row.get("Category"))}
    choices = options.listed(row.get("Answer choices"), "Answer choices")
    asked, truth = text(row, "Text"), answer(row, "Ground truth")
    return record(image, asked, task or "choice", truth, choices=choices, repeats=True, **more)


def convert_xlrs(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    if OPTIONS not in row:
        raise RowFault("missing_field", OPTIONS, "none", UNREAD)
    images = row.get("image")
    if not isinstance(images, list) or not images:
        raise RowFault("missing_image", "image", show(images), "a list of pictures, one at least")
    choices = options.listed(row[OPTIONS], OPTIONS)
    letters, category = _letters(row, len(choices)), text(row, "category")
    several = len(letters) > 1 or category.rpartition("/")[2].strip().lower() == SEVERAL
    more = {"choices": choices, "repeats": True, "kind": kinds(category), "id": row.get("index", "")}
    named = [embedded.file(one) if isinstance(one, bytes) else place.image(one) for one in images]
    task = task or ("vqa" if several else "choice")
    return record(None, text(row, "question"), task, " ".join(letters), images=named, **more)


def _letters(row: dict[str, Any], count: int) -> list[str]:
    """The right options' letters, in order."""
    said, last = answer(row, "answer"), chr(ord("A") + count - 1)
    letters = re.findall("[A-Z]", said) if _LETTERS.fullmatch(said) else []
    if not letters or len(set(letters)) < len(letters) or max(letters) > last:
        raise RowFault("not_a_choice", "answer", show(said), f"letters from A to {last}, each once")
    return sorted(letters)
