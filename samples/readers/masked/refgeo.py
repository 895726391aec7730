"""refGeo with its masks (GeoGround, arXiv 2411.11904), as RSCoVLM trains on it.

Read in VisionXLab/RSCoVLM, rscovlm/training/data/refgeo_dataset.py at bfc2ff7: `metainfo_v2/<set>_train_v2.jsonl` of
avvg, dior_rsvg, geochat, rsvg and vrsbench, one row for each object:

    {"image_id": "00012.jpg", "question_id": 5, "dataset": "rsvg", "question": "the dam", "bbox": [10, 20, 90, 80],
     "poly": [[10, 20], …], "image_width": 800, "image_height": 800, "mask_exists": true}

The picture is `images/<dataset>/<image_id>`, the mask `masks/<dataset>/<stem>_<question_id>.png`, where the stem is the
image_id up to its first dot; both are looked for beside the file and above it. Grey values above 1 are object, as
there. A row without `mask_exists` has a mask where the file is there, as there, too; rows without one are left out
(`no_mask`). A mask that should be there and is not, that is empty, or of another size than its picture is a fault.

The mask is the file's own. RSCoVLM closes it by a square of 50 pixels and fills its holes before it pools it into
cells (same file, get_seg_messages): that is how it writes answers, and no truth to be measured against.

The same rows are read as grounding by the format `refgeo` (`samples.readers.questions`), so one of both must be named.
"""

from __future__ import annotations

from typing import Any

from samples.readers.look import Look
from samples.readers.masked.pictures import above
from samples.readers.questions import folders_of
from samples.readers.records import kinds, record, text
from samples.readers.rows import LeftOut, Place, RowFault, show

LEAST = 1
"""Grey values up to this one are background (cv2.threshold of 1)."""
KEYS = {"question", "image_id", "question_id", "dataset", "mask_exists"}


def fits(look: Look) -> bool:
    return any(row.keys() >= KEYS for row in look.first)


def convert(row: dict[str, Any], place: Place, task: str | None) -> dict[str, Any]:
    dataset, name, number = text(row, "dataset"), text(row, "image_id"), row.get("question_id")
    if type(number) is not int and not (isinstance(number, str) and number and "/" not in number):
        raise RowFault("missing_field", "question_id", show(number), "a number or name: the mask is named after it")
    exists = row.get("mask_exists")
    if exists not in (None, True, False):
        raise RowFault("wrong_type", "mask_exists", show(exists), "true or false")
    if exists is False:
        raise LeftOut("no_mask", "its mask_exists is false: the object has no mask")
    place.own(dataset, "dataset")
    image = place.seek(name, folders_of(dataset), "image_id", swap=True)
    size = _size(row, place.size(image))
    mask = place.own(f"{dataset}/{name.split('.')[0]}_{number}.png", "question_id")
    try:
        path = place.find(*(f"{up}masks/{mask}" for up in ("", "../", "../../")))
    except RowFault as fault:
        if exists is None:
            raise LeftOut("no_mask", f"there is no masks/{mask}, and the row does not say that there is") from fault
        expected = f"the mask that mask_exists: true promises, below {place.root} or the two folders above it"
        raise RowFault("missing_image", "mask", repr(f"masks/{mask}"), expected) from fault
    runs = above(path, LEAST, size, place, "mask")
    return record(image, text(row, "question"), task or "segmentation", mask=runs, id=number, kind=kinds(dataset))


def _size(row: dict[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the picture, which those that a row states must be. Raises: RowFault."""
    stated = row.get("image_width", size[0]), row.get("image_height", size[1])
    if stated != size:
        raise RowFault(
            "size_mismatch", "image_width, image_height", show(list(stated)), f"the image's own {list(size)}"
        )
    return size
