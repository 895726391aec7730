"""What the change demo's base is pretrained on, from the demo's base on: unlimited pairs and scenes.

    bare      no chat: of a pair "red ship upper left new" and the mask of what changed, in either order; of a scene,
              each name right before its mask or its place
    half      half of it bare, half Qwen2-VL's chat: captions of pairs, as five annotators say them; masks of things
    chats     a fifth of it bare; masks as loose as the web's, so that SFT and GRPO have something to mend: three in ten
              have another row or column of cells

The bare rows come first, and nearly all of them are pairs: which thing changed is learned late, and its name last
(LOG.md).
"""

from __future__ import annotations

import random

import numpy as np

from demo import corpus
from demo.change.captions import drawn
from demo.change.scene import Pair, mask, pair, scene
from demo.world import scene as scenes
from demo.world.render import render
from demo.world.scene import SPLIT_SEEDS, Scene, Thing
from demo.world.tasks import noun, sighting
from vlm.masks import asking, read_mask, runs_of, write_mask

SIDE = 112
"""Pixels of a picture as the model sees it: 16 visual tokens, a mask's grid is 4 × 4."""
PHASES = (("bare", 57_600), ("half", 70_400))
"""(phase, up to this row of the corpus); after them come `chats`."""
PAIRS = {"bare": 0.9, "half": 0.65, "chats": 0.85}
"""Share of rows that are pairs."""
BARE = {"bare": 1.0, "half": 0.5, "chats": 0.2}
"""Share of rows that are no chat."""
GROWN = 0.3
TURNS = 2
"""Masks that a chat asks for."""
TOLD_SHARE = 0.1
"""Share of these chats with the system prompt of the mask's form: it is long, and says the same each time."""
FORM = "rscovlm"
CHANGED = "Describe in one sentence what has changed from the first image to the second."
SEGMENT = "Segment the {}."
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PLAIN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
TOLD = f"<|im_start|>system\n{asking(FORM).system}<|im_end|>\n"


def phase_of(row: int) -> str:
    return next((phase for phase, end in PHASES if row < end), "chats")


def masked(thing: Thing | None) -> str:
    """A thing's mask as the model states it; of none, an empty one."""
    pixels = mask(thing) if thing else np.zeros((scenes.SIDE, scenes.SIDE), bool)
    return write_mask(runs_of(pixels), FORM, (SIDE, SIDE))


def grown(text: str, rng: random.Random) -> str:
    """A mask that covers a row or a column of cells too many."""
    said = read_mask(text, FORM, (SIDE, SIDE), (SIDE, SIDE))
    shift = rng.choice(((1, 0), (-1, 0), (0, 1), (0, -1)))
    moved = np.roll(np.pad(said.grid, 1), shift, (0, 1))[1:-1, 1:-1]
    cells = np.kron(said.grid | moved, np.ones((28, 28), bool))
    return write_mask(runs_of(cells), FORM, (SIDE, SIDE))


def _bare(phase: str, rng: random.Random) -> bool:
    return rng.random() < BARE[phase]


def _bare_pair(one: Pair, rng: random.Random) -> str:
    """What changed, and the mask of it, in either order."""
    said = f"{sighting(one.thing)} {one.kind}" if one.thing else "no change"
    cells = masked(one.thing)
    return cells + said if rng.random() < 0.4 else said + cells


def _bare_scene(one: Scene, rng: random.Random) -> str:
    things = rng.sample(one.things, len(one.things))
    if rng.random() < 0.25:
        return "\n".join(map(sighting, things))
    return "\n".join(f"{noun(thing)}{masked(thing)}" for thing in things)


def _of_pair(seed: int, phase: str, rng: random.Random) -> corpus.Row:
    one = pair(seed)
    pictures = [render(one.before), render(one.after)]
    if _bare(phase, rng):
        return pictures, [(PICTURE * 2, False), (f"{_bare_pair(one, rng)}<|endoftext|>", True)]
    text = drawn(one, rng.randrange(5), rng)
    return pictures, [(PLAIN + TURN.format(PICTURE * 2 + CHANGED), False), (f"{text}<|im_end|>", True)]


def _of_scene(seed: int, phase: str, rng: random.Random) -> corpus.Row:
    one = scene(seed)
    if _bare(phase, rng):
        return [render(one)], [(PICTURE, False), (f"{_bare_scene(one, rng)}<|endoftext|>", True)]
    pieces = [(TOLD, False)] if rng.random() < TOLD_SHARE else []
    for turn, thing in enumerate(rng.sample(one.things, min(TURNS, len(one.things)))):
        text = masked(thing)
        if phase == "chats" and rng.random() < GROWN:
            text = grown(text, rng)
        picture = "" if turn else PICTURE
        pieces.append((TURN.format(picture + SEGMENT.format(noun(thing))), False))
        pieces += [(f"{text}<|im_end|>", True), ("\n", False)]
    return [render(one)], pieces


def conversation(row: int) -> corpus.Row:
    """Pictures and text of a row of the corpus."""
    seed, phase = SPLIT_SEEDS["pretrain"] + row, phase_of(row)
    rng = random.Random(seed ^ 0x5EED)
    of = _of_pair if rng.random() < PAIRS[phase] else _of_scene
    return of(seed, phase, rng)


class Corpus(corpus.Corpus):
    """Endless batches of this corpus."""

    def row(self, number: int) -> corpus.Row:
        return conversation(number)
