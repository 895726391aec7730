"""What the detection demo's base is pretrained on, from the demo's base on: unlimited scenes of up to six things.

    captions  no chat: each thing in random order with its colour, place and box, as `demo.corpus` says it
    lists     Qwen2-VL's chat: all things by class, from top to bottom, each name right before its box
    careless  lists as incomplete and loose as the web's, so that SFT and GRPO have something to mend: each thing is
              left out with probability 0.3, each side of a box lies up to 40% of its extent too far out

Captions and lists are mixed from the first row on: captions keep what the demo's base knows of *which*, and lists
take it from there (LOG.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from demo import corpus
from demo.detect.scene import scene
from demo.world.render import render
from demo.world.scene import SIDE, SPLIT_SEEDS, Thing
from demo.world.shapes import CLASSES
from demo.world.tasks import sighting
from vlm.boxes import corners
from vlm.boxes.detections import write_detections

PHASES = (("half", 9_600), ("lists", 44_800))
"""(phase, up to this row of the corpus); after them comes `careless`. In the first, half of the rows are captions."""
MISSING = 0.3
QUESTION = f"Where is every {', '.join(sorted(CLASSES))}?"
"""As the recipes word it (`recipes/demo/detect/base.yaml`)."""
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
ASKED = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n{PICTURE}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)


def phase_of(row: int) -> str:
    return next((phase for phase, end in PHASES if row < end), "careless")


def listed(things: Sequence[Thing]) -> str:
    """Things as the model states them."""
    quads = [corners(list(thing.box)) for thing in things]
    return write_detections(quads, [thing.name for thing in things], "qwen2_vl", (SIDE, SIDE))


def careless(things: Sequence[Thing], rng: random.Random) -> list[Thing]:
    """Things as a careless annotator sees them."""
    kept = [thing for thing in things if rng.random() > MISSING]
    return [replace(thing, box=corpus.loosen(thing, rng)) for thing in kept]


def conversation(row: int) -> corpus.Row:
    """Picture and text of a row of the corpus."""
    one = scene(SPLIT_SEEDS["pretrain"] + row)
    rng, phase = random.Random(one.seed ^ 0x5EED), phase_of(row)
    if phase == "half" and one.things and rng.random() < 0.5:
        said = [sighting(thing) + corpus.box_text(thing.box) for thing in rng.sample(one.things, len(one.things))]
        return [render(one)], [(PICTURE, False), ("\n".join(said) + "<|endoftext|>", True)]
    things = careless(one.things, rng) if phase == "careless" else one.things
    return [render(one)], [(ASKED, False), (f"{listed(things)}<|im_end|>", True)]


class Corpus(corpus.Corpus):
    """Endless batches of this corpus."""

    def row(self, number: int) -> corpus.Row:
        return conversation(number)
