"""The one record of training and evaluation data, and how it is written.

Our own JSONL holds one Sample per line, images relative to the file's folder or absolute; other keys are columns:

    {"images": ["images/3.png"], "task": "grounding", "boxes": [[10, 20, 90, 80]], "size": [112, 112],
     "messages": [{"role": "user", "content": "the red ship near the pier"}], "id": "3"}
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.common.files import replacing

DETECTED = ("labels", "difficult", "classes")
"""Fields of a Sample that rows of the task `detection` alone have."""


@dataclass(slots=True)
class Sample:
    """One question about one or more images, with its reference."""

    images: list[str | bytes]
    "Absolute paths or encoded bytes, perhaps with how a raster is read; decoded by `vlm.pictures.images`."
    messages: list[dict[str, Any]]
    """Turns {"role", "content"}: user and assistant in turn, perhaps a system turn first. `<image>` in a user's text is
    where a picture stands, in order; without any, pictures stand before the first question (`vlm.pictures.places`).

    An assistant's turn may have `zoom`, [x1, y1, x2, y2] in pixels of the original first image, y down, inside of it:
    behind its text (which may be "") it asks for that region. The crop follows by itself and is no turn here, so that
    the next turn is the assistant's again: user, assistant with zoom, assistant that answers. The text of the call,
    and the crop, are made when a row is read, for its numbers depend on how the picture is seen."""
    task: str
    "One of TASKS."
    answer: str | None = None
    "The reference answer: what is inside <answer>…</answer>."
    boxes: list[list[float]] | None = None
    "x1, y1, x2, y2 in pixels of the original image, y down; the whole image is 0, 0, w, h."
    quads: list[list[float]] | None = None
    "x1, y1, …, x4, y4 around each object, likewise in pixels; `boxes` then go around them, cut to the image."
    labels: list[str] | None = None
    """What each of `quads` is, or of `boxes` where there are none, in words ("storage tank"): in rows of the task
    `detection`, which hold all objects of a picture, of the `classes` that are asked for; perhaps none."""
    difficult: list[bool] | None = None
    "Which of these objects are marked as difficult: metrics and rewards leave them out of account. None: none is."
    classes: list[str] | None = None
    "What detection asks for, in words, in the order in which objects are written."
    written: str | None = None
    "The notation of its boxes, where its source says one (`notation:`); None: the recipe's."
    tooled: bool | None = None
    "False where its source says that it is asked without the recipe's tools (`tools: false`)."
    size: tuple[int, int] | None = None
    "(width, height) in pixels of the first image, upright."
    choices: list[str] | None = None
    "Texts of the options in order A, B, C …"
    source: str = ""
    "Where it came from: the file's stem unless the row says otherwise."
    id: str = ""
    "Unique within its source: the row's own, else its number in the file."
    kind: str | None = None
    'The question type within the task ("count"); several are separated by commas.'
    references: list[str] | None = None
    "Texts that are all equally right: the captions of an image. `answer` is what SFT learns, the first of them."
    regions: list[list[float]] | None = None
    """Where in the first image the answer is to be seen, as `boxes` are, cut to the image: the true regions of a zoom.
    Rewards and metrics get them; the model is never told."""
    mask: dict[str, Any] | None = None
    """Of rows of `segmentation`: the pixels that are asked for, as COCO's compressed run lengths of the upright first
    image, {"size": [height, width], "counts": text} (`vlm.masks`); perhaps none of them. Of
    grounding and classification perhaps the pixels of the objects, or of what is asked about: metrics count them."""
    dates: list[str] | None = None
    'When each of `images` was taken, in the data\'s words ("2019-04-02", "2019-04").'
    columns: dict[str, Any] | None = None
    "What else the row holds, by name: rewards get it (`samples.readers.keys`). None for nothing."


def kinds_of(kind: str | None) -> list[str]:
    """The question types that a `kind` names; none for None."""
    return [one.strip() for one in (kind or "").split(",") if one.strip()]


def write(path: str | os.PathLike[str], samples: Iterable[Sample]) -> int:
    """Samples as our own JSONL; returns how many. Images below the file's folder are written relative to it.

    The file appears whole or not at all.
    """
    folder, count = Path(path).parent.absolute(), 0
    with replacing(Path(path)) as file:
        for sample in samples:
            file.write(json.dumps(_row(sample, folder), ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def _row(sample: Sample, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"images": [image_name(image, folder) for image in sample.images]}
    row |= {"messages": sample.messages, "task": sample.task}
    for name in (
        "answer",
        "references",
        "boxes",
        "quads",
        *DETECTED,
        "size",
        "choices",
        "source",
        "id",
        "kind",
        "regions",
        "mask",
        "dates",
    ):
        value = getattr(sample, name)
        if value is not None and value != "":
            row[name] = value
    if sample.answer == "":
        row["answer"] = ""
    return row | (sample.columns or {})


def image_name(image: str | bytes, folder: Path) -> str:
    """How a row in `folder` (absolute) names an image: relative where it lies below, a data URL for bytes."""
    if isinstance(image, bytes):
        return "data:;base64," + base64.b64encode(image).decode()
    return Path(image).relative_to(folder).as_posix() if Path(image).is_relative_to(folder) else image
