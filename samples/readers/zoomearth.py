"""LRS-GRO's rows for SFT (ZoomEarth, earth-insights/ZoomEarth at 14c0bb5): thoughts, a look at a region, an answer.

Read off the published file, `LRS-GRO.jsonl` of that repository, and its loader, `src/train/SFT.py`:

    {"question_id": "LRS-GRO-1", "image_name": "0668.png", "category": "Object color / pattern", "type": "object",
     "question": "What colour is the crane?", "ground_truth": "red", "label": "crane", "cut": true,
     "global": "The image shows a port.", "stage_1_reasoning": "The crane stands at the pier. I need to pay attention to
     the reference object at\\n```json\\n[\\n {\\"bbox_2d\\": [163, 78, 196, 601], \\"label\\": \\"crane\\"}\\n]\\n```",
     "stage_2_reasoning": "Its boom is bright.", "bbox": [163, 78, 196, 601], "scale": 4.7890625, "split": "sft"}

    cut: true    question; <think>global, first stage</think> and a zoom into `bbox`; <think>second stage</think>
                 <answer>…</answer>. The first stage's JSON is left out: our own call stands in its place.
    cut: false   question; <think>all three</think><answer>…</answer>

`bbox` counts in a picture whose long side is 1024, and `scale` (long side / 1024, where it is given) takes it to pixels
of the original; a `scale` that is not this picture's is a fault. What is zoomed into is the box as it is: the published
512 x 512 around it is the tool's to make (`least`). `kind` is `type` and `category`; the box is in `regions`.

The file holds rows of other splits, too, which have no thoughts (format `lrs_gro`): they are left out (`no_trace`), so
that no test row is learned.
"""

from __future__ import annotations

import re
from typing import Any

from samples.readers.checks import region_in
from samples.readers.look import Look
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import LeftOut, Place, RowFault, show
from samples.readers.zooming import looks

FOLDERS = ("image", "images", "../images")
SIDE = 1024
_JSON = re.compile(r"```(?:json)?\s*\[.*?\]\s*```", re.DOTALL)


def traced(row: dict[str, Any]) -> bool:
    return "stage_1_reasoning" in row and "cut" in row


def fits(look: Look) -> bool:
    return any(traced(row) for row in look.first)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    if not traced(row):
        raise LeftOut("no_trace", f"a row of the split {row.get('split')!r}, which has no thoughts to learn")
    cut, box = row["cut"], row.get("bbox")
    if not isinstance(cut, bool):
        raise RowFault("wrong_type", "cut", show(cut), "true or false")
    if not isinstance(box, list) or (cut and not box):
        raise RowFault("missing_field" if cut else "wrong_type", "bbox", show(box), "[x1, y1, x2, y2], of a cut row")
    image = place.seek(row.get("image_name"), FOLDERS, "image_name")
    size, truth = place.size(image), answer(row, "ground_truth")
    more: dict[str, Any] = {"id": row.get("question_id", ""), "kind": kinds(row.get("type"), row.get("category"))}
    if box:
        more["regions"] = [_pixels(box, row.get("scale"), size)]
    found = record(image, text(row, "question"), task or "vqa", truth, **more)
    before = [text(row, "global"), _JSON.sub("", text(row, "stage_1_reasoning")).strip()]
    behind = [text(row, "stage_2_reasoning")]
    if cut and looks(found, region_in(more["regions"][0], size, "bbox"), size, place, _thought(before)):
        before = []
    found["messages"][-1]["content"] = f"{_thought([*before, *behind])}\n<answer>{truth}</answer>"
    return found


def _thought(parts: list[str]) -> str:
    return f"<think>{chr(10).join(filter(None, parts))}</think>"


def _pixels(box: list[Any], scale: Any, size: tuple[int, int]) -> list[float]:
    """A box in pixels of the original."""
    own = max(size) / SIDE
    if scale is not None and (type(scale) not in (int, float) or abs(scale - own) > 1e-3 * own):
        expected = f"{own:g}: the long side of {size[0]} x {size[1]} by {SIDE}"
        raise RowFault("size_mismatch", "scale", show(scale), expected)
    if not all(type(x) in (int, float) for x in box):
        raise RowFault("wrong_type", "bbox", show(box), "[x1, y1, x2, y2]")
    return [x * own for x in box]
