"""The frame of boxes whose layout leaves it open: what a source declares, and what the numbers give away.

Our own rows, ShareGPT's and TRL's hold `boxes`, `quads`, `regions`, the `zoom` of turns and the rings of a `mask` in
pixels unless the source says otherwise (`frame:`):

    pixel      x1, y1, x2, y2 in pixels of the original image
    unit       the same in fractions of the image, 0–1
    percent    in hundredths of it, 0–100
    per_mille  in thousandths of it, 0–1000
    xywh       left, top, width and height in pixels (COCO's boxes; regions and zooms, too); `quads` and rings are in
               pixels

Nothing is converted that is not declared. But where nothing is declared, `Frames` watches the numbers, for a file in
another frame would often pass every check, and train on nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from samples.readers.rows import Place, RowFault
from vlm.boxes import Frame, convert
from vlm.boxes.frames import FIXED

SourceFrame = Literal["pixel", "unit", "percent", "per_mille", "xywh"]
FRAMES: tuple[str, ...] = get_args(SourceFrame)
ENOUGH = 50
"""Boxes from which on a file whose boxes all look like another frame is refused; with fewer one is warned."""
FEW = 3
"""Boxes from which on one is warned."""
MARGIN = 1.001
"""Boxes of a frame may overhang its extent by this factor, of rounding, and still look like it."""
CHANCE = math.log(5e-3)
"""Of a file in pixels to look like another frame by accident, at most."""
FLIPPED = 0.1
"""Share of boxes with x2 < x1 or y2 < y1 from which on they look like width and height."""
BEYOND = math.log(0.1)
"""The chance, for a file in pixels, that one more box exceeds its image: that would be a fault."""
SHAPES = (("boxes", 4), ("quads", 8), ("regions", 4))
"""Keys of a record in this frame, and how many numbers each of their shapes has."""
_LOOKS = {
    "unit": "0–1 (fractions of the image)",
    "percent": "0–100 (percent of the image)",
    "per_mille": "0–1000 (per mille of the image)",
    "xywh": "xywh (left, top, width, height)",
}


def in_pixels(record: dict[str, Any], frame: str, place: Place) -> dict[str, Any]:
    """The record with its shapes in pixels. What is no list of numbers stays, for the checks to name it."""
    if frame == "pixel":
        return record
    zooms = zooms_of(record)
    if frame == "xywh":
        return (record if not zooms else _with_zooms(record, _corners)) | {
            name: _each(record.get(name), 4, _corners) for name in ("boxes", "regions")
        }
    rings = rings_of(record)
    some = zooms or rings or any(record.get(name) for name, _ in SHAPES)
    if not some or (size := size_of(record, place)) is None:
        return record
    known = cast(Frame, frame)
    if zooms:
        record = _with_zooms(record, lambda shape: convert(shape, known, "pixel", size))
    shapes = {
        name: _each(record[name], count, lambda shape: convert(shape, known, "pixel", size))
        for name, count in SHAPES
        if record.get(name) is not None
    }
    if rings:
        shapes["mask"] = [convert(ring, known, "pixel", size) if _points(ring) else ring for ring in record["mask"]]
    return record | shapes


def rings_of(record: dict[str, Any]) -> list[list[float]]:
    """The outlines of a record's mask, in the file's frame; none where it is a picture or run lengths."""
    mask = record.get("mask")
    return [ring for ring in mask if _points(ring)] if isinstance(mask, list) else []


def zooms_of(record: dict[str, Any]) -> list[Any]:
    """What the turns of a record zoom into, in the file's frame and unchecked."""
    turns = record.get("messages")
    found = (turn.get("zoom") for turn in turns if isinstance(turn, dict)) if isinstance(turns, list) else ()
    return [zoom for zoom in found if zoom is not None]


def _with_zooms(record: dict[str, Any], change: Callable[[list[float]], list[float]]) -> dict[str, Any]:
    turns = [
        turn | {"zoom": change(turn["zoom"])} if isinstance(turn, dict) and _numbers(turn.get("zoom"), 4) else turn
        for turn in record["messages"]
    ]
    return record | {"messages": turns}


def _corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def size_of(record: dict[str, Any], place: Place) -> tuple[int, int] | None:
    """(width, height) that the record states or its first image has; None where neither can be had, which the checks
    report."""
    size, images = record.get("size"), record.get("images")
    if isinstance(size, list) and len(size) == 2 and all(type(x) is int and x > 0 for x in size):
        return size[0], size[1]
    if not isinstance(images, list) or not images:
        return None
    try:
        return place.size(place.image(images[0]))
    except RowFault:
        return None


def _each(shapes: Any, count: int, change: Any) -> Any:
    if not isinstance(shapes, list):
        return shapes
    return [change(shape) if _numbers(shape, count) else shape for shape in shapes]


def _points(ring: Any) -> bool:
    return isinstance(ring, list) and len(ring) >= 6 and not len(ring) % 2 and _numbers(ring, len(ring))


def _numbers(shape: Any, count: int) -> bool:
    return (
        isinstance(shape, list) and len(shape) == count and all(type(x) in (int, float) and abs(x) < 1e9 for x in shape)
    )


@dataclass(slots=True)
class Frames:
    """What the numbers of one file's boxes look like, while no frame is declared.

    Frames of a fixed extent (0–1, 0–100, 0–1000) are suspected where no box exceeds it, and where that would be an
    accident, of at most 1 in 200, if the boxes were pixels. The chance of one box not to exceed the part r of an axis
    is taken as r for r ≤ ½, and as 1 - 2 (1 - r)² above: the larger of what corners that are spread evenly and ones
    that keep to the middle (triangularly distributed) have. So 1,000 of a 1,024-pixel image says nothing, of 4,000
    much. xywh is suspected where x2 < x1 or y2 < y1 in a tenth of the boxes and left + width, top + height fit for all.
    """

    seen: int = 0
    "Boxes, quadrilaterals and rings."
    chances: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FIXED, 0.0))
    "Frame that no box has exceeded yet → logarithm of the chance of that."
    small: int = 0
    "Boxes within 0–1."
    flipped: int = 0
    "Boxes with x2 < x1 or y2 < y1."
    sums_fit: bool = True
    "Whether left + width and top + height were within the image for every box."
    largest: tuple[int, int] = (0, 0)
    "The largest image of a box."

    def see(self, record: dict[str, Any], place: Place) -> None:
        """Count a record's boxes, regions and zooms; of a mask in rings, these."""
        zooms, rings = zooms_of(record), rings_of(record)
        if not (zooms or rings) and not any(record.get(name) for name, _ in SHAPES):
            return
        boxes, quads, regions = (
            [shape for shape in shapes if _numbers(shape, count)] if isinstance(shapes, list) else []
            for shapes, count in ((record.get(name), count) for name, count in SHAPES)
        )
        regions += [zoom for zoom in zooms if _numbers(zoom, 4)]
        if not (boxes or quads or regions or rings) or (size := size_of(record, place)) is None:
            return
        self.largest = max(self.largest, size, key=lambda one: one[0] * one[1])
        for number, shape in enumerate([*regions, *(quads or boxes or rings)]):
            self._see(shape, size, fits=number >= len(regions))
            if len(shape) == 4:
                x1, y1, x2, y2 = shape
                self.flipped += x2 < x1 or y2 < y1
                self.sums_fit = self.sums_fit and x1 + x2 <= size[0] + 1 and y1 + y2 <= size[1] + 1

    def _see(self, shape: list[float], size: tuple[int, int], fits: bool = True) -> None:
        """fits: in pixels it would be a fault to exceed the image."""
        self.seen += 1
        least, most = min(shape), max(shape)
        self.small += least >= 1 - MARGIN and most <= MARGIN
        beyond = fits and (max(shape[::2]) > size[0] + 1 or max(shape[1::2]) > size[1] + 1)
        for frame, chance in list(self.chances.items()):
            extent = FIXED[frame] * MARGIN
            if most > extent or least < FIXED[frame] - extent:
                del self.chances[frame]
                continue
            self.chances[frame] = chance + sum(_chance(extent / side) for side in size) + BEYOND * beyond

    @property
    def looks(self) -> str | None:
        """The frame that all boxes look like; None where they may be pixels."""
        found = [frame for frame in ("unit", "percent", "per_mille") if self.chances.get(frame, 0.0) < CHANCE]
        if found and found[0] == "unit":
            return "unit"
        if self.sums_fit and self.flipped >= max(2, FLIPPED * self.seen):
            return "xywh"
        return found[0] if found else None

    @property
    def certain(self) -> bool:
        """Whether there are enough of them to refuse the file."""
        return self.seen >= ENOUGH and self.looks is not None

    def __str__(self) -> str:
        """What is doubtful, and what to do; empty where nothing is."""
        frame = self.looks
        if self.seen < FEW:
            return ""
        if frame is None:
            if self.small >= max(FEW, self.seen / 2) and "unit" not in self.chances:
                return f"{self.small} of {self.seen} boxes are within 0–1: is the file of several frames?"
            if self.flipped >= max(FEW, FLIPPED * self.seen):
                return (
                    f"{self.flipped} of {self.seen} boxes have x2 < x1 or y2 < y1; expected corners, the smaller first"
                )
            return ""
        width, height = self.largest
        flipped = f"{self.flipped} have x2 < x1 or y2 < y1"
        why = f"{flipped}, and left + width is within the image in all" if frame == "xywh" else ""
        if frame in FIXED:
            why = f"none is beyond {FIXED[frame]:g}, on images of up to {width} x {height} pixels"
            why += f"; {flipped}: write corners" if self.flipped else ""
        return (
            f"{self.seen} boxes, and these look like {_LOOKS[frame]}, not like pixels: {why}. Declare it at the "
            f"source, `frame: {frame}`, or `frame: pixel` if they are right"
        )


def _chance(part: float) -> float:
    """Logarithm of the chance that a corner is within this part of an axis."""
    if part >= 1:
        return 0.0
    return math.log(part if part <= 0.5 else 1 - 2 * (1 - part) ** 2)
