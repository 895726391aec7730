"""Captions of a scene and how true they are: the world knows every fact, so the learned reward can be checked.

    gold = (true facts stated - false facts stated) / facts of the scene

A scene has four facts a thing: class, colour, surface and place. A caption states them in clauses, "a red ship on
water in the upper left"; a clause may leave facts out ("a ship", "an object on land"). Each clause is taken to be about
the thing it fits best, one thing a clause; what it says beyond what fits, and all that a further clause says, is false.
A perfect caption has 1, an empty one 0, an invented one less than 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from demo.world.scene import PLACES, Scene, Thing, place, scene
from demo.world.shapes import CLASSES, COLORS
from vlm import answers

QUESTION = "Describe the image."

_CLAUSE = re.compile(
    rf"\ban? (?:({'|'.join(COLORS)}) )?({'|'.join(CLASSES)}|object)\b"
    rf"(?: on (water|land))?(?: in the ({'|'.join(PLACES)}))?"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is said of one thing; None where nothing is."""

    name: str | None
    color: str | None = None
    surface: str | None = None
    place: str | None = None

    def __str__(self) -> str:
        words = f"{self.color} {self.name or 'object'}" if self.color else self.name or "object"
        said = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
        said += f" on {self.surface}" if self.surface else ""
        return said + (f" in the {self.place}" if self.place else "")

    @property
    def stated(self) -> int:
        return sum(fact is not None for fact in astuple(self))


def facts_of(thing: Thing, full: Scene) -> Facts:
    """All four facts of a thing."""
    return Facts(thing.name, thing.color, "water" if full.is_water(*thing.center) else "land", place(thing))


def truth(full: Scene) -> list[Facts]:
    """The facts of every thing, in the order of the base's captions: by the upper edge of its box."""
    return [facts_of(t, full) for t in sorted(full.things, key=lambda t: (t.box[1], t.box[0]))]


def caption(clauses: Sequence[Facts]) -> str:
    return ", ".join(map(str, clauses)) + "."


def read(text: str) -> list[Facts]:
    """The clauses of a caption, in order; what is no clause states nothing."""
    found = (match.groups() for match in _CLAUSE.finditer(text))
    return [Facts(None if name == "object" else name, color, ground, where) for color, name, ground, where in found]


def gold(text: str, full: Scene) -> float:
    """The share of the scene's facts that the text states truly, less those it states falsely; at most 1."""
    known, said = truth(full), read(text)
    fits = np.array([[_agreeing(a, b) for b in known] for a in said]).reshape(len(said), len(known))
    true = int(fits[linear_sum_assignment(fits, maximize=True)].sum())
    stated = sum(clause.stated for clause in said)
    return (true - (stated - true)) / (4 * len(known))


def _agreeing(said: Facts, known: Facts) -> int:
    return sum(a is not None and a == b for a, b in zip(astuple(said), astuple(known), strict=True))


def reward(completions: Sequence[Any], id: Sequence[str], task: Sequence[str], **columns: Any) -> list[float | None]:
    """`gold` of the answers, as a reward or a judge by TRL's signature: `demo.world.captions:reward` in a recipe.

    Rows of other tasks get None. A completion with tags is read inside its one <answer>; without, it is read whole.
    """
    values: list[float | None] = []
    for completion, seed, its in zip(completions, id, task, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        said = (answers.parse(text).answer or "") if "<answer>" in text or "<think>" in text else text
        values.append(gold(said, scene(int(seed))) if its in ("open_ended", "caption") else None)
    return values
