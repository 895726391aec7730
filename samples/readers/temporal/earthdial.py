"""EarthDial (Soni et al. 2025, arXiv 2412.15190): tables that `save_to_disk` wrote, one to four pictures a row.

As its evaluators read them (hiyamdebary/EarthDial, src/earthdial/eval/rs_change_detection/change_detection_shards.py,
rs_vqa/rs_vqa.py, rs_detection/detection_shards.py and rs_change_detection/detection_eval.py at 64e9f09), and as the
class ShardDataLoader of its trainer does, of which copies were read whose repository is not known (names of columns,
joined by commas; turns as JSON text). The shards themselves were not seen.

    trained    jpg, or jpg_A, jpg_B; conversations: '[{"from": "human", "value": "[changedet] [hr_rgb_temp_0.5] <image>
               <image> \\\\n What has changed?"}, {"from": "gpt", "value": "A road was built."}]', as JSON text
    asked      jpg, or jpg_A … jpg_D; question; groundtruth, or groundtruth0 … groundtruth4; perhaps ttype, __key__

Pictures    `jpg_A` … `jpg_D` in this order, else `jpg`. Bands (`tif_ms`, `rgbi`, …) are read where the column holds a
            TIFF's bytes, through `images.raster`; as arrays of numbers, as its trainer takes them, they are refused.
Texts       task and sensor tokens, `[changedet] [hr_rgb_temp_0.5]`, and the "\\n" behind the pictures (two characters
            in the published questions) leave the text: they are words of its model. They are `kind`. Outer quotes go.
Tasks       several ground truths are `references` of a caption; `[caption]` likewise with one; `ttype` is a type of
            `vqa`; `[classify]` is classification; an answer that is nothing but boxes is grounding; others are
            open_ended.
Boxes       `<ref>dam</ref> <box>[[x1, y1, x2, y2, angle]]</box>` in percent, turned about their centre by degrees as
            its evaluators turn them, against the clock as seen. An answer with boxes inside text is left out.
"""

from __future__ import annotations

import math
import re
from typing import Any

from samples.readers import conversations
from samples.readers.look import Look
from samples.readers.records import kinds, record
from samples.readers.rows import LeftOut, Place, RowFault, show
from samples.readers.tables import picture
from samples.readers.temporal import series
from vlm.pictures.places import TAG

SERIES = ("jpg_A", "jpg_B", "jpg_C", "jpg_D")
TURNED = "boxes are turned, against the clock as EarthDial's evaluators turn them (GeoChat's boxes turn with it)"
_TOKENS = re.compile(r'^[\s"]*((?:\[[A-Za-z]\w*(?:\.\d+)?\]\s*)+)')
_TOKEN = re.compile(r"\[([A-Za-z]\w*(?:\.\d+)?)\]")
_HEAD = re.compile(r"((?:\s*<image>)*)\s*(?:\\n)?\s*")
_BOX = re.compile(r"\[\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3,4})\s*\]")
_MARKUP = re.compile(r"<ref>.*?</ref>|</?box>|</?ref>", re.DOTALL)
_TRUTH = re.compile(r"groundtruth\d+")


def fits(look: Look) -> bool:
    return look.is_table and any(_is_ours(row) for row in look.first)


def _is_ours(row: dict[str, Any]) -> bool:
    if SERIES[0] in row or ("question" in row and any(key.startswith("groundtruth") for key in row)):
        return True
    turns = conversations.turns(row)
    first = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {}
    return isinstance(first.get("value"), str) and _TOKENS.match(first["value"]) is not None


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    pictures = [place.image(one) for one in _pictures(row)]
    if "question" in row:
        found = _asked(row, pictures)
    else:
        tokens, raw = _untokened(conversations.turns(row))
        turns = conversations.spoken(raw, len(pictures))
        found = {"images": pictures, "messages": turns, "kind": kinds(tokens), "answer": turns[-1]["content"]}
    texts = [turn["content"] for turn in found["messages"]]
    shown, _ = series.thinned(place, pictures, None, *texts)
    if len(shown) < len(pictures) and any(TAG in text for text in texts):
        raise LeftOut("frames", f"its text says where each of its {len(pictures)} pictures stands")
    found |= {"images": shown, "id": row.get("__key__", row.get("id", "")) or ""}
    return found | _truth(found, row, place, task)


def _pictures(row: dict[str, Any]) -> list[bytes | str]:
    names = [name for name in SERIES if row.get(name) is not None]
    names = names or [name for name in ("image", "jpg") if row.get(name)]
    if names:
        return [picture(name, row[name]) for name in names]
    others = [name for name, value in row.items() if isinstance(value, list | dict | bytes) and name != "conversations"]
    for name in others:
        value = row[name].get("bytes") if isinstance(row[name], dict) else row[name]
        if isinstance(value, bytes) and value[:4] in (b"II*\x00", b"MM\x00*"):
            return [value]
    named = f"no picture; there are {', '.join(others)}" if others else "no picture"
    expected = "jpg, jpg_A, jpg_B …, or a column with the bytes of a GeoTIFF: bands as arrays of numbers are not read"
    raise RowFault("missing_image", "jpg", named, expected)


def _asked(row: dict[str, Any], pictures: list[bytes | str]) -> dict[str, Any]:
    said = row["question"]
    if not isinstance(said, str) or not said.strip():
        raise RowFault("missing_field", "question", show(said), "a question")
    several = sorted(key for key in row if _TRUTH.fullmatch(key))
    truths = [_unquoted(row[key], key) for key in several or ["groundtruth"] if row.get(key) is not None]
    truths = [text for text in truths if text]
    if not truths:
        raise RowFault("missing_field", "groundtruth", "none", "an answer, or captions groundtruth0 …")
    more = {"kind": kinds(_tokens(said), row.get("ttype")), "references": truths if several else None}
    return record(None, _plain(said), "open_ended", truths[0], images=pictures, **more)


def _unquoted(value: Any, field: str) -> str:
    if type(value) in (int, float):
        return str(value)
    if not isinstance(value, str):
        raise RowFault("wrong_type", field, show(value), "text")
    return value.strip().strip('"').strip()


def _untokened(raw: Any) -> tuple[list[str], Any]:
    """(tokens of the first text that has some, the turns without them); what is no list of turns as it is."""
    if not isinstance(raw, list):
        return [], raw
    texts = [turn["value"] for turn in raw if isinstance(turn, dict) and isinstance(turn.get("value"), str)]
    tokens = next((found for text in texts if (found := _tokens(text))), [])
    plain = [
        {**turn, "value": _plain(turn["value"])}
        if isinstance(turn, dict) and isinstance(turn.get("value"), str) and turn.get("from") != "gpt"
        else turn
        for turn in raw
    ]
    return tokens, plain


def _tokens(said: str) -> list[str]:
    """`[changedet] [hr_rgb_temp_0.5] <image> …` → ["changedet", "hr_rgb_temp_0.5"]."""
    head = _TOKENS.match(said)
    return _TOKEN.findall(head[1]) if head else []


def _plain(said: str) -> str:
    """A text without the tokens before it and the line break behind its pictures."""
    said = _TOKENS.sub("", said.strip().strip('"'))
    head = _HEAD.match(said)
    assert head is not None  # it may be empty
    tags = head[1].count(TAG)
    return TAG * tags + "\n" * bool(tags) + said[head.end() :].strip()


def _truth(found: dict[str, Any], row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    messages, said = found["messages"], found["messages"][-1]["content"]
    if messages[-1]["role"] != "assistant":
        raise RowFault("conversation", "conversations", show(said), "an answer as the last turn")
    shapes = [[float(number) for number in match.split(",")] for match in _BOX.findall(said)]
    rest = _MARKUP.sub("", _BOX.sub("", said)).strip(" ,.[]\n")
    tokens = (found["kind"] or "").split(",")
    if shapes and rest:
        raise LeftOut("boxes_in_text", "its answer is text with boxes inside, which no task has as its truth")
    if not shapes:
        return {"task": task or _task(found, row, tokens)}
    width, height = place.size(found["images"][0])
    if any(len(shape) == 5 and shape[4] % 360 for shape in shapes):
        place.told[f"rows have {TURNED}"] += 1
        corners = [_turned(shape) for shape in shapes]
        truth = {"quads": [[value * side / 100 for value, side in zip(quad, (width, height) * 4, strict=True)]
                           for quad in corners]}  # fmt: skip
    else:
        sides = (width, height, width, height)
        truth = {"boxes": [[value * side / 100 for value, side in zip(shape, sides, strict=False)] for shape in shapes]}
    return {"task": task or "grounding", "messages": messages[:-1], "answer": None} | truth


def _turned(shape: list[float]) -> list[float]:
    """[x1, y1, x2, y2, degrees] → four corners, in percent; turned against the clock as seen, y down."""
    x1, y1, x2, y2, degrees = (*shape, 0.0)[:5]
    cx, cy, cos, sin = (x1 + x2) / 2, (y1 + y2) / 2, math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x1 - cx, y1 - cy), (x2 - cx, y1 - cy), (x2 - cx, y2 - cy), (x1 - cx, y2 - cy))
    return [value for x, y in corners for value in (cx + x * cos + y * sin, cy - x * sin + y * cos)]


def _task(found: dict[str, Any], row: dict[str, Any], tokens: list[str]) -> str:
    if found.get("references") or "caption" in tokens:
        return "caption"
    if row.get("ttype"):
        return "vqa"
    return "classification" if "classify" in tokens else "open_ended"
