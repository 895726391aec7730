"""Conversation files: VHM / VG-DIOR / ScoreRS JSON and ShareGPT.

    {"image": "00012.jpg", "image_path": "images",
     "conversations": [{"from": "human", "value": "<image>\\nthe dam"},
                       {"from": "gpt", "value": "[10,20,90,80]"}]}

The frame of a box cannot be seen in the file, so it is part of the format and never guessed:

    conversations  text answers, no boxes; the task comes from the row or the source
    vg_dior        boxes as JSON lists in absolute pixels, `[10,20,90,80]`: the published VG-DIOR test files
    vhm            boxes in per mille, `[[012,025,112,100]]`: VHM's SFT rows; without a box: `open_ended`
    sharegpt       `messages[{from, value}]` (or role, content) and `images[]`: traces for the SFT stage

`image_path` is a folder, absolute or relative to the JSON; without it the images lie in the folder named
after the JSON file's stem, as in the VHM and ScoreRS evaluators, or beside the file. Rows may also say
`task`, `choices`, `answer`, `references`, `id` (or `question_id`), `kind` (or `type`). A row's `size` is only compared
with the image, in either order: those evaluators read it as (h, w).

A reference that is nothing but box text is taken out of `messages`: it is in `boxes`, in pixels, and would
otherwise carry its numbers into prompts of another frame. Whoever needs it as text writes it in the model's
notation.
"""

from __future__ import annotations

import os
import re
from typing import Any

from samples.readers import options
from samples.readers.records import json_boxes, settled
from samples.readers.rows import LeftOut, Place, RowFault, show
from vlm import answers
from vlm.boxes import read_boxes
from vlm.pictures.places import TAG, spelled

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
CALLS = ("<tool_call>", "<grounding>")
"""How calls begin: Qwen's and GeoVista's, Mini-o3's."""
_NUMBER = r"\s*-?\d+(?:\.\d+)?\s*"
BOX_LIKE = re.compile(rf"\[{_NUMBER}(?:,{_NUMBER}){{3}}\]|\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")


def turns(row: dict[str, Any]) -> Any:
    """The raw turns of a row under whichever of their three names, or None."""
    return next((row[key] for key in ("conversations", "conversation", "messages") if key in row), None)


def uses_from(row: dict[str, Any]) -> bool:
    """Whether the turns are written the ShareGPT way: from and value, not role and content."""
    raw = turns(row)
    return isinstance(raw, list) and any(isinstance(turn, dict) and "from" in turn for turn in raw)


def boxed(row: dict[str, Any]) -> bool:
    """Whether some turn that is not the user's holds what looks like a box, so that its frame matters."""
    raw = turns(row)
    said = [turn for turn in raw if isinstance(turn, dict)] if isinstance(raw, list) else []
    texts = [turn.get("value", turn.get("content")) for turn in said if turn.get("from", turn.get("role")) != "human"]
    return any(isinstance(text, str) and ("[" in text or "(" in text) and BOX_LIKE.search(text) for text in texts)


def convert(
    row: dict[str, Any], format: str, place: Place, task: str | None, folders: tuple[str, ...] = ()
) -> dict[str, Any]:
    """One row → the keys of a Sample, still unchecked. `task` is the source's and overrides the row's."""
    found = pictures(row, place, folders)
    messages = spoken(turns(row), len(found))
    reference = messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else None
    text = _answer_text(reference)
    record = {
        "images": found,
        "messages": messages,
        "task": task if task is not None else row.get("task"),
        "answer": row.get("answer", text),
        "choices": row.get("choices"),
        "references": row.get("references"),
        "id": row.get("id", row.get("question_id", "")),
        "kind": _kind(row),
    }
    if record["task"] == "choice" and record["choices"] is None:
        _take_options(record)
    if format == "apex_gro":
        return record | {"task": record["task"] or "open_ended"}
    _refuse_calls(messages)
    if format == "sharegpt":
        record["boxes"], record["size"], record["regions"] = row.get("boxes"), row.get("size"), row.get("regions")
        record["task"] = record["task"] or "open_ended"
        return record
    _compare_size(row, found, place)
    if format == "conversations":
        if record["task"] is None:
            raise RowFault("missing_field", "task", "none", "a task in the row or in the source (task: vqa)")
        if record["task"] == "grounding":
            raise RowFault("box_text", "format", "'conversations', which has no frame", "vg_dior or vhm for grounding")
        return record
    if record["task"] is None:
        boxed = format == "vg_dior" or BOX_LIKE.search(text or "") is not None
        record["task"] = "grounding" if boxed else "open_ended"
    if record["task"] == "grounding":
        if not found:
            raise RowFault("missing_image", "image", "none", "an image: grounding needs one")
        record["boxes"] = _boxes(text, format, place.size(found[0]))
        record["answer"] = None
        if reference == text:
            record["messages"] = messages[:-1]
    return record


def _refuse_calls(messages: list[dict[str, Any]]) -> None:
    """Raises: RowFault for a call in text that the next turn answers with a picture: its box is of an unknown frame."""
    for number, (turn, after) in enumerate(zip(messages, messages[1:], strict=False), 1):
        if turn["role"] == "assistant" and any(mark in turn["content"] for mark in CALLS) and TAG in after["content"]:
            expected = (
                "no call in text that a picture answers: in which frame and picture its box counts cannot be seen. "
                "GeoVista's rows are read as `format: apex_gro`; write others with `zoom` (docs/rows.md)"
            )
            raise RowFault("zoom", f"conversations[{number}]", show(turn["content"][-80:], 90), expected)


def _take_options(record: dict[str, Any]) -> None:
    """Lettered options of the last question become `choices`, as VHM and LHRS-Bench's variant write them."""
    asked = [turn for turn in record["messages"] if turn["role"] == "user"]
    if asked:
        record["repeats"] = True
        asked[-1]["content"], record["choices"] = options.taken(asked[-1]["content"], "conversations")


def pictures(row: dict[str, Any], place: Place, folders: tuple[str, ...] = ()) -> list[str | bytes]:
    """The row's images, found below `image_path`, else in the folder named after the file's stem, the file's own, or
    one of `folders`."""
    names = row.get("images", row.get("image"))
    names = [] if names is None else names if isinstance(names, list) else [names]
    folder = row.get("image_path")
    if not all(isinstance(name, str | bytes) for name in names) or not isinstance(folder, str | None):
        raise RowFault("wrong_type", "image", show([names, folder]), "file names")
    for field, said in (("image_path", folder), *(("image", name) for name in names)):
        if isinstance(said, str):
            place.own(said, field)
    tried = [place.path.stem if folder is None else folder]
    if folder is None or place.given:
        tried += [".", *folders]
    return [
        place.image(name) if isinstance(name, bytes) else place.find(*(os.path.join(folder, name) for folder in tried))
        for name in names
    ]


def spoken(raw: Any, images: int) -> list[dict[str, Any]]:
    """Turns with our role names, pictures where the texts put them (`vlm.pictures.places`)."""
    if not isinstance(raw, list) or not raw:
        raise RowFault("missing_field", "conversations", show(raw), "a list of turns")
    messages = []
    for turn in raw:
        if not isinstance(turn, dict):
            raise RowFault("wrong_type", "conversations", show(turn), "a turn with 'from' and 'value'")
        said, content = turn.get("from", turn.get("role")), spelled(turn.get("value", turn.get("content")))
        role = ROLES.get(said) if isinstance(said, str) else None
        if isinstance(content, str) and "[SEG]" in content:
            raise LeftOut("mask", "its answer has masks (GeoPixel's [SEG]): format: geopixel reads these rows")
        if role is None or not isinstance(content, str):
            raise RowFault("conversation", "conversations", show(turn), "from human or gpt, with a text value")
        messages.append({"role": role, "content": content} | ({"zoom": turn["zoom"]} if "zoom" in turn else {}))
    return settled(messages, images, "conversations")


def _answer_text(reference: str | None) -> str | None:
    """What stands inside the one <answer> of a reference, else the whole reference."""
    if reference is None or "<answer>" not in reference:
        return reference
    return answers.parse(reference).answer


def _kind(row: dict[str, Any]) -> Any:
    """The question type; several (LHRS-Bench: ["1", "11"]) are joined with a comma, and count in each."""
    kind = row.get("kind", row.get("type"))
    if isinstance(kind, list) and all(isinstance(part, str) for part in kind):
        return ",".join(kind) or None
    return kind


def _compare_size(row: dict[str, Any], found: list[str | bytes], place: Place) -> None:
    size = row.get("size")
    if size is None or not found:
        return
    actual = place.size(found[0])
    if not isinstance(size, list) or tuple(size) not in (actual, actual[::-1]):
        raise RowFault("size_mismatch", "size", show(size), f"the image's own {list(actual)} (w, h)")


def _boxes(text: str | None, format: str, size: tuple[int, int]) -> list[list[float]]:
    """Pixel boxes from the reference's text in the declared frame."""
    if format == "vhm":
        boxes = None if text is None else read_boxes(text, "vhm", size)
        expected = "boxes in per mille such as [[012,025,112,100]], the smaller corner first"
    else:
        boxes, expected = json_boxes(text), "boxes in pixels such as [10,20,90,80] (zero-padded: format vhm)"
    if boxes is None:
        raise RowFault("box_text", "conversations", show(text), expected)
    return boxes
