"""Rows made for reinforcement learning: ScoreRS's parquet files and TRL's datasets. Both also as JSON, or from the hub.

ScoreRS (arXiv 2503.00743): `problem`, `answer`, `image` (encoded bytes or {bytes, path}), `type`:

    em            vqa, by exact match
    open_ended    as named
    iou           grounding; the answer holds boxes as JSON lists, `[[10,20,90,80]]`, or in Qwen2-VL's tokens,
                  `<|box_start|>(10,20),(90,80)<|box_end|>` (the published reward takes both), in a frame that nothing
                  in the file says (that code guesses it from the size of a number), so it is part of the format:
                  scorers_rl_pixel, scorers_rl_per_mille or scorers_rl_unit
    math          left out (`math`): no task compares formulas

TRL: `prompt` (a conversation), `image` or `images`, perhaps `completion`, and columns for the reward functions, which
are ours: `task`, `answer` (or `solution`, `ground_truth`), `boxes` and `quads` in pixels, `size`, `choices`,
`references`, `regions`, `id`, `kind`. A prompt that is bare text is a user's turn.
"""

from __future__ import annotations

import re
from typing import Any

from samples.readers.records import answer, json_boxes, record, text
from samples.readers.rows import LeftOut, Place, RowFault, show
from samples.sample import DETECTED
from vlm.boxes import Frame, convert
from vlm.pictures.places import spelled

BOX_START = "<|box_start|>"
_N = r" ?(-?[0-9.]+) ?"
PAIR = re.compile(rf"<\|box_start\|> ?\({_N},{_N}\) ?, ?\({_N},{_N}\) ?<\|box_end\|>")
TYPES = {"em": "vqa", "open_ended": "open_ended", "iou": "grounding"}
TRUTHS = ("answer", "solution", "ground_truth")


def scorers(row: dict[str, Any], place: Place, task: str | None, frame: Frame | None = None) -> dict[str, Any]:
    """A row of ScoreRS; `frame` is that of the boxes, None where none is declared."""
    kind, images = row.get("type"), _images(row, place)
    if kind == "math":
        raise LeftOut("math", "type 'math': no task compares formulas")
    if not isinstance(kind, str) or kind not in TYPES:
        raise RowFault("unknown_task", "type", show(kind), f"one of {', '.join(TYPES)}, math")
    task = task or TYPES[kind]
    question = text(row, "problem")
    more = {"id": row.get("id", ""), "images": images}
    if task != "grounding":
        return record(None, question, task, answer(row, "answer"), **more)
    if frame is None:
        raise RowFault(
            "box_text", "format", "'scorers_rl', which has no frame", "scorers_rl_pixel, _per_mille or _unit"
        )
    if not images:
        raise RowFault("missing_image", "image", "none", "an image: grounding needs one")
    boxes = json_boxes(_as_lists(answer(row, "answer")))
    if boxes is None or not all(abs(x) < 1e9 for box in boxes for x in box):
        raise RowFault("box_text", "answer", show(row["answer"]), "boxes as lists such as [[10,20,90,80]]")
    size = place.size(images[0])
    return record(None, question, task, boxes=[convert(box, frame, "pixel", size) for box in boxes], **more)


def _as_lists(said: str) -> str:
    """Boxes in Qwen2-VL's tokens as JSON lists; any other text as it is."""
    if BOX_START not in said:
        return said
    found = PAIR.sub(r"[\1,\2,\3,\4]", " ".join(said.split()))
    return "[" + re.sub(r"\] ?,? ?\[", "],[", found) + "]"


def trl(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    prompt, completion = row.get("prompt"), row.get("completion")
    messages = _turns(prompt, "prompt", "user")
    if completion is not None:
        messages += _turns(completion, "completion", "assistant")
    truth = next((row[name] for name in TRUTHS if row.get(name) is not None), None)
    names = (
        "boxes",
        "quads",
        "size",
        "choices",
        "references",
        "kind",
        "source",
        "id",
        "regions",
        "mask",
        "dates",
        *DETECTED,
    )
    return {
        "images": _images(row, place),
        "messages": messages,
        "task": task or row.get("task"),
        "answer": str(truth) if type(truth) in (int, float) else truth,
        **{name: row[name] for name in (*names, *DETECTED) if row.get(name) is not None},
    }


def _images(row: dict[str, Any], place: Place) -> list[str | bytes]:
    value = row.get("images", row.get("image"))
    names = [] if value is None else value if isinstance(value, list) else [value]
    return [place.image(name) if isinstance(name, bytes) else place.seek(name, ("images",)) for name in names]


def _turns(said: Any, field: str, role: str) -> list[dict[str, Any]]:
    if isinstance(said, str):
        return [{"role": role, "content": said}]
    if not isinstance(said, list) or not said or not all(isinstance(turn, dict) for turn in said):
        raise RowFault("missing_field" if said is None else "wrong_type", field, show(said), "a conversation, or text")
    return [
        {"role": turn.get("role"), "content": spelled(turn.get("content"))}
        | ({"zoom": turn["zoom"]} if "zoom" in turn else {})
        for turn in said
    ]
