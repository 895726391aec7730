"""The pretraining corpus of the zoom demo's base: unlimited yards and crops, first captions, then chats.

    index  "red03" for each pad of a yard, first of one alone: its column and row; "ring on red" for a crop, first for
           tight ones; no chat
    boxes  the same crops; "red03(120,840),(220,940)" for each pad
    chats  Qwen2-VL's chat, of three kinds:
        crop   a crop and what is on it
        yard   a whole yard and a few questions; a mark is guessed at, for it cannot be seen
        chain  a yard, a pad's place and a careless region around it, then a crop and what is on it: two pictures

Where a pad is asked for, its colour, column and row are said before its box: after "red03" the box was learned within
200 steps, after a question that ends in "red pad?" not in 250 (LOG.md).

Crops are as loose, and as wrong in shape, as those of a model that learns where to look. The tool's call is not in it:
that is what SFT teaches.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from PIL import Image

from demo import corpus
from demo.zoom.render import window
from demo.zoom.scene import BLOCK, SIDE, SPLIT_SEEDS, TRUCK, Box, Pad, Scene, scene
from demo.zoom.tasks import SMALL, ask, mark_of
from demo.zoom.tiny import GO_ON, POINT
from vlm.boxes import write_boxes
from vlm.tools.tool import View

PHASES = (("index", 28_800), ("boxes", 51_200))
"""(phase, up to this row of the corpus); what comes after is `chats`."""
FEW = ((6_400, 1), (12_800, 2), (51_200, 3))
"""(up to this row, pads of a yard that is captioned): which of several is meant is learned after where one is."""
KINDS = {"crop": 0.3, "yard": 0.2, "chain": 0.5}
CROPPED = 0.5
"""Share of crops among the captions, once the first places are learned: begun with crops, places came not at all."""
QUESTIONS = {"where": 0.45, SMALL: 0.1, "presence": 0.15, "count": 0.12, "relation": 0.18}
"""Share of each kind of question about a whole yard."""
TURNS = 4
CROP = (140, 360)
"""Side of a crop."""
TIGHT = (80, 140)
"""And of the first ones: marks are learned large, and then small."""
LOOSE = 0.7
"""How far out a side of a careless region may lie, in widths of its pad."""
ROUND = 10
"""The base writes a pad's own box in round numbers, which are as many digits less to learn."""
SCALE = 0.5
"""At which a whole yard is drawn before it shrinks, four times as fast as at full size."""
SHOWN = 112
FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.LANCZOS)
YARD = View("", (0, 0, SIDE, SIDE), (SHOWN, SHOWN), "per_mille")
"""A whole yard, as a call sees it."""
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


def phase_of(row: int) -> str:
    return next((phase for phase, end in PHASES if row < end), "chats")


def box_text(box: Box) -> str:
    """Qwen2-VL's notation, 0–1000 of the picture, in round numbers."""
    return write_boxes([[round(value / SIDE * 1000 / ROUND) * ROUND for value in box]], "qwen2_vl", (1000, 1000))


def careless(pad: Pad, rng: random.Random) -> Box:
    """A region that holds a pad, its sides too far out, as an annotator's; cut to the picture; whole pixels."""
    x1, y1, x2, y2 = pad.box
    a, b, c, d = (round(rng.uniform(0, LOOSE) * (x2 - x1)) for _ in range(4))
    return max(x1 - a, 0), max(y1 - b, 0), min(x2 + c, SIDE), min(y2 + d, SIDE)


def listed(box: Box) -> str:
    """0–1000 of the picture as a list of numbers, as a call has them."""
    return f"\n{YARD.stated(box)}"


def block(pad: Pad) -> str:
    """The column and row of the pad's block, from 0: "03"."""
    column, line = (int(value // BLOCK) for value in pad.center)
    return f"{column}{line}"


def place(pad: Pad) -> str:
    """The pad's colour and block: "red03"."""
    return pad.color + block(pad)


def cut(pad: Pad, rng: random.Random, sides: tuple[float, float] = CROP) -> Box:
    """A window of whole numbers that holds a pad's truck: tight or wide, more or less centred, of any shape."""
    low, high = (math.log(side) for side in sides)
    side, shape = math.exp(rng.uniform(low, high)), math.exp(rng.gauss(0, 0.15))
    ends = []
    for axis, wanted in ((0, side * shape), (1, side / shape)):
        length = max(wanted, TRUCK[1] + 10)
        begin, end = pad.truck[axis], pad.truck[axis + 2]
        first, last = end + 4 - length, begin - 4  # of the window's start, so that the truck is inside
        centred = pad.center[axis] - length / 2 + rng.gauss(0, 0.12 * length)
        start = centred if rng.random() < 0.6 else rng.uniform(first, last)
        start = round(min(max(min(max(start, first), last), 0), SIDE - length))
        ends.append((start, min(round(start + length), SIDE)))
    (x1, x2), (y1, y2) = ends
    return x1, y1, x2, y2


def overview(one: Scene, rng: random.Random) -> Image.Image:
    """The whole yard as the model sees it, reduced by a filter of some kind."""
    return window(one, (0, 0, SIDE, SIDE), SCALE).resize((SHOWN, SHOWN), rng.choice(FILTERS))


def _said(user: str, answer: str) -> list[tuple[str, bool]]:
    """One question and its answer in Qwen2-VL's chat template."""
    asked = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return [(asked, False), (f"{answer}<|im_end|>", True), ("\n", False)]


def _turn(one: Scene, rng: random.Random) -> tuple[str, str]:
    kind = rng.choices(list(QUESTIONS), list(QUESTIONS.values()))[0]
    if kind != "where":
        item = ask(one, kind, rng)
        return item.question, item.answer
    pad = rng.choice(one.pads)
    return f"Where is the {pad.color} pad?", place(pad) + box_text(pad.box)


def _caption(one: Scene, rng: random.Random, row: int) -> corpus.Row:
    first, last = FEW[0][0], PHASES[-1][1]
    if row >= first and rng.random() < CROPPED:
        pad = rng.choice(one.pads)
        sides = (a + (b - a) * (row - first) / (last - first) for a, b in zip(TIGHT, CROP, strict=True))
        crop = window(one, cut(pad, rng, tuple(sides)))
        return [crop], [(PICTURE, False), (f"{pad.mark} on {pad.color}<|endoftext|>", True)]
    most = next(most for end, most in FEW if row < end)
    one = replace(one, pads=one.pads[:most])
    pieces = [(PICTURE, False)]
    for pad in rng.sample(one.pads, len(one.pads)):  # in random order: which pad comes next is not to be learned
        box = box_text(pad.box) if phase_of(row) == "boxes" else ""
        pieces += [(pad.color, False), (f"{block(pad)}{box}\n", True)]
    return [overview(one, rng)], pieces


def conversation(row: int) -> corpus.Row:
    """Pictures and text of a row of the corpus."""
    one = scene(SPLIT_SEEDS["pretrain"] + row)
    rng = random.Random(one.seed ^ 0x5EED)
    if phase_of(row) != "chats":
        return _caption(one, rng, row)
    pieces: list[tuple[str, bool]] = [("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", False)]
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "yard":
        for number in range(TURNS):
            question, answer = _turn(one, rng)
            pieces += _said(f"{PICTURE if not number else ''}{question}", answer)
        return [overview(one, rng)], pieces
    pad = rng.choice(one.pads)
    item, region = mark_of(pad), careless(pad, rng)
    crop = window(one, cut(pad, rng) if rng.random() < 0.7 else region)
    if kind == "crop":
        return [crop], pieces + _said(f"{PICTURE}{item.question}", item.answer)
    asked, then, box = f"{item.question}\n{POINT}", GO_ON, listed(region)
    if rng.random() < 0.3:
        asked, then, box = f"Where is the {pad.color} pad?", item.question, box_text(pad.box)
    pieces += _said(f"{PICTURE}{asked}", place(pad) + box)
    return [overview(one, rng), crop], pieces + _said(f"{PICTURE}{then}", item.answer)


class Corpus(corpus.Corpus):
    """Endless batches of this corpus."""

    def row(self, number: int) -> corpus.Row:
        return conversation(number)
