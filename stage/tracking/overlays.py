"""Rows of the table for trackers: in wandb boxes and masks are overlays that can be switched on and off, in trackio
they are drawn into the picture. Regions that a tool showed are drawn with their numbers, and stand beside it as
pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stage.tracking.pictures import placed
from vlm.boxes import NOTHING, ious, spoken
from vlm.masks import pixels_of
from vlm.pictures.drawing import HALO, PREDICTED, TRUE, ZOOMED, outline
from vlm.pictures.images import load
from vlm.pictures.overlaid import laid

CLASSES = {0: "truth", 1: "answer"}
"""Class ids of the boxes, the same in every picture."""
ZOOM = {2: "zoom"}
"""One more where the model has tools."""
NEITHER, NUMBERS = 3, {"truth": 4, "answer": 5}
"""Class ids of the pixels of masks: others than those of boxes, for a picture may have both."""
MASKS = {NEITHER: "no mask", NUMBERS["truth"]: "true mask", NUMBERS["answer"]: "answer's mask"}
TEXTS = ("step", "source", "id", "task", "prompt", "trace", "answer", "truth", "completion")
"""Columns before the rewards."""
PICTURE, CROPS, FURTHER = "image", "crops", "further images"


def boxes_of(row: dict[str, Any]) -> dict[str, list[list[int]]]:
    """`truth`, `answer` and `zoom`, those that there are: boxes in pixels of the small picture."""
    size, small = row["truth"]["size"], row["image_size"]
    if not small:
        return {}
    found = {"truth": row["truth"]["boxes"], "answer": row["read"]} if size else {}
    made = {kind: [placed(box, size, small) for box in boxes] for kind, boxes in found.items() if boxes}
    if zoomed := zooms(row):
        made["zoom"] = [placed(crop["box"], crop["of"], small) for crop in zoomed.values()]
    return made


def zooms(row: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Regions of the picture that were shown, by their numbers among all that were, from 1."""
    crops = enumerate(row.get("crops", ()), 1)
    return {number: crop for number, crop in crops if crop["image"] == 0 and crop["of"]}


def overlays(row: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The boxes as `wandb.Image` takes them; None where there are none.

    https://docs.wandb.ai/models/track/log/media, "Image overlays in Tables": box_data with `position` in the domain
    "pixel". An answer's box has the score `iou`, with the true box that it covers best, to filter by.
    """
    found = boxes_of(row)
    labels = {"truth": row["truth"].get("labels"), "answer": row.get("read_labels")}
    best = _best(row["read"], row["truth"]["boxes"], labels["answer"], labels["truth"])
    numbers, classes = list(zooms(row)), CLASSES | (ZOOM if "turns" in row else {})
    made: dict[str, dict[str, Any]] = {}
    for number, kind in classes.items():
        if kind not in found:
            continue
        data = []
        for place, box in enumerate(found[kind]):
            position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
            names = labels.get(kind)
            caption = f"{kind}: {names[place]}" if names else kind
            data.append({"position": position, "domain": "pixel", "class_id": number, "box_caption": caption})
            if kind == "answer" and best:
                data[-1] |= {"box_caption": f"{caption}, IoU {best[place]:.2f}", "scores": {"iou": best[place]}}
            if kind == "zoom":
                data[-1] |= {"box_caption": f"zoom {numbers[place]}"}
        made[kind] = {"box_data": data, "class_labels": classes}
    return made or None


def masks_of(row: dict[str, Any]) -> dict[str, np.ndarray]:
    """`truth` and `answer`, those that there are: (h, w) bool, of the pixels of the small picture."""
    return {kind: pixels_of(mask) for kind, mask in row.get("masks", {}).items() if mask is not None}


def mask_overlays(row: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The masks as `wandb.Image` takes them; None where there are none.

    https://docs.wandb.ai/models/track/log/media, "Segmentation masks": mask_data (h, w) with a class id for each pixel.
    """
    made = {
        kind: {"mask_data": np.where(mask, NUMBERS[kind], NEITHER).astype(np.uint8), "class_labels": MASKS}
        for kind, mask in masks_of(row).items()
    }
    return made or None


def _best(
    read: Sequence | None,
    truth: Sequence | None,
    said: Sequence[str | None] | None = None,
    true: Sequence[str] | None = None,
) -> list[float]:
    """For each box of the answer its IoU with the true box that it covers best; of its class, where boxes have one."""
    if not read or not truth:
        return []
    found = ious(read, truth)
    if said is not None and true is not None:
        found = found * [[one is not None and spoken(one) == spoken(other) for other in true] for one in said]
    return [float(best) for best in found.max(axis=1)]


def drawn(row: dict[str, Any], folder: Path) -> Image.Image:
    """The picture with its masks and boxes, true boxes solid, the answer's dashed, regions that were shown with their
    numbers, in the colours of `vlm.pictures.drawing`."""
    picture = load(str(folder / row["image"]))
    if masks := masks_of(row):
        picture = laid(picture, masks.get("truth"), masks.get("answer"))
    pen, found = ImageDraw.Draw(picture), boxes_of(row)
    for kind, boxes in found.items():
        for box in boxes:
            outline(pen, box, *LINES[kind])
    for number, box in zip(zooms(row), found.get("zoom", ()), strict=True):
        numbered(pen, box, number, picture.size)
    return picture


LINES = {"truth": (TRUE, None), "answer": (PREDICTED, 8), "zoom": (ZOOMED, None)}
"""Of boxes: colour, and pixels of a dash."""
DIGITS = 14
"""Pixels of a number's height."""
CORNERS = ((False, False), (True, True), (True, False), (False, True))
"""(right, below) of the boxes, one after another."""


def numbered(pen: ImageDraw.ImageDraw, box: Sequence[float], number: int, size: tuple[int, int]) -> None:
    """A number in a corner of a box, inside the picture: each in another, for a region often lies in the one before."""
    right, below = CORNERS[(number - 1) % len(CORNERS)]
    x, y = box[2] - DIGITS if right else box[0] + 4, box[3] - DIGITS - 4 if below else box[1] + 2
    x, y = (max(0, min(place, most - DIGITS - 2)) for place, most in zip((x, y), size, strict=True))
    pen.text((x, y), str(number), ZOOMED, ImageFont.load_default(DIGITS), stroke_width=2, stroke_fill=HALO)


def captioned(crop: dict[str, Any], number: int) -> str:
    """E.g. "zoom 2 of picture 1: 40, 12, 96, 68", in pixels of the original."""
    box = ", ".join(f"{edge:g}" for edge in crop["box"])
    return f"zoom {number} of picture {crop['image'] + 1}: {box}"


def named(row: dict[str, Any], number: int) -> str:
    """E.g. "picture 2, 2021-07"; number: among the question's pictures, from 1."""
    dates = row.get("dates") or ()
    return f"picture {number}, {dates[number - 1]}" if number <= len(dates) else f"picture {number}"


def table(rows: Sequence[dict[str, Any]], tracker: Any, folder: Path, overlaid: bool) -> Any:
    """`tracker.Table` of the rows. tracker: wandb or trackio, the module. overlaid: it takes boxes beside pictures."""
    rewards = list(dict.fromkeys(name for row in rows for name in row["rewards"]))
    pictured, more = any(row["image"] for row in rows), any(row["further"] for row in rows)
    tools = any("turns" in row for row in rows)
    columns = [*[PICTURE] * pictured, *[CROPS] * tools, *TEXTS, *rewards, "advantage", *[FURTHER] * more]
    data = []
    for row in rows:
        cells = {**row, **row["rewards"], "truth": truth(row)}
        if row["image"]:
            path = str(folder / row["image"])
            given = {"masks": masks} if (masks := mask_overlays(row)) else {}
            cells[PICTURE] = (
                tracker.Image(path, boxes=overlays(row), **given) if overlaid else tracker.Image(drawn(row, folder))
            )
        cells[FURTHER] = [
            tracker.Image(str(folder / name), caption=named(row, number))
            for number, name in enumerate(row["further"], 2)
        ]
        cells[CROPS] = [
            tracker.Image(str(folder / crop["file"]), caption=captioned(crop, number))
            for number, crop in enumerate(row.get("crops", ()), 1)
            if crop["file"]
        ]
        data.append([cells.get(column) for column in columns])
    return tracker.Table(columns=columns, data=data, allow_mixed_types=True)


def truth(row: dict[str, Any]) -> str | None:
    """What would have been right, as text: the answer, or the boxes in pixels of the original image."""
    known = row["truth"]
    if known["answer"] is not None:
        return known["answer"]
    shapes = known["quads"] or known["boxes"]
    if shapes == []:  # of detection: a picture without objects
        return NOTHING
    if not shapes:
        return None
    names = [f" {name}" for name in known.get("labels") or ()] or [""] * len(shapes)
    texts = (", ".join(f"{edge:g}" for edge in shape) for shape in shapes)
    return "; ".join(text + name for text, name in zip(texts, names, strict=True))
