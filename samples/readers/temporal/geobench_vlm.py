"""GEOBench-VLM (Danish et al. 2024, arXiv 2411.19325): multiple choice in several paraphrases, on one or more pictures.

As The-AI-Alliance/GEO-Bench-VLM reads it (eval_geobenchvlm/qwen_cls_single.py at ddb201c and temporal/
qwen_cls_temporal.py at 2178802): `Single/qa.json` and `Temporal/qa.json`, pictures named from the folder above.

    [{"question_id": 7, "image_path": ["Temporal/a_pre.png", "Temporal/a_post.png"], "task": "Disaster Type",
      "prompts": ["Which disaster?", "What has happened?"], "cls_description": "", "ground_truth": "flood",
      "options": "A. fire B. flood C. wind", "options_list": ["fire", "flood", "wind"], "ground_truth_option": "B"}]

Every paraphrase is a row: `id` is the row's number in the file and the paraphrase's, "3/2", by which the metric
averages them. What `cls_description` says of the classes stands before the question, `kind` is `task`. A list of
pictures is shown in its order; the published baseline sends the first and the last (`frames: 2`). Captions, boxes and
masks are of other files, which no loader there reads: rows without options are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from samples.readers import options
from samples.readers.look import Look
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import Place, RowFault, show
from samples.readers.temporal import series
from vlm import answers

HOMES = ("..", ".", "images", "../images")


def fits(look: Look) -> bool:
    return any({"prompts", "image_path", "ground_truth"} <= row.keys() for row in look.first)


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """(row and paraphrase in words, the row with its paraphrase)."""
    for number, row in look.each():
        prompts = None if isinstance(row, RowFault) else row.get("prompts")
        if isinstance(row, RowFault):
            yield number, row
        elif not isinstance(prompts, list) or not prompts:
            yield number, RowFault("missing_field", "prompts", show(prompts), "a list of questions, one at least")
        else:
            for place, prompt in enumerate(prompts, 1):
                yield f"row {number}, prompt {place}", row | {"prompt": prompt, "id": f"{number}/{place}"}


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    names = row.get("image_path")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RowFault("missing_image", "image_path", show(names), "a picture file, or a list of them")
    pictures = [place.find(*(f"{home}/{place.own(name, 'image_path')}" for home in HOMES)) for name in names]
    asked = "\n".join(part for part in (_description(row), text(row, "prompt")) if part)
    pictures, _ = series.thinned(place, pictures, None, asked)
    choices, letter = _choices(row), text(row, "ground_truth_option").rstrip(".")
    right = answers.option(letter, choices)
    truth = answer(row, "ground_truth")
    if right is None or answers.normalise(choices[right]) != answers.normalise(truth):
        raise RowFault("not_a_choice", "ground_truth_option", f"{letter!r} beside {truth!r}", f"one of {show(choices)}")
    more = {"images": pictures, "choices": choices, "repeats": True, "id": row["id"], "kind": kinds(row.get("task"))}
    return record(None, asked, task or "choice", letter, **more)


def _description(row: dict[str, Any]) -> str:
    value = row.get("cls_description") or ""
    if not isinstance(value, str):
        raise RowFault("wrong_type", "cls_description", show(value), "text")
    return value.strip()


def _choices(row: dict[str, Any]) -> list[str]:
    """The options' texts, from the list, else from the text."""
    listed = row.get("options_list")
    if not listed and isinstance(row.get("options"), str) and row["options"]:
        return options.taken(row["options"], "options")[1]
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str | int | float) for one in listed):
        expected = "a list of options: GEOBench-VLM's captions, boxes and masks are not read, for no loader shows them"
        raise RowFault("choices", "options_list", show(listed), expected)
    return [str(one).strip() for one in listed]
