"""Evaluation sets that are one JSONL of questions.

refGeo (GeoGround, Zhou et al. 2024, arXiv 2411.11904), boxes in pixels of the original image:

    {"image_id": "00012.jpg", "question_id": 5, "dataset": "rsvg", "question": "the dam", "bbox": [10, 20, 90, 80],
     "poly": [[10, 20], [90, 20], [90, 80], [10, 80]]}

The truth is `poly`, as `quads`, and the box around it; how many rows have another `bbox` (by which RSCoVLM scores,
rscovlm/eval/metric/geoground.py at bfc2ff7) is said. Rows without a `poly` (empty text or list) have their `bbox`,
which may overhang the image by half of its area and is cut to it. `kind` is the `dataset` a row was taken from.

LRS-VQA (Luo et al. 2025, arXiv 2503.07588; its file as earth-insights/ZoomEarth keeps it, data/LRS_VQA_merged.jsonl at
48afa4a):

    {"question_id": "FAIR_1", "image": "LRS_VQA/image/15565.tif", "category": "reasoning", "text": "Is the …?",
     "ground_truth": "yes", "hbox": [282, 3418, 763, 4050], "rbox": [282.0, 4013.0, …, 713.0, 3418.0],
     "abs_size": "large", "image_size": [4000, 4000], "size_bin": "256x256"}

Ids begin with the data set that a picture is from (FAIR, GLH for Bridge, STAR) and are kept as they are: the published
average is over these three. `text` ends with its own instruction ("Answer the question using …").

`hbox` goes around the object that is asked about, in pixels of a picture of `image_size` (width, height): it becomes
the row's `regions`, cut to the picture, which it may exceed. Counts have neither. A box that is wholly outside, without
area, or of a picture of another size than this one is left out of its row, and counted (`region_outside`).

Images are found below the folder that holds `LRS_VQA`, and below that itself.

LRS-GRO (ZoomEarth, arXiv 2511.12267; earth-insights/ZoomEarth at 2d6bb5d, rl.jsonl, and
src/train/RL/…/open_r1/custom/customized_funcs.py at 14c0bb5 for the frame of its boxes):

    {"question_id": "LRS-GRO-3314", "image_name": "13464.tif", "category": "Counting", "question": "How many …?",
     "higher_level": "perception", "ground_truth": "3", "bbox": [163, 78, 196, 601], "type": "object", "split": "RL"}

`bbox` says where to look, in a picture whose long side is 1024; `[]` where that is everywhere (type global). It becomes
`regions`, as above. `kind` is `type` and `category`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from samples.readers.geochat import polygons
from samples.readers.records import answer, kinds, record, text
from samples.readers.rows import Place, RowFault, show
from vlm.boxes import hull

LONG = 1024
"""Pixels of the long side of the picture in which LRS-GRO states its boxes."""


def refgeo(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    dataset = row.get("dataset")
    folder = place.own(dataset, "dataset") if isinstance(dataset, str) else ""
    image = place.seek(row.get("image_id"), folders_of(folder), "image_id", swap=True)
    poly, box = row.get("poly"), row.get("bbox")
    if poly:
        if not isinstance(poly, list):
            raise RowFault("wrong_type", "poly", show(poly), "corners in pixels, [[x, y], … four of them]")
        truth = {"quads": polygons(poly if isinstance(poly[0], list) else [poly])}
        if len(truth["quads"]) == 1 and _apart(truth["quads"][0], box):
            place.told["rows have a `bbox` more than a pixel from the box around their `poly`, which counts"] += 1
    elif box is None:
        raise RowFault("missing_field", "bbox", "none", "a box in pixels, [x1, y1, x2, y2], or `poly`")
    else:
        truth = {"boxes": [box]}
    more = {"id": row.get("question_id", ""), "kind": kinds(dataset)}
    return record(image, text(row, "question"), task or "grounding", **more, **truth)


def _apart(quad: Any, box: Any) -> bool:
    """Whether a box is another than that around a quadrilateral; of what is neither, the checks tell."""
    right = all(isinstance(one, list) and set(map(type, one)) <= {int, float} for one in (quad, box))
    if not right or len(quad) != 8 or len(box) != 4:
        return False
    return any(abs(a - b) > 1 for a, b in zip(hull(quad), box, strict=True))


@lru_cache(maxsize=64)
def folders_of(dataset: str) -> tuple[str, ...]:
    """Where images of one of the sets lie that refGeo is made of."""
    named = (dataset, f"images/{dataset}", f"../images/{dataset}") if dataset else ()
    return "images", "../images", *named


def lrs_vqa(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("image"), ("..", "image", "images"))
    more = {"id": row.get("question_id", ""), "kind": kinds(row.get("category"))}
    more["regions"] = _regions(row.get("hbox"), "hbox", image, place, row.get("image_size"))
    return record(image, text(row, "text"), task or "vqa", answer(row, "ground_truth"), **more)


def lrs_gro(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    image = place.seek(row.get("image_name"), ("image", "images", "../images"), "image_name")
    more = {"id": row.get("question_id", ""), "kind": kinds(row.get("type"), row.get("category"))}
    more["regions"] = _regions(row.get("bbox"), "bbox", image, place, long=LONG)
    return record(image, text(row, "question"), task or "vqa", answer(row, "ground_truth"), **more)


def _regions(
    box: Any, name: str, image: str, place: Place, stated: Any = None, long: int | None = None
) -> list[list[float]] | None:
    """The region of one box `[x1, y1, x2, y2]`; None without one, or where it is left out.

    stated: [width, height] of the picture that the box was drawn in. long: the long side that it is in, of a picture
    that was scaled; without it, the picture's own.
    """
    if box is None or box == []:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(type(x) in (int, float) and abs(x) < 1e9 for x in box):
        raise RowFault("wrong_type", name, show(box), "a box [x1, y1, x2, y2] in pixels, or none")
    width, height = size = place.size(image)
    if isinstance(stated, list) and stated != [width, height]:
        place.dropped.append(("region_outside", f"{name} is of a picture of {stated}, this one has {list(size)}"))
        return None
    scale = 1.0 if long is None else max(size) / long
    x1, y1, x2, y2 = found = [x * scale for x in box]
    if x1 >= x2 or y1 >= y2 or x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        place.dropped.append(("region_outside", f"{name} {box} has no area in the picture of {width} x {height}"))
        return None
    return [found]
