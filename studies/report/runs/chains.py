"""Conversations with tools, as runs keep them: the turns behind a question, and the regions that were shown.

turns  [{"role": "assistant" | "tool", "content": text with `<image>` where a picture stands}, …]
crops  [{"turn": place in `turns`, "image": of the question, from 0, "box": [x1, y1, x2, y2] of that original, …}, …]
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.report.pictures import Cut
from vlm.common.errors import DataError

Turns = list[dict[str, str]]


@dataclass
class Crop:
    """A region that a tool has shown."""

    turn: int
    "Place among the turns of the tool's."
    image: int
    "Which of the question's pictures, from 0."
    box: list[float]
    "x1, y1, x2, y2 in pixels of that original."
    of: list[float] | None = None
    "Width and height of that original, where the row says it."
    file: str | None = None
    "Where the run folder holds it as a picture."
    picture: Path | Cut | None = None
    "What shows it; None where that is not known."


def read(row: dict[str, Any], where: str, image: Path | None) -> tuple[Turns, list[Crop]]:
    """Turns and crops of a row; none of a row without tools. Each may be JSON, as in TRL's table.

    image: the question's first picture, from which its regions are cut. Raises: DataError.
    """
    turns, crops = (_decoded(row.get(name), f"{where}, {name}") for name in ("turns", "crops"))
    for turn in turns:
        known = isinstance(turn, dict) and turn.get("role") in ("assistant", "tool")
        if not known or not isinstance(turn.get("content"), str):
            raise DataError(
                f"{where}, turns: found {str(turn)[:80]}; expected {{role: assistant | tool, content: text}}"
            )
    if turns and turns[-1]["role"] != "assistant":
        raise DataError(f"{where}, turns: the last is a tool's; expected one of the model's")
    return turns, [_crop(crop, f"{where}, crops", turns, image) for crop in crops]


def _crop(crop: Any, where: str, turns: Turns, image: Path | None) -> Crop:
    found = crop if isinstance(crop, dict) else {}
    turn: Any = found.get("turn")
    number: Any = found.get("image")
    box: Any = found.get("box")
    whole = type(turn) is int and type(number) is int and isinstance(box, list) and len(box) == 4
    if not whole or not all(type(edge) in (int, float) and math.isfinite(edge) for edge in box):
        raise DataError(f"{where}: found {str(crop)[:80]}; expected turn, image and a box of four numbers")
    if not (0 <= turn < len(turns) and turns[turn]["role"] == "tool"):
        raise DataError(f"{where}: turn {turn} is none of the tool's; there are {len(turns)} turns")
    shown = Cut(image, tuple(box)) if image and number == 0 else None
    return Crop(turn, number, box, found.get("of"), found.get("file"), shown)


def _decoded(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: found {value[:60]!r}, expected JSON ({error})") from error
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{where}: found {type(value).__name__}, expected a list")
    return value
