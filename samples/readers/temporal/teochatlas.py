"""TEOChatlas (Irvin et al. 2024, arXiv 2410.06234; hub jirvin16/TEOChatlas): conversations about series of pictures.

Training files (`instruct_{fMoW,QFabric,S2Looking,xBD}.json`, `instruct_GeoChat_modified.json`) and evaluation files
(`eval/fMoW_High_Res.json` …), as their two published loaders read them: ermongroup/TEOChat, videollava/train/train.py
at 08c6eb3 and videollava/eval/{eval,inference,detection}.py at 569ce63; VisionXLab/RSCoVLM, rscovlm/training/data/
{sft_dataset,xeochat_dataset}.py and rscovlm/eval/data/teochatlas_bench.py at bfc2ff7. The files were not seen.

    [{"id": "1", "dataset": "xbd_dmg_cls", "task": "change_detection_classification",
      "video": ["TEOChatlas/eval/xBD/a_pre.png", "TEOChatlas/eval/xBD/a_post.png"],
      "timestamp": ["2017-08-28", "2018-09-11"], "polygon": "POLYGON ((10 10, 60 10, 60 60, 10 10))",
      "conversations": [{"from": "human", "value": "This is a pair of satellite images capturing the same location at
                         different times: <video>\\nClassify the level of damage of the building at [4, 4, 23, 23]."},
                        {"from": "gpt", "value": "Minor damage"}]}]

Pictures    `video` is shown in the order of `timestamp` (or of `metadata[i].timestamp`, an older spelling), which must
            be one day for each, or empty; pictures of one day keep their order (RSCoVLM looks for `timestamps`, so it
            never sorts). `<video>` becomes a place for each picture, and "times:" "times in chronological order:", as
            TEOChat was trained and is asked. A path's `TEOChatlas/eval/` or `TEOChatlas/train/` is where the file lies.
Boxes       `[x1, y1, x2, y2]` in percent of the picture. An answer that is nothing but boxes is `grounding`: what is
            asked for is the question without its introduction and without the order to write boxes so, which is the
            notation's. Boxes in a question stand as they are, and are `regions`. An answer that repeats the question's
            boxes loses them (so does RSCoVLM's); one with other boxes inside text is left out.
Truth       of a box task that says `polygon` (WKT, `samples.readers.temporal.footprints`), `mask` is its pixels: the
            metric's truth, and how much each question weighs in that of damage. Box tasks whose answer has no box have
            no task here (grounding has one at least): left out, and counted, under `no_box`.
Tasks       by `task` and `dataset` (`TASKS`, `DATASETS`); others are `open_ended`, said once. `kind` is `task`.
Turns       of two without `from` are the user's and the assistant's (some evaluation files lack it).
"""

from __future__ import annotations

import re
from typing import Any

from samples.readers import conversations
from samples.readers.look import Look
from samples.readers.records import settled
from samples.readers.rows import SUFFIXES, LeftOut, Place, RowFault, show
from samples.readers.temporal import footprints, series
from vlm.masks import runs_of
from vlm.pictures.places import TAG

VIDEO = "<video>"
TASKS = {
    "change_detection_localization": "grounding",
    "change_detection_detection": "grounding",
    "spatial_referring_expression": "grounding",
    "change_detection_classification": "classification",
    "question_answering": "vqa",
    "region_based_question_answering": "vqa",
    "region_based_temporal_question_answering": "vqa",
    "temporal_referring_expression": "vqa",
}
"""What TEOChat's evaluator scores by name."""
DATASETS = {
    "classification": ("fmow", "abcd", "aid", "ucm", "qfabric_rqa2", "qfabric_rqa5_rtqa5"),
    "vqa": ("cdvqa", "lrben", "hrben"),
}
"""How the names of data sets begin whose rows it scores by the same accuracy, or by class, whatever their task."""
UNKNOWN = "rows are of tasks that no published evaluator scores: open_ended (`task:` at the source says another)"
_HOME = re.compile(r"(?:^|.*/)TEOChatlas/(?:eval|train)/")
_BOX = re.compile(r"\[\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3})\s*\]")
_ORDER = re.compile(  # how boxes are to be written: the notation's
    r"\s*(?:Include (?:a )?bounding box(?:es)? of the form[^.?!]*[.?!]?"
    r"|If there are no such [^.?!]*, do not output a bounding box[.?!]?)",
    re.IGNORECASE,
)
_SOUGHT = re.compile(r"(?:identify|locate|find|what (?:is|are) the locations? of)\s+(?=\S)", re.IGNORECASE)


def fits(look: Look) -> bool:
    return any(lists_pictures(row) for row in look.first)


def lists_pictures(row: dict[str, Any]) -> bool:
    """Whether a row is a conversation about a list of picture files under `video`."""
    names = row.get("video")
    return (
        conversations.turns(row) is not None
        and isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) and name.lower().endswith(SUFFIXES) for name in names)
    )


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    names = row.get("video", row.get("image"))
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RowFault("missing_image", "video", show(names), "a list of picture files, one at least")
    pictures: list[str | bytes] = [_found(name, place) for name in names]
    turns = _turns(row)
    dates: list[str] | None = None
    if said := _timestamps(row):
        pictures, dates = series.dated(pictures, said, "timestamp", place)
    pictures, dates = series.thinned(place, pictures, dates, *(turn["content"] for turn in turns))
    messages = settled(_shown(turns, len(pictures)), len(pictures), "conversations")
    found = {"images": pictures, "messages": messages, "dates": dates, "id": row.get("id", "")}
    return found | {"kind": _name(row, "task")} | _truth(row, messages, place.size(pictures[0]), place, task)


def _found(name: str, place: Place) -> str:
    plain = place.own(_HOME.sub("", place.own(name, "video")), "video")  # what is cut off may have held a `..` in
    return place.find(*dict.fromkeys((plain, name, f"images/{plain}", f"../{plain}")))


def _name(row: dict[str, Any], field: str) -> str | None:
    value = row.get(field)
    if value is not None and not isinstance(value, str):
        raise RowFault("wrong_type", field, show(value), "text")
    return value or None


def _timestamps(row: dict[str, Any]) -> list[Any]:
    """As the row has them; [] for none."""
    said = row.get("timestamp", row.get("timestamps"))
    if said is None and isinstance(more := row.get("metadata"), list):
        said = [one.get("timestamp") if isinstance(one, dict) else one for one in more]
        said = [] if all(one is None for one in said) else said
    if said is not None and not isinstance(said, list):
        raise RowFault("wrong_type", "timestamp", show(said), f"a list, {series.EXPECTED}")
    return said or []


def _turns(row: dict[str, Any]) -> list[dict[str, str]]:
    raw = conversations.turns(row)
    if isinstance(raw, list) and len(raw) == 2 and all(isinstance(turn, dict) for turn in raw):
        who = ("human", "gpt")
        raw = [turn if "from" in turn or "role" in turn else {**turn, "from": who[n]} for n, turn in enumerate(raw)]
    return conversations.spoken(_untagged(raw), 0)


def _untagged(raw: Any) -> Any:
    """The turns with a picture's tag spelt as a series', so that one rule counts both."""
    if not isinstance(raw, list):
        return raw
    return [
        {**turn, "value": turn["value"].replace(TAG, VIDEO)}
        if isinstance(turn, dict) and isinstance(turn.get("value"), str)
        else turn
        for turn in raw
    ]


def _shown(turns: list[dict[str, str]], count: int) -> list[dict[str, Any]]:
    """The turns with a place for each picture where `<video>` stands: one for all, or one for each."""
    tags = sum(turn["content"].count(VIDEO) for turn in turns)
    if tags not in (0, 1, count):
        raise RowFault("image_tag", "conversations", f"{tags} of {VIDEO}", f"one, or one for each of {count} pictures")
    each = TAG * (count if tags == 1 else 1)
    return [
        {**turn, "content": turn["content"].replace(VIDEO, each).replace("times:", "times in chronological order:")}
        if turn["role"] == "user"
        else turn
        for turn in turns
    ]


def _boxes(said: str, size: tuple[int, int]) -> list[list[float]]:
    """The boxes in a text, from percent to pixels."""
    found = [[float(number) for number in match.split(",")] for match in _BOX.findall(said)]
    return [[value / 100 * side for value, side in zip(box, size * 2, strict=True)] for box in found]


def _only_boxes(said: str) -> bool:
    return bool(_BOX.search(said)) and not _BOX.sub("", said).strip(" ,.\n")


def task_of(row: dict[str, Any], answer: str) -> str | None:
    """The task of a row by what its evaluator scores; None for one that it does not."""
    named, data = (_name(row, "task") or "").lower(), (_name(row, "dataset") or "").lower()
    if _only_boxes(answer):
        return "grounding"
    for task, starts in DATASETS.items():
        if data.startswith(starts):
            return task
    if named in TASKS:
        return TASKS[named]
    return "caption" if named.endswith("captioning") else "classification" if "classification" in named else None


def _truth(
    row: dict[str, Any], messages: list[dict[str, Any]], size: tuple[int, int], place: Place, task: str | None
) -> dict[str, Any]:
    """What the last turn is, and what becomes of boxes in it and in the question."""
    if [turn["role"] for turn in messages[-2:]] != ["user", "assistant"]:
        raise RowFault("conversation", "conversations", show(messages[-2:]), "a question and its answer as last turns")
    asked, said = messages[-2], messages[-1]["content"].strip()
    task = task or task_of(row, said)
    if task is None:
        task = "open_ended"
        place.told[UNKNOWN] += 1
    regions, boxes = _boxes(asked["content"], size), _boxes(said, size)
    found: dict[str, Any] = {"task": task, "regions": regions or None} | _mask(row, task, size)
    if task == "grounding":
        if not boxes:
            raise LeftOut("no_box", f"its answer {show(said, 40)} has no box, and grounding has one at least")
        if not _only_boxes(said):
            raise RowFault("box_text", "conversations", show(said), "boxes in percent alone, [10, 20, 40, 50], [60, …]")
        return found | {"messages": [*messages[:-2], {**asked, "content": _sought(asked["content"])}], "boxes": boxes}
    if boxes and boxes == regions:
        said = " ".join(_BOX.sub("", said).split()).replace(" .", ".").replace(" ,", ",")
    elif boxes:
        raise LeftOut("boxes_in_text", "its answer is text with boxes inside, which no task has as its truth")
    return found | {"messages": [*messages[:-1], {"role": "assistant", "content": said}], "answer": said}


def _sought(asked: str) -> str:
    """What is to be found: the question behind its pictures, without the order how to write boxes."""
    places, _, said = asked.rpartition(TAG)
    said = _ORDER.sub("", said or asked).strip()
    said = _SOUGHT.sub("", said, count=1) if _SOUGHT.match(said) else said
    if not (said := said.strip().rstrip(".?").strip()):
        raise RowFault("missing_field", "conversations", show(asked), "what is to be found")
    return TAG * (places + TAG).count(TAG) + said if TAG in asked else said


def _mask(row: dict[str, Any], task: str, size: tuple[int, int]) -> dict[str, Any]:
    """The pixels of `polygon` (once: `original_input_polygon`), where the metric of the task counts them."""
    said = _name(row, "polygon") or _name(row, "original_input_polygon")
    if said is None or task not in ("grounding", "classification"):
        return {}
    scale = (size[0] / footprints.SIDE, size[1] / footprints.SIDE)
    shapes = [[(x * scale[0], y * scale[1]) for x, y in ring] for ring in footprints.rings(said, "polygon")]
    return {"mask": runs_of(footprints.drawn(shapes, size))}
