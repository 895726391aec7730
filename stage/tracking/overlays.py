"""Rows of the table for trackers: in wandb boxes are overlays that can be switched on and off, in trackio they are
drawn into the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from stage.tracking.pictures import placed
from vlm.boxes import ious
from vlm.pictures.drawing import PREDICTED, TRUE, outline
from vlm.pictures.images import load

CLASSES = {0: "truth", 1: "answer"}
"""Class ids of the boxes, the same in every picture."""
TEXTS = ("step", "source", "id", "task", "prompt", "trace", "answer", "truth", "completion")
"""Columns before the rewards."""
PICTURE, FURTHER = "image", "further images"


def boxes_of(row: dict[str, Any]) -> dict[str, list[list[int]]]:
    """`truth` and `answer`, those that there are: boxes in pixels of the small picture."""
    size, small = row["truth"]["size"], row["image_size"]
    if not size or not small:
        return {}
    found = {"truth": row["truth"]["boxes"], "answer": row["read"]}
    return {kind: [placed(box, size, small) for box in boxes] for kind, boxes in found.items() if boxes}


def overlays(row: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The boxes as `wandb.Image` takes them; None where there are none.

    https://docs.wandb.ai/models/track/log/media, "Image overlays in Tables": box_data with `position` in the domain
    "pixel". An answer's box has the score `iou`, with the true box that it covers best, to filter by.
    """
    found = boxes_of(row)
    best = _best(row["read"], row["truth"]["boxes"])
    made: dict[str, dict[str, Any]] = {}
    for number, kind in CLASSES.items():
        if kind not in found:
            continue
        data = []
        for place, box in enumerate(found[kind]):
            position = dict(zip(("minX", "minY", "maxX", "maxY"), box, strict=True))
            data.append({"position": position, "domain": "pixel", "class_id": number, "box_caption": kind})
            if kind == "answer" and best:
                data[-1] |= {"box_caption": f"answer, IoU {best[place]:.2f}", "scores": {"iou": best[place]}}
        made[kind] = {"box_data": data, "class_labels": CLASSES}
    return made or None


def _best(read: Sequence | None, truth: Sequence | None) -> list[float]:
    """For each box of the answer its IoU with the true box that it covers best."""
    if not read or not truth:
        return []
    return [float(best) for best in ious(read, truth).max(axis=1)]


def drawn(row: dict[str, Any], folder: Path) -> Image.Image:
    """The picture with its boxes, true ones solid, the answer's dashed, in the colours of `vlm.pictures.drawing`."""
    picture = load(str(folder / row["image"]))
    pen = ImageDraw.Draw(picture)
    for kind, boxes in boxes_of(row).items():
        for box in boxes:
            outline(pen, box, *((TRUE, None) if kind == "truth" else (PREDICTED, 8)))
    return picture


def table(rows: Sequence[dict[str, Any]], tracker: Any, folder: Path, overlaid: bool) -> Any:
    """`tracker.Table` of the rows. tracker: wandb or trackio, the module. overlaid: it takes boxes beside pictures."""
    rewards = list(dict.fromkeys(name for row in rows for name in row["rewards"]))
    pictured, more = any(row["image"] for row in rows), any(row["further"] for row in rows)
    columns = [*[PICTURE] * pictured, *TEXTS, *rewards, "advantage", *[FURTHER] * more]
    data = []
    for row in rows:
        cells = {**row, **row["rewards"], "truth": truth(row)}
        if row["image"]:
            path = str(folder / row["image"])
            shown = tracker.Image(path, boxes=overlays(row)) if overlaid else tracker.Image(drawn(row, folder))
            cells[PICTURE] = shown
        cells[FURTHER] = [tracker.Image(str(folder / name)) for name in row["further"]]
        data.append([cells.get(column) for column in columns])
    return tracker.Table(columns=columns, data=data, allow_mixed_types=True)


def truth(row: dict[str, Any]) -> str | None:
    """What would have been right, as text: the answer, or the boxes in pixels of the original image."""
    known = row["truth"]
    if known["answer"] is not None:
        return known["answer"]
    shapes = known["quads"] or known["boxes"]
    return None if not shapes else "; ".join(", ".join(f"{edge:g}" for edge in shape) for shape in shapes)
