"""The mask of a row, from any of its three spellings to run lengths.

    {"size": [100, 200], "counts": "…"}    COCO's run lengths, compressed text or a list of numbers; [height, width]
    "masks/P1.png"                         a picture: 0 is background, one other value is object
    [[20, 20, 180, 20, 180, 80], …]        rings in pixels of the image, x1, y1, x2, y2, …; their union

A mask is of the upright first image, and of its size. Only `[]`, a picture of 0 and run lengths of none say that
nothing is there: rings without a pixel, as of fractions of the image, and a picture that says it by its transparency
or by a palette whose 0 is white, are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from samples.readers.rows import Place, RowFault, show
from vlm import masks
from vlm.common.errors import DataError
from vlm.pictures import images, rasters

EXPECTED = (
    "run lengths {'size': [height, width], 'counts': …}, a mask picture's path, or rings [[x1, y1, x2, y2, …], …]"
)
OVERHANG = 2
"""Pixels that an outline may lie outside of its image without a word."""
FOLDERS = ("masks", "../masks", "images")


def as_runs(value: Any, size: tuple[int, int], place: Place, field: str = "mask") -> masks.Runs:
    """A mask as it stands in a record. size: (width, height) of the upright first image. Raises: RowFault."""
    if isinstance(value, dict):
        return _stated(value, size, field)
    if isinstance(value, str):
        place.alone = False
        # a mask is read as it is stored, whatever the source says of its rasters
        return of_picture(str(rasters.plain(_found(value, place, field))), size, field)
    if isinstance(value, list):
        return _of_rings(value, size, place, field)
    raise RowFault("missing_field" if value is None else "wrong_type", field, show(value), EXPECTED)


def _found(name: str, place: Place, field: str) -> str:
    """Where the mask picture lies; what is not there is the mask's fault, not the images'."""
    try:
        return place.seek(name, FOLDERS, field)
    except RowFault as fault:
        if fault.kind != "missing_image":
            raise
        expected = fault.expected.replace("an image file", "a mask picture", 1)
        raise RowFault(fault.kind, field, fault.found, expected) from fault


def _stated(value: dict[str, Any], size: tuple[int, int], field: str) -> masks.Runs:
    if value.keys() != {"size", "counts"}:
        raise RowFault("wrong_type", field, f"the keys {', '.join(map(str, value))}", "'size' and 'counts'")
    if value["size"] != [size[1], size[0]]:
        raise RowFault("size_mismatch", field, f"size {show(value['size'])}", f"{[size[1], size[0]]}: [height, width]")
    try:
        return masks.checked_runs(value)
    except DataError as error:
        found = str(error).removeprefix("found ").partition(", expected")[0]
        expected = f"COCO's run lengths of all {size[0]} x {size[1]} pixels, column by column"
        raise RowFault("mask", field, found, expected) from error


def _of_rings(value: list[Any], size: tuple[int, int], place: Place, field: str) -> masks.Runs:
    furthest = 0.0
    for ring in value:
        right = isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0
        if not right or not all(type(x) in (int, float) and abs(x) < 1e6 for x in ring):
            raise RowFault("mask", field, show(ring), "rings [x1, y1, x2, y2, …] of three corners or more, in pixels")
        beyond = [max(x - side, -x) for x, side in zip(ring, size * (len(ring) // 2), strict=True)]
        if max(beyond) > max(size):
            raise RowFault("mask", field, show(ring), f"pixels of the image of {size[0]} x {size[1]}")
        furthest = max(furthest, *beyond)
    runs = masks.rings_to_runs(value, size)
    if value and (not masks.area(runs) or max(abs(x) for ring in value for x in ring) <= 1):
        raise RowFault(
            "mask",
            field,
            f"rings that hold {masks.area(runs) or 'no'} pixel of the image of {size[0]} x {size[1]}, {show(value)}",
            "rings in pixels, no fractions, around some (`frame:` of the source says another frame); [] for nothing",
        )
    if furthest > OVERHANG:
        place.told[f"masks have rings over {OVERHANG} pixels outside of their image, which are cut off"] += 1
    return runs


def values_of(path: str, field: str = "mask") -> np.ndarray:
    """(height, width) stored values of a picture of one channel, upright; a palette's are its indices.

    Raises: RowFault for a picture that cannot be read, has colours or is transparent in part, and for a palette whose 0
    is brighter than another value, as a library makes it that counts a picture's colours anew.
    """
    try:
        values = images.stored(path)
    except DataError as error:
        raise RowFault("unreadable_image", field, f"{path} ({error})", "a picture that can be read") from error
    if values.ndim == 3:
        colours = values[..., : 1 if values.shape[2] == 2 else 3]  # without the alpha, which is the same everywhere
        if (colours != colours[..., :1]).any():
            raise RowFault("mask", field, f"{path} with colours", "a mask of one channel: 0, and one other value")
        values = colours[..., 0]
    return values


def of_picture(path: str, size: tuple[int, int], field: str = "mask") -> masks.Runs:
    """The mask in a picture. Raises: RowFault for one of another size than the image, or of more than two values."""
    values = values_of(path, field)
    if values.shape != (size[1], size[0]):
        found = f"{path} of {values.shape[1]} x {values.shape[0]} pixels"
        raise RowFault("size_mismatch", field, found, f"the image's own {size[0]} x {size[1]}")
    inside = values != 0
    kept = values[inside]
    if kept.size and kept.min() != kept.max():
        several = np.unique(values)
        shown = ", ".join(map(str, several[:5])) + (", …" if len(several) > 5 else "")
        raise RowFault(
            "mask",
            field,
            f"{path} with the values {shown}",
            "0 and one other value (a lossy format such as JPEG blurs it)",
        )
    return masks.runs_of(inside)
