"""Evaluation sets that are one JSONL of questions.

refGeo (GeoGround, Zhou et al. 2024, arXiv 2411.11904), boxes in pixels of the original image:

    {"image_id": "00012.jpg", "question_id": 5, "dataset": "rsvg", "question": "the dam", "bbox": [10, 20, 90, 80],
     "poly": [[10, 20], [90, 20], [90, 80], [10, 80]]}

The truth is `poly`, as `quads`; rows without one (empty text or list) have their `bbox`, which may overhang the image
by half of its area and is cut to it. `kind` is the `dataset` a row was taken from.

LRS-VQA (Luo et al. 2025, arXiv 2503.07588):

    {"question_id": "FAIR_3", "image": "LRS_VQA/image/15565.tif", "category": "count", "text": "How many …?",
     "ground_truth": "4", "hbox": …, "rbox": …, "abs_size": …, "image_size": …}

Ids begin with the data set that a picture is from (FAIR, GLH for Bridge, STAR) and are kept as they are: the published
average is over these three. `text` ends with its own instruction ("Answer the question using …").

`hbox` and `rbox` say where the objects lie and may exceed the image; no truth of a question is in them, and they are
not read. Images are found below the folder that holds `LRS_VQA`, and below that itself.

LRS-GRO (ZoomEarth, earth-insights/ZoomEarth at 2d6bb5d):

    {"question_id": "LRS-GRO-3314", "image_name": "13464.tif", "category": "Counting", "question": "How many …?",
     "higher_level": "perception", "ground_truth": "3", "bbox": [163, 78, 196, 601], "type": "object", "split": "RL"}

`bbox` says where to look, in a picture whose long side is 1024; it is no answer, and is not read. `kind` is `type` and
`category`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from samples.readers.geochat import polygons
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import Place, RowFault, show


def refgeo(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    dataset = row.get("dataset")
    folder = place.own(dataset, "dataset") if isinstance(dataset, str) else ""
    image = place.seek(row.get("image_id"), _folders(folder), "image_id", swap=True)
    poly, box = row.get("poly"), row.get("bbox")
    if poly:
        if not isinstance(poly, list):
            raise RowFault("wrong_type", "poly", show(poly), "corners in pixels, [[x, y], … four of them]")
        truth = {"quads": polygons(poly if isinstance(poly[0], list) else [poly])}
    elif box is None:
        raise RowFault("missing_field", "bbox", "none", "a box in pixels, [x1, y1, x2, y2], or `poly`")
    else:
        truth = {"boxes": [box]}
    more = {"id": row.get("question_id", ""), "kind": kinds(dataset)}
    return record(image, text(row, "question"), task or "grounding", **more, **truth)


@lru_cache(maxsize=64)
def _folders(dataset: str) -> tuple[str, ...]:
    """Where images of one of the sets lie that refGeo is made of."""
    named = (dataset, f"images/{dataset}", f"../images/{dataset}") if dataset else ()
    return "images", "../images", *named


def lrs_vqa(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("image"), ("..", "image", "images"))
    more = {"id": row.get("question_id", ""), "kind": kinds(row.get("category"))}
    return record(image, text(row, "text"), task or "vqa", answer(row, "ground_truth"), **more)


def lrs_gro(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("image_name"), ("image", "images", "../images"), "image_name")
    more = {"id": row.get("question_id", ""), "kind": kinds(row.get("type"), row.get("category"))}
    return record(image, text(row, "question"), task or "vqa", answer(row, "ground_truth"), **more)
