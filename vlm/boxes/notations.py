"""The texts that model families write boxes as; each declares the frame its numbers are in, and nothing guesses it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlm.boxes.frames import FIXED, Frame, convert
from vlm.errors import DataError, RecipeError


@dataclass(frozen=True)
class Notation:
    """How one model family writes boxes: a text form and the frame its numbers are in.

    ``format`` and ``parse`` take and give boxes in ``frame``; ``write_boxes`` and ``read_boxes`` convert from
    and to pixels. Only frames of fixed extent (per_mille, percent, unit) can bound the numbers here.
    """

    name: str
    frame: Frame
    template: str
    """One box, as a str.format template of four integers."""
    joiner: str
    """What stands between two boxes."""
    brackets: str
    """Empty, or "[]": the list of boxes stands in brackets of its own (written, but not insisted on)."""
    pattern: re.Pattern[str]
    """One box as text; the groups that match are its four numbers. Allows single spaces."""

    def format(self, boxes: Sequence[Sequence[float]]) -> str:
        """Text of ``boxes`` (in ``frame``), rounded to whole frame units: at most half a unit is lost.

        Raises DataError on boxes that ``parse`` would refuse (none at all, inverted, outside the frame).
        """
        if not boxes:
            raise DataError(f"no box to write in the notation {self.name}; at least one is expected")
        texts = []
        for box in boxes:
            whole = [round(value) if math.isfinite(value) else -1 for value in box]
            if len(whole) != 4 or not self._holds(whole):
                raise DataError(
                    f"box {list(box)} cannot be written in the notation {self.name}; "
                    f"expected 0 <= x1 <= x2 <= {FIXED[self.frame]:g} and the same for y, in {self.frame}"
                )
            texts.append(self.template.format(*whole))
        return self.brackets[:1] + self.joiner.join(texts) + self.brackets[1:]

    def parse(self, text: str) -> list[list[float]] | None:
        """All boxes of ``text`` (in ``frame``), or None unless the text consists of nothing but proper boxes.

        None for: no box, an inverted box, a value outside the frame, any other text before, between or
        behind. Between boxes white space, a comma or a semicolon may stand. Boxes without area are read
        (small ones round to that).
        """
        # With white space collapsed the patterns need no unbounded repetition of it: parsing stays linear.
        text = " ".join(text.split())
        if self.brackets and text.startswith(self.brackets[0] * 2) and text.endswith(self.brackets[1] * 2):
            text = text[1:-1]
        boxes: list[list[float]] = []
        position = 0
        while position < len(text):
            if boxes:
                position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]  # matches ""
            found = self.pattern.match(text, position)
            if found is None:
                return None
            box = [float(value) for value in found.groups() if value is not None]
            if not self._holds(box):
                return None
            boxes.append(box)
            position = found.end()
        return boxes or None

    def _holds(self, box: Sequence[float]) -> bool:
        x1, y1, x2, y2 = box
        limit = FIXED[self.frame]
        return 0 <= x1 <= x2 <= limit and 0 <= y1 <= y2 <= limit


_NUMBER = r" ?([0-9]+(?:\.[0-9]+)?) ?"
_CORNERS = rf"\({_NUMBER},{_NUMBER}\) ?, ?\({_NUMBER},{_NUMBER}\)"
_BETWEEN = re.compile(r" ?[,;]? ?")

NOTATIONS: dict[str, Notation] = {
    # Qwen2-VL (arXiv 2409.12191, section 2.2). The special tokens are gone when a completion was decoded with
    # skip_special_tokens, as TRL does; they come in pairs or not at all.
    "qwen2_vl": Notation(
        name="qwen2_vl",
        frame="per_mille",
        template="<|box_start|>({},{}),({},{})<|box_end|>",
        joiner="",
        brackets="",
        pattern=re.compile(rf"<\|box_start\|> ?{_CORNERS} ?<\|box_end\|>|{_CORNERS}"),
    ),
    # VHM: "[[012,025,112,100]]". The right and lower edges of the image are written 1000 (four digits),
    # because 999 would be a whole unit off; VHM's own rows stop at 999.
    "vhm": Notation(
        name="vhm",
        frame="per_mille",
        template="[{:03d},{:03d},{:03d},{:03d}]",
        joiner=",",
        brackets="[]",
        pattern=re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"),
    ),
}


def _notation(notation: str | Notation) -> Notation:
    if isinstance(notation, Notation):
        return notation
    if notation not in NOTATIONS:
        raise RecipeError(f"unknown box notation {notation!r}; known: {', '.join(NOTATIONS)}")
    return NOTATIONS[notation]


def read_boxes(text: str, notation: str | Notation, size: Sequence[float]) -> list[list[float]] | None:
    """Pixel boxes that ``text`` states in ``notation``; None where it does not parse (see Notation.parse).

    size: (width, height) of the original image in pixels.
    """
    notation = _notation(notation)
    boxes = notation.parse(text)
    return None if boxes is None else [convert(box, notation.frame, "pixel", size) for box in boxes]


def write_boxes(boxes: Sequence[Sequence[float]], notation: str | Notation, size: Sequence[float]) -> str:
    """Text of pixel ``boxes`` in ``notation``; reading it back is exact to half a unit of the notation's
    frame.

    size: (width, height) of the original image in pixels. Raises DataError on an inverted box or one outside
    the image.
    """
    notation = _notation(notation)
    return notation.format([convert(box, "pixel", notation.frame, size) for box in boxes])
