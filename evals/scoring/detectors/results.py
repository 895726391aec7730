"""COCO results: one list of all objects of all pictures (cocodataset.org, "Results Format").

    [{"image_id": 7, "category_id": 1, "bbox": [x, y, width, height], "score": 0.912},
     {"image_id": 7, "category_id": 1, "segmentation": [[x1, y1, …, x4, y4]], "score": 0.4}]

All items have `bbox`, or all have `segmentation`, and then shapes are its four corners. What does not fit the truth
wholly is refused with the item's number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.scoring.detectors.found import Found
from evals.scoring.detectors.truth import Truth, box, checked, known, load, numbers, quad
from samples.readers.rows import show
from vlm.common.errors import DataError


def rotated(path: Path) -> bool:
    """Whether the items have four corners. Raises: DataError for a file that is no list."""
    first = next(iter(_items(path)), None)
    return isinstance(first, dict) and "segmentation" in first


def read(path: Path, truth: Truth) -> tuple[dict[str, Found], list[str]]:
    """What was found in each picture, and what to say of it. Raises: DataError naming file, item and field."""
    if not truth.ids:
        raise DataError(
            f"{path}: COCO results name pictures by number, which {truth.path} does not; expected a COCO file"
        )
    out, shape = {name: Found() for name in truth.pictures}, "segmentation" if truth.rotated else "bbox"
    for number, item in enumerate(_items(path), 1):
        where = f"{path}, item {number}"
        row = checked(where, item, ("image_id", "category_id", "score", shape))
        known(where, "image_id", row["image_id"], truth.ids)
        known(where, "category_id", row["category_id"], truth.categories)
        score = numbers(where, "score", [row["score"]], 1)[0]
        if not 0 <= score <= 1:
            raise DataError(f"{where}, field 'score': found {show(row['score'])}, expected 0 to 1")
        corners = quad(where, row[shape]) if truth.rotated else box(where, row[shape])
        out[truth.ids[row["image_id"]]].add(corners, truth.categories[row["category_id"]], score)
    return out, []


def _items(path: Path) -> list[Any]:
    items = load(path)
    if not isinstance(items, list):
        raise DataError(f"{path}: found {type(items).__name__}, expected a list of results")
    return items
