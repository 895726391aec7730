"""Questions about a yard and their exact answers: small ones that take a closer look, and easy ones that do not.

    item = ask(scene, "mark", random.Random(0))
    item.question   "Which mark is on the red pad?"
    item.answer     "ring"
    item.pad.truck  where the evidence is

Small: which of eight marks a pad's truck has; each mark is as frequent as any other, so chance is 12.5%. Easy, for
the pads themselves can be seen: whether a pad is there, how many there are, how two of them lie.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo.world.shapes import COLORS
from demo.zoom.scene import PADS, Pad, Scene

SMALL = "mark"
EASY = ("presence", "count", "relation")


@dataclass(slots=True)
class Item:
    """One question. pad: where its evidence is, of a small one."""

    kind: str
    question: str
    answer: str
    pad: Pad | None = None


def mark_of(pad: Pad) -> Item:
    return Item(SMALL, f"Which mark is on the {pad.color} pad?", pad.mark, pad)


def _presence(scene: Scene, rng: random.Random) -> Item:
    there = [pad.color for pad in scene.pads]
    absent = [color for color in COLORS if color not in there]
    yes = not absent or rng.random() < 1 / 3  # every fourth yard has all six colours: "yes" half of the time
    color = rng.choice(there if yes else absent)
    return Item("presence", f"Is there a {color} pad?", "yes" if yes else "no")


def _count(scene: Scene, rng: random.Random) -> Item:
    return Item("count", "How many pads are there?", str(len(scene.pads)))


def _relation(scene: Scene, rng: random.Random) -> Item:
    a, b = rng.sample(scene.pads, 2)
    axis = rng.randrange(2)
    word = ("left of", "above")[axis]
    answer = "yes" if a.center[axis] < b.center[axis] else "no"
    return Item("relation", f"Is the {a.color} pad {word} the {b.color} pad?", answer)


def ask(scene: Scene, kind: str, rng: random.Random) -> Item:
    """One question of a kind."""
    if kind == SMALL:
        return mark_of(rng.choice(scene.pads))
    return {"presence": _presence, "count": _count, "relation": _relation}[kind](scene, rng)


COUNTS = tuple(map(str, range(PADS[0], PADS[1] + 1)))
