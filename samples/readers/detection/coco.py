"""COCO's JSON (Lin et al. 2014, arXiv 1405.0312): pictures, objects and classes in three lists of one file.

    {"images": [{"id": 7, "file_name": "P0001.png", "width": 800, "height": 600}],
     "annotations": [{"image_id": 7, "category_id": 1, "bbox": [x, y, width, height], "iscrowd": 0,
                      "segmentation": [[x1, y1, x2, y2, x3, y3, x4, y4]]}],
     "categories": [{"id": 1, "name": "storage-tank"}]}

(cocodataset/cocoapi, PythonAPI/pycocotools/coco.py at 815c359; open-mmlab/mmdetection, mmdet/datasets/coco.py at
d268e93, for `ignore`; the aerial use of `segmentation` in VisionXLab/RSCoVLM,
rscovlm/training/data/dense_det_dataset.py at bfc2ff7; microsoft/torchgeo, torchgeo/datasets/vhr10.py at ee6cb66, whose
annotations.json of NWPU VHR-10 is such a file.)

One row a picture, in the file's order; `classes` are all categories of the file. Crowds (`iscrowd`) and objects marked
`ignore` are difficult. There are two formats. A file is taken for the second where each of its first objects has one
polygon of four corners:

    coco        `boxes`, from `bbox`
    coco_obb    `quads`, from `segmentation`: four corners as they stand. Of a polygon with other corners, or of
                several, the smallest rectangle around them; of a run-length mask the corners of its `bbox`. How many
                these were is said.

Pictures lie beside the file, in `images`, in `../images`, in VHR-10's `positive image set`, or where `images:` says.
Objects are held in memory (some 300 bytes each), for the lists may stand in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from samples.readers.checks import surrounds
from samples.readers.detection import objects
from samples.readers.detection.objects import Found, Labelled
from samples.readers.json_list import Once, Twice, lists
from samples.readers.look import JOINED, Look
from samples.readers.rows import Place, RowFault, show
from vlm.boxes import corners
from vlm.common.errors import DataError

FOLDERS = ("images", "../images", "positive image set")
LOOKED = 100
"""Objects among which polygons are looked at to tell the format."""
BBOX = "[x, y, width, height] in pixels, with an area"
BEYOND = 1.02
"""Share of a side: no annotator's hand slips farther beyond the picture."""
ENDS = "boxes end beyond their picture and are cut: are they [x1, y1, x2, y2], where COCO has [x, y, width, height]?"
ONCE = "each picture once: of two ids, each would have a part of its objects, or none"
MOST = 2048
"""Corners of the hull of a polygon."""
POLYGON = "a list of polygons [x1, y1, x2, y2, x3, y3, …] in pixels"


class _Object(NamedTuple):
    number: int
    category: Any
    shape: list[float] | RowFault
    difficult: bool
    mended: str
    "What was made of its shape; empty for nothing."


def fits(oriented: bool, look: Look) -> bool:
    return look.joined and look.once("coco", lambda: _oriented(look)) is oriented


def walk(oriented: bool, look: Look) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    """(picture, its objects), or (object, what is none)."""
    images: dict[int | str, tuple[int, dict[str, Any]]] = {}
    names: dict[int | str, str | RowFault] = {}
    found: dict[int | str, list[_Object]] = {}
    counts = dict.fromkeys(JOINED, 0)
    for key, item in lists(look.path, JOINED, Once()):
        counts[key] += 1
        number = counts[key]
        try:
            row = _row(item)
            if key == "annotations":
                found.setdefault(_id(row, "image_id"), []).append(_object(row, number, oriented))
                continue
            known: dict[Any, Any] = images if key == "images" else names
            if (one := _id(row, "id")) in known:
                raise RowFault("twice", "id", show(one), "an id of its own")
            known[one] = (number, row) if key == "images" else objects.in_words(row.get("name"), "name")
        except RowFault as fault:
            yield f"{key}, item {number}", fault
    said = {name for name in names.values() if isinstance(name, str)}
    classes = objects.all_classes(look, lambda: said)
    placed = sum(len(some) for image_id, some in found.items() if image_id in images)
    if placed < counts["annotations"] / 2:
        odd = next((image_id for image_id in found if image_id not in images), "none that is a number or text")
        raise DataError(
            f"{look.path}: {counts['annotations'] - placed} of {counts['annotations']} annotations are of no picture "
            f"of the file (such as image_id {show(odd)}, where the first picture has the id "
            f"{show(next(iter(images), None))}); expected the same ids, of the same type. Without its objects a "
            "picture would teach that there are none"
        )
    times = Counter(name for _, row in images.values() if isinstance(name := row.get("file_name"), str))
    for image_id, (number, row) in images.items():
        name = row.get("file_name")
        if isinstance(name, str) and times[name] > 1:
            found.pop(image_id, None)
            yield f"images, item {number}", RowFault("twice", "file_name", f"{show(name)}, {times[name]} times", ONCE)
            continue
        yield from _picture(number, row, found.pop(image_id, []), names, classes)
    for image_id, others in found.items():
        lost = RowFault("missing_field", "image_id", show(image_id), "the id of one of the images")
        yield from ((f"annotations, item {other.number}", lost) for other in others)


def convert(oriented: bool, row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    record = objects.convert(row, place, task, FOLDERS, quads=oriented)
    place.told.update(row["mended"])
    if not oriented:
        width, height = place.size(record["images"][0])
        beyond = sum(box[2] > BEYOND * width or box[3] > BEYOND * height for box in record["boxes"])
        if beyond:
            place.told[ENDS] += beyond
    return record


def _picture(
    number: int,
    row: dict[str, Any],
    found: list[_Object],
    names: dict[int | str, str | RowFault],
    classes: list[str],
) -> Iterator[tuple[str, dict[str, Any] | RowFault]]:
    name, more = row.get("file_name"), {}
    where = f"images, item {number}"
    if not isinstance(name, str) or not name:
        yield where, RowFault("missing_field", "file_name", show(name), "the name of a picture")
        return
    if row.get("width") is not None or row.get("height") is not None:
        more["size"] = [row.get("width"), row.get("height")]
    labelled = ((f"annotations, item {one.number}", _labelled(one, names)) for one in found)
    mended = [one.mended for one in found if one.mended and not isinstance(one.shape, RowFault)]
    yield from objects.pictured(where, name, labelled, classes, id=name, field="file_name", mended=mended, **more)


def _labelled(one: _Object, names: dict[int | str, str | RowFault]) -> Found:
    if isinstance(one.shape, RowFault):
        return one.shape
    known = isinstance(one.category, int | str) and not isinstance(one.category, bool)
    label = names.get(one.category) if known else None
    if label is None:
        return RowFault("missing_field", "category_id", show(one.category), "the id of one of the categories")
    return label if isinstance(label, RowFault) else Labelled(label, one.shape, one.difficult)


def _object(row: dict[str, Any], number: int, oriented: bool) -> _Object:
    mended = ""
    try:
        shape: list[float] | RowFault
        shape, mended = _quad(row) if oriented else (_box(row), "")
    except RowFault as fault:
        shape = fault
    flags = [row.get("iscrowd"), row.get("ignore")]
    if odd := [flag for flag in flags if flag not in (None, 0, 1)]:  # "0" is no 0, and would be true
        name = ("iscrowd", "ignore")[flags.index(odd[0])]
        shape = RowFault("wrong_type", name, show(odd[0]), "0 or 1")
    return _Object(number, row.get("category_id"), shape, any(flags), mended)


def _box(row: dict[str, Any]) -> list[float]:
    value = row.get("bbox")
    if not _numbers(value) or len(value) != 4:
        raise RowFault("missing_field" if value is None else "wrong_type", "bbox", show(value), BBOX)
    x, y, width, height = map(float, value)
    if width <= 0 or height <= 0:
        raise RowFault("box_inverted", "bbox", show(value), BBOX)
    return [x, y, x + width, y + height]


def _quad(row: dict[str, Any]) -> tuple[list[float], str]:
    """(corners, what was made of them)."""
    value = row.get("segmentation")
    if isinstance(value, dict):
        return corners(_box(row)), "masks became the corners of their boxes"
    if isinstance(value, list) and value and not isinstance(value[0], list):
        value = [value]  # some write the one polygon without the list around it
    if not isinstance(value, list) or not value or not all(_numbers(part) and len(part) % 2 == 0 for part in value):
        raise RowFault("missing_field" if not value else "wrong_type", "segmentation", show(value), POLYGON)
    quad = [float(x) for part in value for x in part]
    if len(quad) == 8 and len(value) == 1:
        if not surrounds(quad):
            raise RowFault("box_inverted", "segmentation", show(value), "corners around an area")
        return quad, ""
    if (rectangle := _around(quad)) is None:
        raise RowFault(
            "box_inverted", "segmentation", show(value), f"corners around an area, {MOST} on their hull at most"
        )
    return rectangle, "polygons of other than four corners became their smallest rectangle"


def _around(points: list[float]) -> list[float] | None:
    """The rectangle of least area around points: it has a side along an edge of their hull (Freeman and Shapira 1975).
    None where they are in line, or too many."""
    import shapely

    hull = shapely.MultiPoint(np.reshape(points, (-1, 2))).convex_hull
    if hull.geom_type != "Polygon" or shapely.get_num_coordinates(hull) > MOST:
        return None
    ring = np.asarray(hull.exterior.coords)  # (N + 1, 2), the first again at the end
    edges = np.diff(ring, axis=0)
    along = edges / np.hypot(*edges.T)[:, None]  # (N, 2)
    across = along[:, ::-1] * (-1, 1)
    u, v = ring @ along.T, ring @ across.T  # (N + 1, N) each
    areas = np.ptp(u, axis=0) * np.ptp(v, axis=0)
    best = int(areas.argmin())
    ends = [(u[:, best].min(), u[:, best].max()), (v[:, best].min(), v[:, best].max())]
    corners = [a * along[best] + b * across[best] for a, b in zip((ends[0] * 2), np.repeat(ends[1], 2), strict=True)]
    return [float(x) for place in (0, 1, 3, 2) for x in corners[place]]


def _numbers(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and set(map(type, value)) <= {int, float} and all(-1e9 < x < 1e9 for x in value)


def _row(item: Any) -> dict[str, Any]:
    if isinstance(item, Twice):
        expected = "each key once: a parser would keep the last value and drop the others"
        raise RowFault("twice", item.key, "this key twice in one object", expected)
    if not isinstance(item, dict):
        raise RowFault("wrong_type", "(whole row)", show(item), "a JSON object with named fields")
    return item


def _id(row: dict[str, Any], name: str) -> int | str:
    value = row.get(name)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise RowFault("missing_field" if value is None else "wrong_type", name, show(value), "a number")
    return value


def _oriented(look: Look) -> bool:
    """Whether each of the first objects has one polygon of four corners."""
    first = (item for key, item in lists(look.path, JOINED) if key == "annotations")
    try:
        shapes = [item.get("segmentation") if isinstance(item, dict) else None for item in islice(first, LOOKED)]
    except DataError:
        return False
    return bool(shapes) and all(isinstance(one, list) and len(one) == 1 and _four(one[0]) for one in shapes)


def _four(part: Any) -> bool:
    return _numbers(part) and len(part) == 8
