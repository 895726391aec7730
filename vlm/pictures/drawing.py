"""A grid of pictures with question, true and predicted boxes and masks, and what the model answered, as one PNG.

A question about several pictures takes as many places side by side as it has pictures, in their order. Boxes and masks
lie in its first picture; they are drawn on the others of the same size, too, for these show the same ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

from vlm.boxes import corners, match_ious
from vlm.masks import Runs
from vlm.pictures.images import load, size, window
from vlm.pictures.overlaid import HALO, PREDICTED, TRUE, laid, scaled

Box = Sequence[float]  # x1, y1, x2, y2 in pixels of the original image, y down
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Source = str | Path | bytes | Image.Image

ZOOMED = "#2f9bff"
INK, PALE, RIGHT, WRONG, UNJUDGED = "#1d2329", "#6a737d", "#1a7f37", "#c0322b", "#8b949e"
PAPER, CARD = "#eef0f2", "#ffffff"
INSET = 0.42
"""Of a cell's side, that of the region that a tool showed."""
NAME = 11
"""Pixels of the height of what a predicted box is called."""
GAP, PADDING, LINE = 16, 10, 19  # pixels: between cells, inside a cell, per line of text
MOST = 8
"""Pictures of a question that are shown: of more the first, the last, and others spread evenly between them."""
TAG = 13
"""Pixels of the height of what a picture is called, in its corner."""


@dataclass
class Picture:
    """One cell, e.g. Picture("a.jpg", "the ship", boxes=[[1, 2, 9, 8]], predicted=[[1, 2, 8, 8]], right=True)

    truth and answer are texts; leave them out where the boxes say it all. `boxes` and `predicted` may be
    quadrilaterals, too, x1, y1, …, x4, y4. `predicted` is None when no box was asked for or none could be read; `right`
    is None when nobody judged.
    """

    image: Source
    question: str
    truth: str | None = None
    answer: str | None = None
    boxes: Sequence[Box] = field(default_factory=list)
    predicted: Sequence[Box] | None = None
    right: bool | None = None
    names: Sequence[str | None] = ()
    "What each of `predicted` is called; empty: nothing is said."
    judged: str | None = None
    "The line that judges, instead of that by IoU."
    zoomed: Sequence[Box] = field(default_factory=list)
    "Regions that a tool showed; the last one is laid over the picture's right lower corner, larger."
    mask: Runs | None = None
    "True mask: run lengths (`vlm.masks`) of the first picture's pixels."
    said: Runs | None = None
    "The mask that the model answered, likewise."
    further: Sequence[Source] = ()
    "The question's other pictures, behind the first."
    dates: Sequence[str] = ()
    "When each picture was taken, the first one's first; empty: nothing is said."

    @property
    def pictures(self) -> list[tuple[int, Source]]:
        """Those that are shown, with their numbers from 0."""
        every = [*enumerate([self.image, *self.further])]
        last = len(every) - 1
        if last < MOST:
            return every
        return [every[round(place * last / (MOST - 1))] for place in range(MOST)]


def grid(
    items: Sequence[Picture], png: str | Path, columns: int = 4, cell: int = 300, title: str | None = None
) -> Image.Image:
    """Draws `items` row by row into `png` and returns it; each image gets a square of `cell` pixels.

    ValueError when there is nothing to draw.
    """
    if not items:
        raise ValueError("no pictures to draw")
    fonts = Fonts(cell)
    rows = list(_rows(items, columns))
    cells = [[_cell(item, cell, fonts, span) for item, span in row] for row in rows]
    heights = [max(picture.height for picture in row) for row in cells]
    head = 74 if title else 46
    known = _legend(items)
    least = 460 + 160 * (len(known) - 2)
    width = max(max(sum(span for _, span in row) for row in rows) * (cell + GAP) + GAP, least)
    page = Image.new("RGB", (width, head + sum(heights) + GAP * len(rows)), PAPER)
    _head(ImageDraw.Draw(page), title, fonts, known)
    top = head
    for drawn, height in zip(cells, heights, strict=True):
        left = GAP
        for picture in drawn:
            ImageDraw.Draw(page).rectangle([left, top, left + picture.width - 1, top + height - 1], fill=CARD)
            page.paste(picture, (left, top))
            left += picture.width + GAP
        top += height + GAP
    page.save(png)
    return page


def _rows(items: Sequence[Picture], columns: int) -> Iterator[list[tuple[Picture, int]]]:
    """Items with the columns that each takes, row by row, in their order."""
    row: list[tuple[Picture, int]] = []
    for item in items:
        span = min(len(item.pictures), columns)
        if row and sum(taken for _, taken in row) + span > columns:
            yield row
            row = []
        row.append((item, span))
    yield row


class Fonts:
    """Pillow's own font in three sizes, and how many pixels a caption line may take."""

    def __init__(self, cell: int):
        self.title = ImageFont.load_default(20)
        self.text = ImageFont.load_default(15)
        self.small = ImageFont.load_default(14)
        self.width = cell - 2 * PADDING


def wrap(text: str, font: Font, width: float, lines: int) -> list[str]:
    """`text` in at most `lines` lines of `width` pixels; long words are cut, "…" ends a cut text."""
    done, line = [], ""
    for word in text.split():
        while font.getlength(word) > width:  # e.g. a run of characters without a blank
            if line:
                done.append(line)
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            done.append(word[:fits])
            word, line = word[fits:], ""
            if len(done) > lines:
                break
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > width:
            done.append(line)
            longer = word
        line = longer
        if len(done) > lines:
            break
    done.append(line)
    done = [text for text in done if text]
    if len(done) > lines:
        last = done[lines - 1] + "…"
        while font.getlength(last) > width and len(last) > 1:
            last = last[:-2] + "…"
        done = [*done[: lines - 1], last]
    return done


def verdict(item: Picture) -> str:
    """The line that judges, e.g. "IoU 0.73", "no box read", "right"; IoUs over several boxes are their mean.

    The mean is over the larger of the two counts, so that a missing and a superfluous box both count as IoU
    0.
    """
    word = {True: "right", False: "wrong", None: ""}[item.right]
    if item.judged is not None:
        return item.judged
    if not item.boxes:
        return word
    if not item.predicted:
        return "no box read" + (f", {word}" if word else "")
    ious = match_ious(item.predicted, item.boxes)
    mean = sum(ious) / max(len(item.predicted), len(item.boxes))
    return f"IoU {mean:.2f}" + (f", {word}" if word else "")


def _cell(item: Picture, cell: int, fonts: Fonts, span: int = 1) -> Image.Image:
    """Its pictures with what is drawn on them, a strip in the colour of the verdict, caption."""
    colour = {True: RIGHT, False: WRONG, None: UNJUDGED}[item.right]
    wide = _width(cell, span) - 2 * PADDING
    lines = [(text, fonts.text, INK) for text in wrap(item.question, fonts.text, wide, 3)]
    if item.truth is not None:
        lines += [(text, fonts.small, PALE) for text in wrap(f"truth: {item.truth}", fonts.small, wide, 2)]
    if item.answer is not None:
        answer = item.answer.strip() or "(empty)"
        lines += [(text, fonts.small, colour) for text in wrap(f"answer: {answer}", fonts.small, wide, 3)]
    if judged := verdict(item):
        lines.append((judged, fonts.small, colour))
    return card(item, cell, colour, lines, span)


def card(item: Picture, cell: int, colour: str, lines: Sequence[tuple[str, Font, str]], span: int = 1) -> Image.Image:
    """Pictures in squares of `cell` pixels, `span` of them side by side, with what is drawn on them; below a strip in
    `colour`, and lines of (text, font, ink)."""
    shown = item.pictures if span > 1 or item.further else [(0, item.image)]
    deep = math.ceil(len(shown) / span)
    width, strip = _width(cell, span), deep * (cell + GAP) - GAP
    out = Image.new("RGB", (width, strip + 6 + LINE * len(lines) + 2 * PADDING), CARD)
    first = _extent(item.image)
    for place, (number, source) in enumerate(shown):
        lying = number == 0 or _extent(source) == first
        square = _square(replace(item, image=source), cell, lying)
        if len(shown) > 1:
            _called(square, number, item.dates)
        row, column = divmod(place, span)
        out.paste(square, (column * (cell + GAP), row * (cell + GAP)))
    pen = ImageDraw.Draw(out)
    pen.rectangle([0, strip, width - 1, strip + 4], fill=colour)
    for number, (text, font, ink) in enumerate(lines):
        pen.text((PADDING, strip + 6 + PADDING + LINE * number), text, font=font, fill=ink)
    return out


def _width(cell: int, span: int) -> int:
    return span * (cell + GAP) - GAP


def _extent(source: Source) -> tuple[int, int]:
    """(width, height), upright."""
    if isinstance(source, Image.Image):
        return source.size
    return size(source if isinstance(source, bytes) else str(source))


def _called(square: Image.Image, number: int, dates: Sequence[str]) -> None:
    """Number and date in the left upper corner."""
    said = f"{number + 1} · {dates[number]}" if number < len(dates) else str(number + 1)
    font = ImageFont.load_default(TAG)
    pen = ImageDraw.Draw(square)
    pen.rectangle([0, 0, font.getlength(said) + 10, TAG + 6], fill=HALO)
    pen.text((5, 2), said, CARD, font)


def _square(item: Picture, cell: int, lying: bool = True) -> Image.Image:
    """The item's image scaled into a square of `cell` pixels, centred; lying: boxes and masks lie in it."""
    source = item.image if isinstance(item.image, Image.Image | bytes) else str(item.image)
    original = _extent(source)
    scale = cell / max(original)
    width, height = (max(1, round(side * scale)) for side in original)
    image = source.convert("RGB") if isinstance(source, Image.Image) else load(source, (width, height))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if lying and (item.mask is not None or item.said is not None):
        image = laid(image, *(None if one is None else scaled(one, image.size) for one in (item.mask, item.said)))
    square = Image.new("RGB", (cell, cell), "#d5d9dd")
    left, top = (cell - width) // 2, (cell - height) // 2
    square.paste(image, (left, top))
    if not lying:
        return square
    pen = ImageDraw.Draw(square)
    kinds = ((item.zoomed, ZOOMED, None), (item.boxes, TRUE, None), (item.predicted or [], PREDICTED, 8))
    for boxes, colour, dash in kinds:
        for box in boxes:
            if not all(map(math.isfinite, box)):
                continue
            on_page = [edge * scale + (top if n % 2 else left) for n, edge in enumerate(box)]
            outline(pen, [min(max(edge, 1), cell - 2) for edge in on_page], colour, dash)
    for name, box in zip(item.names, item.predicted or (), strict=False):
        if name and all(map(math.isfinite, box)):
            x, y = min(box[::2]) * scale + left, min(box[1::2]) * scale + top - NAME - 2
            spot = min(max(x, 1), cell - NAME), min(max(y, 0), cell - NAME)
            pen.text(spot, name, PREDICTED, ImageFont.load_default(NAME), stroke_width=2, stroke_fill=HALO)
    if item.zoomed:
        _inset(square, source, item.zoomed[-1], cell)
    return square


def _inset(square: Image.Image, source: Image.Image | bytes | str, box: Box, cell: int) -> None:
    """The region, read from the original, in the right lower corner; its longer side is `INSET` of the cell."""
    x1, y1, x2, y2 = box
    scale = INSET * cell / max(x2 - x1, y2 - y1)
    wide, high = (max(1, round(side * scale)) for side in (x2 - x1, y2 - y1))
    if isinstance(source, Image.Image):
        part = source.convert("RGB").crop((round(x1), round(y1), round(x2), round(y2)))
    else:
        part = window(source, box, (wide, high) if scale < 1 else None)
    part = part.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = cell - wide - 4, cell - high - 4
    square.paste(part, (left, top))
    outline(ImageDraw.Draw(square), [left, top, left + wide - 1, top + high - 1], ZOOMED, None)


def outline(pen: ImageDraw.ImageDraw, box: Box, colour: str, dash: int | None) -> None:
    """A 3-pixel outline of a box or quadrilateral on a dark halo (it shows on any ground), solid or dashed every `dash`
    pixels."""
    around = box if len(box) == 8 else corners(box)
    points = [(around[n], around[n + 1]) for n in (0, 2, 4, 6, 0)]
    strokes = []
    for a, b in pairwise(points):
        count = 1
        if dash and math.dist(a, b) > 2 * dash:
            count = 2 * round(math.dist(a, b) / (2 * dash)) + 1  # odd: a stroke at either end makes the corners
        strokes += [(_between(a, b, i / count), _between(a, b, (i + 1) / count)) for i in range(0, count, 2)]
    for ink, width in ((HALO, 5), (colour, 3)):
        for stroke in strokes:
            pen.line(stroke, fill=ink, width=width)


def _between(a: tuple[float, float], b: tuple[float, float], share: float) -> tuple[float, float]:
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share


def _legend(items: Sequence[Picture]) -> list[tuple[str, str, str]]:
    """What is drawn on the pictures: (how, in what colour, what it is); boxes are always told of where no mask is."""
    masked = any(item.mask is not None or item.said is not None for item in items)
    boxed = any(item.boxes or item.predicted for item in items)
    known = [("mask", TRUE, "true mask"), ("mask", PREDICTED, "predicted mask")] if masked else []
    if boxed or not masked:
        known += [("box", TRUE, "true box"), ("dashed", PREDICTED, "predicted box")]
    if any(item.zoomed for item in items):
        known.append(("box", ZOOMED, "zoomed into"))
    return known


def _pale(colour: str) -> tuple[int, ...]:
    pairs = zip(ImageColor.getrgb(PAPER), ImageColor.getrgb(colour), strict=True)
    return tuple(round(0.6 * ground + 0.4 * ink) for ground, ink in pairs)


def _head(pen: ImageDraw.ImageDraw, title: str | None, fonts: Fonts, known: Sequence[tuple[str, str, str]]) -> None:
    top = 14
    if title:
        pen.text((GAP, top), title, font=fonts.title, fill=INK)
        top += 30
    left = float(GAP)
    for how, colour, word in known:
        around = [left + 1, top + 1, left + 31, top + 16]
        if how == "mask":
            pen.rectangle(around, fill=_pale(colour))
        outline(pen, around, colour, 5 if how == "dashed" else None)
        pen.text((left + 40, top), word, font=fonts.text, fill=INK)
        left += 64 + fonts.text.getlength(word)
    for word, colour in (("right", RIGHT), ("wrong", WRONG)):
        pen.rectangle([left, top + 5, left + 22, top + 11], fill=colour)
        pen.text((left + 30, top), word, font=fonts.text, fill=INK)
        left += 54 + fonts.text.getlength(word)
