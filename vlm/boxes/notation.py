"""What every notation has in common: numbers of one shape in one frame, checked on the way in and out.

A notation gives the numbers of each object as they stand in the text: four for a box, eight for a quadrilateral, five
for an oriented box. How the text around them looks is the business of its subclasses (`vlm.boxes.texts`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vlm.boxes.frames import Frame, convert, extent
from vlm.boxes.geometry import clip, corners, hull, obb_from_quad, ordered, quad_from_obb
from vlm.common.errors import DataError

Shape = Literal["box", "obb_corners", "obb_centre", "quad"]
COUNTS = {"box": 4, "obb_corners": 5, "obb_centre": 5, "quad": 8}
"""How many numbers an object of each shape takes."""
OVERHANG = 0.02
"""Share of the image's side by which a box in a model's answer may overhang the image; it is cut to the border."""
_EXPECTED = {
    "box": "0 <= x1 <= x2 <= {0:g} and 0 <= y1 <= y2 <= {1:g}",
    "obb_corners": "x1 <= x2, y1 <= y2, the centre within 0–{0:g} and 0–{1:g}, at most one image beyond its edges",
    "obb_centre": "a centre within 0–{0:g} and 0–{1:g}, width and height from 0 to {0:g} + {1:g}",
    "quad": "corners at most one image beyond the edges of 0–{0:g} and 0–{1:g}",
}


@dataclass(frozen=True)
class Written:
    """One object as a text has it."""

    numbers: list[float]
    "In the notation's frame: x1, y1, x2, y2; or that and degrees; or cx, cy, w, h, degrees; or four corners."
    label: str | None = None
    "What the text calls it."


@dataclass(frozen=True)
class Notation:
    """How one model family writes boxes: a text form, a shape, and the frame the numbers are in.

    ``format`` and ``parse`` take and give numbers in ``frame``; `vlm.boxes.read_boxes` and its siblings convert from
    and to pixels of the original image. A notation whose frame is "resized" needs ``resized``, (width, height) of the
    image as the model sees it.
    """

    name: str
    frame: Frame
    shape: Shape = "box"
    "`obb_corners`: x1, y1, x2, y2 before the turn, and degrees; `obb_centre`: cx, cy, width, height, degrees."
    key: str = ""
    "Of the numbers where the text is, or may be, JSON."
    decimals: int = 0
    "Digits behind the point that are written; any number of them is read."
    marks: tuple[str, ...] = ()
    "Special tokens of the family's tokenizer that stand in such texts, or around what they name."

    @property
    def labels(self) -> bool:
        """Whether it has a place for what an object is called."""
        return False

    def pieces(self, text: str) -> list[str]:
        """Parts of an answer that may each be an object, where the whole cannot be read; all of the text is in one."""
        return [line for line in text.splitlines() if line.strip()]

    def cut(self, piece: str) -> str:
        """A piece without the numbers that are too many for the shape."""
        return piece

    def parse(self, text: str, resized: Sequence[float] | None = None) -> list[list[float]] | None:
        """The numbers of all objects of ``text``, or None unless it consists of nothing but proper objects.

        None for: no object, an inverted box, a value outside the frame, any other text before, between or
        behind. Shapes without area are read (small ones round to that). Takes time linear in the text's length.
        """
        found = self.parse_labelled(text, resized)
        return None if found is None else [item.numbers for item in found]

    def parse_labelled(self, text: str, resized: Sequence[float] | None = None) -> list[Written] | None:
        """As ``parse``, with the label of each object where the text gives one."""
        limits = self.limits(resized)
        found = self._read(text)
        if not found or not all(self._holds(item.numbers, limits) for item in found):
            return None
        return found

    def parse_said(self, text: str, resized: Sequence[float] | None = None) -> list[Written | None] | None:
        """The objects of a model's answer, read with the tolerance that `vlm.boxes.said` states.

        None in the list for an object that is stated and counts as missed; None instead of the list for a text that
        states nothing, or not clearly one thing. What ``parse_labelled`` reads is read here, and the same.
        """
        limits = self.limits(resized)
        found = self._read_said(text)
        return [self._settled(item, limits) for item in found] if found else None

    def format(
        self,
        shapes: Sequence[Sequence[float]],
        resized: Sequence[float] | None = None,
        labels: Sequence[str | None] | None = None,
    ) -> str:
        """Text of shapes given by their numbers in ``frame``, rounded to whole units (or ``decimals``): at most half
        of one is lost.

        Raises DataError on what ``parse`` would refuse (nothing at all, inverted, outside the frame, a label that the
        text form has no place for).
        """
        if not shapes:
            raise DataError(f"no box to write in the notation {self.name}; at least one is expected")
        limits = self.limits(resized)
        items = []
        for numbers, label in zip(shapes, labels or [None] * len(shapes), strict=True):
            # Adding zero turns -0.0 into 0.0.
            rounded = [round(v, self.decimals) + 0.0 if math.isfinite(v) else math.inf for v in numbers]
            if self.shape.startswith("obb") and len(rounded) == 5 and rounded[4] == 90:
                rounded[4] = -90.0
            if not self._holds(rounded, limits):
                raise DataError(
                    f"box {list(numbers)} cannot be written in the notation {self.name}; expected "
                    f"{_EXPECTED[self.shape].format(*limits)}, in {self.frame}"
                )
            items.append(Written(rounded, None if label is None else self._label(label)))
        return self._write([[f"{v:.{self.decimals}f}" for v in item.numbers] for item in items], items)

    def to_quad(
        self, numbers: Sequence[float], size: Sequence[float], resized: Sequence[float] | None = None
    ) -> list[float]:
        """The object as a quadrilateral in pixels of the original image.

        An oriented box is turned in pixels: of the original image, or of the resized one where that is the frame.
        """
        if self.shape == "box":
            return corners(convert(numbers, self.frame, "pixel", size, resized))
        if self.shape == "quad":
            return convert(numbers, self.frame, "pixel", size, resized)
        square: Frame = "resized" if self.frame == "resized" else "pixel"
        first, second, degrees = numbers[:2], numbers[2:4], numbers[4]
        if self.shape == "obb_corners":
            x1, y1, x2, y2 = convert([*first, *second], self.frame, square, size, resized)
            quad = quad_from_obb((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, degrees)
        else:
            cx, cy, width, height = convert([*first, *second], self.frame, square, size, resized)
            quad = quad_from_obb(cx, cy, width, height, degrees)
        return convert(quad, square, "pixel", size, resized)

    def placed(
        self,
        numbers: Sequence[float],
        size: Sequence[float],
        resized: Sequence[float] | None = None,
        overhang: float = 0.0,
    ) -> list[float] | None:
        """`to_quad`; but in the frame "square", which is wider than the image, a box is cut to the image.

        None for one that lies beyond the image by more than half a unit, which rounding may do, and by more than
        ``overhang``, a share of the image's side.
        """
        quad = self.to_quad(numbers, size, resized)
        if self.frame != "square":
            return quad
        half = max(size) / 10**self.decimals / 2
        box = [_cut(v, size[n % 2], max(half, overhang * size[n % 2])) for n, v in enumerate([*quad[:2], *quad[4:6]])]
        return corners(box) if self._holds(box, (size[0], size[1])) else None

    def from_quad(
        self, quad: Sequence[float], size: Sequence[float], resized: Sequence[float] | None = None
    ) -> list[float]:
        """A quadrilateral in pixels of the original image as this notation's numbers, not yet rounded.

        A box notation gets the box around it, cut to the image; an oriented one the rectangle of least area around it.
        """
        if len(quad) != 8 or not all(map(math.isfinite, quad)):
            raise DataError(f"{list(quad)} cannot be written in the notation {self.name}; expected four finite corners")
        if self.shape == "box":
            return convert(clip(hull(quad), size), "pixel", self.frame, size, resized)
        if self.shape == "quad":
            return ordered(convert(quad, "pixel", self.frame, size, resized))
        square: Frame = "resized" if self.frame == "resized" else "pixel"
        cx, cy, width, height, degrees = obb_from_quad(convert(quad, "pixel", square, size, resized))
        if self.shape == "obb_centre":
            return [*convert([cx, cy, width, height], square, self.frame, size, resized), degrees]
        if not -45 <= degrees < 45:  # the turn that moves the box least, so that what is upright is written upright
            width, height, degrees = height, width, degrees - math.copysign(90, degrees)
        box = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
        return [*convert(box, square, self.frame, size, resized), degrees]

    def limits(self, resized: Sequence[float] | None) -> tuple[float, float]:
        """Width and height of the whole image in ``frame``; a DataError where that takes an unknown ``resized``."""
        if self.frame == "resized" and resized is None:
            raise DataError(
                f"the notation {self.name} counts pixels of the resized image and needs its size, resized=(width, "
                "height): the column `resized`, which rows made by `samples.rows` have"
            )
        return extent(self.frame, (1, 1), resized)

    def _holds(self, numbers: Sequence[float], limits: tuple[float, float]) -> bool:
        """Whether these are proper numbers of the shape; see _EXPECTED."""
        if len(numbers) != COUNTS[self.shape]:
            return False
        width, height = limits
        if self.shape == "box":
            x1, y1, x2, y2 = numbers
            return 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height
        if self.shape == "obb_centre":
            cx, cy, w, h, degrees = numbers
            inside = 0 <= cx <= width and 0 <= cy <= height
            return inside and 0 <= w <= width + height and 0 <= h <= width + height and abs(degrees) <= 180
        near = all(-width <= x <= 2 * width for x in numbers[: 8 if self.shape == "quad" else 4 : 2])
        near = near and all(-height <= y <= 2 * height for y in numbers[1 : 8 if self.shape == "quad" else 4 : 2])
        if self.shape == "quad":
            return near
        x1, y1, x2, y2, degrees = numbers
        inside = 0 <= x1 + x2 <= 2 * width and 0 <= y1 + y2 <= 2 * height
        return near and inside and x1 <= x2 and y1 <= y2 and abs(degrees) <= 180

    def _settled(self, item: Written, limits: tuple[float, float]) -> Written | None:
        """An object of an answer, cut to the image where it is a box that overhangs it a little; None for no proper
        one."""
        numbers = item.numbers
        if self.shape == "box" and len(numbers) == 4:
            numbers = [_cut(v, limits[n % 2], OVERHANG * limits[n % 2]) for n, v in enumerate(numbers)]
        return replace(item, numbers=numbers) if self._holds(numbers, limits) else None

    def _read_said(self, text: str) -> list[Written] | None:
        """As `_read`, of a model's answer: with the further forms that its family has."""
        return self._read(text)

    def _read(self, text: str) -> list[Written] | None:
        """The objects of a text that consists of nothing else; numbers need not be proper yet."""
        raise NotImplementedError

    def _write(self, numbers: list[list[str]], items: list[Written]) -> str:
        """The text of objects whose numbers are rounded and written out."""
        raise NotImplementedError

    def _label(self, label: str) -> str:
        """A label as the text form holds it. Raises DataError where it holds none, or not this one."""
        raise DataError(f"the notation {self.name} has no place for labels; found {label!r}")


def _cut(value: float, limit: float, slack: float) -> float:
    """A coordinate, moved to the border of 0–limit that it exceeds by at most `slack`."""
    slack *= 1 + 1e-12  # 1.02 of 1 is 2%, whatever floats say
    if -slack <= value < 0:
        return 0.0
    return float(limit) if limit < value <= limit + slack else value
