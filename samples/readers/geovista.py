"""APEX-GRO, the traces of GeoVista (ryan6073/APEX-GRO on the hub): ShareGPT with calls of `zoom_in`, crops stored.

Read off ryan6073/GeoVista: `training/SFT/dataset_info.json` at 10d63b0 (which keys), the tool in
`training/RL/visual_toolbox_geovista.py` at 9b1d027 and `geovista/agent_framework.py` at 10d63b0 (frame, and what is
cut); the file itself was not seen. `apex_gro.jsonl`, one row a line:

    {"system": "…<tool_call>{\\"name\\": \\"zoom_in\\", …}</tool_call>…", "images": ["a.png", "a_crop1.png"],
     "conversations": [
        {"from": "human", "value": "<image>\\nHow many planes?"},
        {"from": "gpt", "value": "<think>Two aprons.</think><tool_call>{\\"name\\": \\"zoom_in\\", \\"arguments\\":
                                  {\\"bbox\\": [100, 200, 400, 600]}}</tool_call>"},
        {"from": "human", "value": "[System Observation]\\nCurrent View: …\\n<image>"},
        {"from": "gpt", "value": "<think>Three and one.</think><answer>4</answer>"}]}

A call becomes `zoom`: its box is per mille of the *first* picture, whatever `source_image_id` says, for so both tools
read it. The picture that answers it, and the text around that, are left out: the crop is made anew, of the original. It
is only compared: a stored crop of another shape than its region (TOLERANCE) is a fault, for then the box was stated in
another picture. A system turn that tells how to call `zoom_in` is left out, too: ours says it in our form.

Numbers in thoughts stay as they are, per mille: train with a notation of that frame (`qwen2_vl`). Rows whose call is
answered by an error, and rows with two pictures in the question, are faults.
"""

from __future__ import annotations

from typing import Any

from samples.readers import conversations
from samples.readers.checks import region_in
from samples.readers.look import Look
from samples.readers.rows import Place, RowFault, show
from vlm.boxes import convert as converted
from vlm.pictures.places import TAG
from vlm.tools import calls

FORMAT, NAME = "apex_gro", "zoom_in"
TOLERANCE = 0.1
"""By which the shape (width / height) of a stored crop may differ from its region's, besides two pixels a side."""


def fits(look: Look) -> bool:
    return any(_calls(row) for row in look.first)


def _calls(row: dict[str, Any]) -> bool:
    """Whether some turn calls `zoom_in`."""
    raw = conversations.turns(row)
    said = [turn for turn in raw if isinstance(turn, dict)] if isinstance(raw, list) else []
    texts = [turn.get("value", turn.get("content")) for turn in said]
    return any(isinstance(said, str) and calls.BEGIN in said and f'"{NAME}"' in said for said in texts)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    found = conversations.convert(row, FORMAT, place, task)
    images, turns = found["images"], _with_system(found["messages"], row.get("system"))
    if not any(calls.BEGIN in turn["content"] for turn in turns if turn["role"] == "assistant"):
        return found | {"messages": turns}
    tags = [_shown(turn) for turn in turns if turn["role"] == "user"]
    if not images or (tags[0] != 1 if any(tags) else len(images) > 1):
        raise RowFault("zoom", "images", f"{len(images)} images", "a question about one, which is zoomed into")
    size, shown = place.size(images[0]), 1
    said: list[dict[str, Any]] = []
    asked = None
    for number, turn in enumerate(turns, 1):
        field = f"conversations[{number}]"
        if asked is not None:
            if turn["role"] != "user" or _shown(turn) != 1:
                raise RowFault("zoom", field, show(turn["content"]), "the picture that answers the call before it")
            _compare(place.size(images[shown]), asked, field)
            asked, shown = None, shown + 1
            continue
        if turn["role"] == "user" and said and _shown(turn):
            raise RowFault("zoom", field, show(turn["content"]), "no picture but of the question and of calls")
        called = _called(turn["content"], field) if turn["role"] == "assistant" else None
        if called is None:
            said.append(turn)
            continue
        text, bbox = called
        asked = region_in(converted(bbox, "per_mille", "pixel", size), size, field)
        said.append({"role": "assistant", "content": text, "zoom": asked})
    return found | {"images": images[:1], "messages": said}


def _shown(turn: dict[str, Any]) -> int:
    return turn["content"].count(TAG)


def _called(said: str, field: str) -> tuple[str, list[float]] | None:
    """(thoughts, box as it is stated) of a turn that calls; None of one that does not."""
    try:
        call = calls.read(said.rstrip())
    except calls.BadCall as error:
        raise RowFault(
            "zoom", field, show(said[-80:]), f"one call of {NAME} at the end of the turn ({error})"
        ) from error
    if call is None:
        return None
    bbox = call.arguments.get("bbox")
    right = isinstance(bbox, list) and len(bbox) == 4 and all(type(x) in (int, float) and abs(x) < 1e9 for x in bbox)
    if call.name != NAME or not isinstance(bbox, list) or not right:
        expected = f"a call of {NAME} with bbox [x1, y1, x2, y2], 0 to 1000"
        raise RowFault("zoom", field, show([call.name, call.arguments]), expected)
    return said.partition(calls.BEGIN)[0].rstrip(), bbox


def _compare(crop: tuple[int, int], region: list[float], field: str) -> None:
    wide, high = region[2] - region[0], region[3] - region[1]
    least, most = max(wide - 2, 1) / (high + 2), (wide + 2) / max(high - 2, 1)
    if not least * (1 - TOLERANCE) <= crop[0] / crop[1] <= most * (1 + TOLERANCE):
        found = f"a crop of {crop[0]} x {crop[1]} for a region of {wide:.0f} x {high:.0f} pixels of the first image"
        expected = "one shape: the call's box is of another picture than the first, or another region was cut out"
        raise RowFault("zoom", field, found, expected)


def _with_system(turns: list[dict[str, Any]], said: Any) -> list[dict[str, Any]]:
    """The turns behind the row's system turn, unless that tells of the tool."""
    if said not in (None, "") and turns[0]["role"] != "system":
        if not isinstance(said, str):
            raise RowFault("wrong_type", "system", show(said), "the system turn's text")
        turns = [{"role": "system", "content": said}, *turns]
    told = turns[0]["role"] == "system" and (calls.BEGIN in turns[0]["content"] or NAME in turns[0]["content"])
    return turns[1:] if told else turns
