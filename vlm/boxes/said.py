"""What a model's answer states: read with a tolerance that data, which must be right, is not given.

Rewards and metrics read answers here, by one convention:

    overhang    a box that overhangs the image by at most 2% of the side (`vlm.boxes.notation.OVERHANG`) is cut to the
                border: x2 = 1009 of 1008 pixels is 1008
    missed      one that overhangs it further, is inverted, or is no proper shape otherwise, counts as stated and as
                overlapping nothing; the other boxes of the answer count
    turned      oriented boxes and quadrilaterals may overhang the image, as what lies tilted at its edge does: those
                within the limits of their notation are taken as they are
    unreadable  a text with anything else than boxes states nothing: no prose is searched for the best of several

Besides the text that a notation writes, these forms are read:

    qwen2_vl    the object's name between `<|object_ref_start|>` and `<|object_ref_end|>` before its boxes; or the name
                right before them, without a space, which is what decoding without special tokens leaves of that
    qwen2_5_vl  JSON with further keys, the key `bbox`, a comma before a closing bracket, bare lists `[x1, y1, x2, y2]`,
                and prose before the one code fence
    vhm         `(x1,y1),(x2,y2)`, also in Qwen2-VL's tokens: ScoreRS takes either, per mille both
    internvl    the object's name right before its boxes, without a space, for its tokens are special, too
    geochat     the object's name between `<p>` and `</p>`
    glm4v       boxes without the tokens around them, in round, pointed or curly brackets
    rscovlm…    the family's JSON: `bbox_2d`, `oriented bbox`, `quadrant bbox`

Names, prose and values of further keys may not hold brackets or four numbers: where another box might stand, none is
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlm.boxes.geometry import clip, hull
from vlm.boxes.notation import OVERHANG, Notation
from vlm.boxes.notations import Object, find

CONVENTION = (
    f"a box inverted or over {OVERHANG:.0%} of the side outside = a miss of that box, less is cut to the border"
)
"""Stands beside every number that is made of boxes."""


@dataclass(frozen=True, slots=True)
class Said:
    """The objects of one answer."""

    objects: list[Object]
    "In pixels of the original image, in the order of the text."
    missed: int = 0
    "How many more it states that count as missed."
    size: Sequence[float] = (0, 0)
    "(width, height) of the original image in pixels."
    upright: bool = True
    "Whether the notation writes boxes."

    def __len__(self) -> int:
        """All that it states, missed ones included."""
        return len(self.objects) + self.missed

    @property
    def quads(self) -> list[list[float]]:
        """The four corners of each object that is not missed; of a box clockwise from the left upper one."""
        return [item.quad for item in self.objects]

    @property
    def boxes(self) -> list[list[float]]:
        """The same as boxes; of an oriented box or a quadrilateral the box around it, cut to the image."""
        if self.upright:
            return [[*quad[:2], *quad[4:6]] for quad in self.quads]
        return [clip(hull(quad), self.size) for quad in self.quads]


def read_said(
    text: str, notation: str | Notation, size: Sequence[float], resized: Sequence[float] | None = None
) -> Said | None:
    """What an answer states in ``notation``; None where it is anything but boxes. Sizes and errors: `read_objects`."""
    notation = find(notation)
    found = notation.parse_said(text, resized)
    if found is None:
        return None
    kept = [item for item in found if item is not None]
    quads = [notation.placed(item.numbers, size, resized, OVERHANG) for item in kept]
    objects = [Object(quad, item.label) for quad, item in zip(quads, kept, strict=True) if quad is not None]
    return Said(objects, len(found) - len(objects), size, notation.shape == "box")
