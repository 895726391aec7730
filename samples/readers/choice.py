"""CHOICE (ShawnAn-WHU/CHOICE, read at eb6c430): a JSON list for each of 23 tasks.

    [{"id": "6ae0…", "image_path": "perception/…/object_counting/images/3.png",
      "question": "How many dams are there?\\nA.3\\nB.5", "answer": "A"}]

    21 tasks                               choice; the letters have no blank behind them
    visual_grounding                       grounding; `answer` has four corners [x, y] in fractions of the image, in any
                                           order: they become a quadrilateral, in order around their centre
    referring_expression_segmentation      segmentation; `mask_path` is a picture of the mask, 0 and one other value;
                                           the question is what stands in "Give me the mask of … in this image."

A wrong option that is repeated is read as it is; a question whose true option stands at two letters is left out
(`two_right`). `kind` is the task, from the folder of the picture. CHOICE scores grounding by the predicted upright box
against the truth's quadrilateral. `image_path` and `mask_path` are looked for beside the file and up to three folders
above it.
"""

from __future__ import annotations

import math
import re
from typing import Any

from samples.readers import options
from samples.readers.look import Look
from samples.readers.masked.pictures import plain
from samples.readers.records import answer, record, text
from samples.readers.rows import Place, RowFault, show

ABOVE = ("..", "../..", "../../..")
_LETTER = re.compile(r"[A-Z]")
_MASKED = re.compile(r"\s*give me the masks? of\s", re.IGNORECASE)
_HERE = (" in this image", " in the image")
_SOUGHT = re.compile(r"coordinates of (.+?) in (?:the|this) image", re.DOTALL)


def fits(look: Look) -> bool:
    return any(_row(row) for row in look.first)


def _row(row: dict[str, Any]) -> bool:
    asked, truth = row.get("question"), row.get("answer")
    if not isinstance(row.get("image_path"), str) or not isinstance(asked, str):
        return False
    if isinstance(truth, str):
        return _LETTER.fullmatch(truth) is not None and options.split(asked) is not None
    return isinstance(truth, list) or "mask_path" in row


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("image_path"), ABOVE, "image_path")
    parts = row["image_path"].split("/")
    more = {"id": row.get("id", ""), "kind": parts[-3] if len(parts) > 2 and parts[-2] == "images" else None}
    asked = text(row, "question")
    if "mask_path" in row and "answer" not in row:
        place.alone = False
        runs = plain(place.seek(row["mask_path"], ABOVE, "mask_path"), place.size(image), "mask_path")
        return record(image, _described(asked), task or "segmentation", mask=runs, **more)
    if not isinstance(row.get("answer"), list):
        said, choices = options.taken(asked, "question")
        return record(image, said, task or "choice", answer(row, "answer"), choices=choices, repeats=True, **more)
    if found := _SOUGHT.search(asked):
        asked = found[1].strip()
    width, height = place.size(image)
    quad = [side * (height if place % 2 else width) for place, side in enumerate(_around(row["answer"]))]
    return record(image, asked, task or "grounding", quads=[quad], **more)


def _described(asked: str) -> str:
    """What a question asks the mask of; another question as it is."""
    if (found := _MASKED.match(asked)) is None:
        return asked
    said = asked[found.end() :].strip().removesuffix(".").rstrip()
    here = next((here for here in _HERE if said.lower().endswith(here)), "")
    return said[: len(said) - len(here)].strip() or asked


def _around(corners: list[Any]) -> list[float]:
    """Four corners in fractions of the image as x1, y1, …, x4, y4, in order around their centre."""
    right = len(corners) == 4 and all(
        isinstance(one, list) and len(one) == 2 and all(type(x) in (int, float) and 0 <= x <= 1 for x in one)
        for one in corners
    )
    if not right:
        raise RowFault("box_text", "answer", show(corners), "four corners [x, y] in fractions of the image, 0 to 1")
    x0, y0 = (sum(one[axis] for one in corners) / 4 for axis in (0, 1))
    ordered = sorted(corners, key=lambda one: math.atan2(one[1] - y0, one[0] - x0))
    return [float(x) for one in ordered for x in one]
