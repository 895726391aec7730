"""GeoChat (Kuckreja et al. 2023, arXiv 2311.15826) and VRSBench's training rows, whose boxes count in percent.

GeoChat-Instruct and VRSBench_train.json are LLaVA lists with a task's tag in the question:

    {"id": "3", "image": "P0001.png", "conversations": [
        {"from": "human", "value": "<image>\\n[refer] where is <p>the red ship</p>?"},
        {"from": "gpt", "value": "{<10><20><40><50>|<30>}"}]}

    [refer]              grounding; what stands between <p> and </p> is the question where there is one such pair
    [caption]  [vqa]     as named
    [identify] or none   `open_ended`, but grounding where the answer is nothing but boxes
    [grounding]          text with boxes inside it: no task has such a truth, so it is left out (`boxes_in_text`)

The tag of the last question decides, and tags are cut out: a Sample says its task itself. Boxes in questions stay as
they are written.

GeoChat-Bench is JSONL, one layout a file:

    aid, UCmerced      question_id, image, text, ground_truth            classification
    lrben, hrben       question_id, image, text                          VQA; truth joined from RSVQA's answers
    referring          image_id, question, ground_truth [[[x, y] × 4]]   grounding; quadrilaterals in pixels
    region_captioning  image_id, question {<…>}, ground_truth            open_ended, kind `region`
    grounding_description   image_id, question, description              caption; the description without its boxes

The class of aid and UCmerced is what stands before the slash in `question_id` where one does ("Airport/airport_1"), as
GeoChat's evaluator has it: aid's `ground_truth` is known to be misspelt. Truth for lrben and hrben is looked for beside
the file: `lrben_answers.json(l)`, or RSVQA's own `LR_split_test_answers.json` and `USGS_split_test_phili_answers.json`;
`…_questions.json` there adds the types.

A grounded description has boxes behind what is between <p> and </p>. Captions are scored by words, so that boxes and
tags are cut out of the reference. GeoChat's code asks for such descriptions with the tag [grounding] and stops there
(mbzuai-oryx/GeoChat, geochat/eval/batch_geochat_grounding.py at 3e61ee3): how the paper's accuracy matches boxes stands
in no code that could be read, so they are no truth here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from samples.readers import conversations
from samples.readers.look import Look
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import LeftOut, Place, RowFault, show
from samples.readers.rsvqa import Joined
from vlm.boxes import read_boxes, read_quads
from vlm.common.errors import DataError

BOX = re.compile(r"\{\s*<\s*-?\d")
TAG = re.compile(r"\s*\[(caption|refer|vqa|identify|grounding)\]\s*")
TASKS = {"refer": "grounding", "caption": "caption", "vqa": "vqa", "identify": "open_ended", None: "open_ended"}
PHRASE = re.compile(r"<p>(.*?)</p>", re.DOTALL)
RSVQA = {"lrben": ("LR_split_test_answers.json",), "hrben": ("USGS_split_test_phili_answers.json",)}
BOXED = re.compile(r"\{\s*(?:<\s*-?\d+(?:\.\d+)?\s*>[\s|]*)+\}")
MARKS = re.compile(r"</?p>|<delim>")
FOLDERS = ("images", "final_images_llava", "Images_train", "Images_val")


def marked(row: dict[str, Any]) -> bool:
    """Whether some turn holds a box as GeoChat writes it, or begins with a task's tag."""
    raw = conversations.turns(row)
    said = [turn for turn in raw if isinstance(turn, dict)] if isinstance(raw, list) else []
    texts = [text for turn in said if isinstance(text := turn.get("value", turn.get("content")), str)]
    return any(
        ("{" in text and BOX.search(text)) or ("[" in text and TAG.match(text.replace("<image>", ""))) for text in texts
    )


def truth(said: str, size: tuple[int, int]) -> dict[str, Any] | None:
    """`quads` of a text with angles, `boxes` of one without, in pixels; None unless it is nothing but boxes."""
    if "|" in said:
        quads = read_quads(said, "geochat", size)
        return None if quads is None else {"quads": quads}
    boxes = read_boxes(said, "geochat", size)
    return None if boxes is None else {"boxes": boxes}


def instruct(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    """A row of GeoChat-Instruct or VRSBench_train.json."""
    found = conversations.pictures(row, place, FOLDERS)
    messages = conversations.spoken(conversations.turns(row), len(found))
    tag = None
    for turn in messages:
        if turn["role"] == "user":
            tags = TAG.findall(turn["content"])
            tag, turn["content"] = tags[0] if tags else None, TAG.sub("", turn["content"])
    if messages[-1]["role"] != "assistant":
        raise RowFault("conversation", "conversations", show(messages[-1]["content"]), "an answer as the last turn")
    said = messages[-1]["content"]
    result = {"images": found, "messages": messages, "id": row.get("id", ""), "answer": said}
    boxes = truth(said, place.size(found[0])) if found and BOX.search(said) else None
    if boxes is None and BOX.search(said) and tag != "refer":
        raise LeftOut("boxes_in_text", "its answer is text with boxes inside, which no task has as its truth")
    result["task"] = task or ("grounding" if boxes else TASKS.get(tag, "open_ended"))
    if result["task"] != "grounding":
        return result
    if boxes is None:
        raise RowFault("box_text", "conversations", show(said), "boxes in percent such as {<10><20><40><50>|<30>}")
    asked = [turn for turn in messages if turn["role"] == "user"][-1]
    if len(phrases := PHRASE.findall(asked["content"])) == 1:
        asked["content"] = phrases[0].strip()
    return result | {"messages": messages[:-1], "answer": None, **boxes}


def bench(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    """A row of a GeoChat-Bench file; `walk` has put the joined answer into it where it had none."""
    kind = kinds(row.get("category"), row.get("type"), row.get("size_group"))
    more = {"id": row.get("question_id", ""), "kind": kind}
    if "text" in row:
        image, said = place.seek(row.get("image"), FOLDERS, swap=True), answer(row, "ground_truth")
        if isinstance(more["id"], str) and "/" in more["id"]:
            said = more["id"].split("/")[0]
        closed = "classification" if row.get("joined") is None else "vqa"
        return record(image, text(row, "text"), task or closed, said, **more)
    image, question = place.seek(row.get("image_id"), FOLDERS, "image_id", swap=True), text(row, "question")
    if "description" in row:
        return record(image, TAG.sub("", question), task or "caption", described(text(row, "description")), **more)
    shapes = row.get("ground_truth")
    if isinstance(shapes, str) and not BOX.match(shapes):
        asked = f"What is the object present at {question}?" if BOX.match(question) else question
        more["kind"] = kind or "region"
        return record(image, asked, task or "open_ended", answer(row, "ground_truth"), **more)
    if isinstance(shapes, str):
        boxes = truth(shapes, place.size(image))
    else:
        boxes = {"quads": polygons(shapes)} if isinstance(shapes, list) else None
    if boxes is None:
        raise RowFault("box_text", "ground_truth", show(shapes), "quadrilaterals in pixels, [[[x, y], … four corners]]")
    return record(image, question, task or "grounding", **more, **boxes)


def described(said: str) -> str:
    """A grounded description without boxes and tags. Raises: RowFault where nothing else is in it, or a box is left."""
    words = " ".join(MARKS.sub(" ", BOXED.sub(" ", said)).split())
    words = re.sub(r" (?=[.,;:!?])", "", words)
    if not words.strip(".,;:!? ") or BOX.search(words):
        raise RowFault("box_text", "description", show(said), "words with boxes such as {<10><20><40><50>|<30>}")
    return words


def polygons(value: list[Any]) -> list[Any]:
    """`[[[x, y] × 4], …]` or one such shape as `quads`; other things come out as they are, for the checks to refuse."""
    if len(value) == 4 and all(isinstance(point, list) and len(point) == 2 for point in value):
        value = [value]
    return [
        [number for point in shape for number in point]
        if isinstance(shape, list) and all(isinstance(point, list) for point in shape)
        else shape
        for shape in value
    ]


def walk(look: Look) -> Iterator[tuple[int | str, dict[str, Any] | RowFault]]:
    """The rows of a GeoChat-Bench file; questions without a truth have RSVQA's (`joined` says so)."""
    answers = types = None
    for number, row in look.each():
        if isinstance(row, RowFault) or "text" not in row or row.get("ground_truth") is not None:
            yield number, row
            continue
        if answers is None:
            answers, types = _truth(look.path)
        question = row.get("question_id")
        found = answers.join({"id": question})
        if not isinstance(found, RowFault):
            kind = row.get("category") if types is None else types.find(question)
            found = row | {"ground_truth": found["answer"], "joined": True, "category": kind}
        yield number, found


def _truth(path: Path) -> tuple[Joined, Joined | None]:
    """Answers and, where they are there, types of a file's questions by their ids."""
    names = [f"{path.stem}_answers.json", f"{path.stem}_answers.jsonl", *RSVQA.get(path.stem.lower(), ())]
    for name in names:
        if (found := path.with_name(name)).is_file():
            questions = path.with_name(name.replace("_answers.", "_questions."))
            types = Joined(questions, "id", "type") if questions.is_file() else None
            return Joined(found, "question_id", "answer"), types
    expected = f"expected their answers next to it: {' or '.join(names)}"
    raise DataError(f"{path}: found questions without ground_truth; {expected}")
