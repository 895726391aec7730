"""What is said of a pair, in the words of five annotators, and how true a caption is: the world knows every fact.

A change has four facts: class, colour, place, and whether it came or went. An annotator leaves out the colour, and the
place, of three things in ten. The gold of a caption is the F1 of the facts that it states: 2 · true / (stated + 4); of
a pair in which nothing changed, 1 for a caption that says so, and 0 for any other.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from demo.change.scene import KINDS, Pair, pair
from demo.world.scene import PLACES, Thing, place
from demo.world.shapes import CLASSES, COLORS
from vlm import answers

LEFT_OUT = 0.3
SAID = {
    "new": (
        "a {what}{where} is new.",
        "the {what}{where} is new.",
        "there is a new {what}{where}.",
        "a new {what} is there{where}.",
        "new: a {what}{where}.",
    ),
    "gone": (
        "a {what}{where} is gone.",
        "the {what}{where} is gone.",
        "there is no more {what}{where}.",
        "no more {what}{where}.",
        "gone: a {what}{where}.",
    ),
    "same": (
        "no change.",
        "there is no change.",
        "both are the same.",
        "the scenes are the same.",
        "no change in the scene.",
    ),
}
_KIND = {"new": re.compile(r"\bnew\b"), "gone": re.compile(r"\bgone\b|\bno more\b")}
_SAME = re.compile(r"\bno change\b|\bthe same\b")
_WHAT = re.compile(rf"\b(?:({'|'.join(COLORS)}) )?({'|'.join(CLASSES)})\b")
_WHERE = re.compile(rf"\bin the ({'|'.join(PLACES)})\b")


def said(kind: str, thing: Thing | None, template: int, color: bool = True, where: bool = True) -> str:
    """One caption, with the facts that it is to state."""
    if thing is None:
        return SAID["same"][template]
    what = f"{thing.color} {thing.name}" if color else thing.name
    return SAID[kind][template].format(what=what, where=f" in the {place(thing)}" if where else "")


def drawn(one: Pair, template: int, rng: random.Random) -> str:
    """One annotator's caption."""
    return said(one.kind, one.thing, template, rng.random() >= LEFT_OUT, rng.random() >= LEFT_OUT)


def references(one: Pair) -> list[str]:
    """Five captions, in random order, as five annotators leave them."""
    rng = random.Random(one.before.seed ^ 0x5A1D)
    return [drawn(one, template, rng) for template in rng.sample(range(5), 5)]


def read(text: str) -> dict[str, str]:
    """The facts that a caption states, by name; {"kind": "same"} of one that says that nothing changed."""
    text = text.lower()
    if _SAME.search(text):
        return {"kind": KINDS[2]}
    kinds = [kind for kind, pattern in _KIND.items() if pattern.search(text)]
    facts = {"kind": " and ".join(kinds)} if kinds else {}  # what came and went at once did neither
    if what := _WHAT.search(text):
        facts |= {"name": what[2]} | ({"color": what[1]} if what[1] else {})
    if where := _WHERE.search(text):
        facts["place"] = where[1]
    return facts


def gold(text: str, one: Pair) -> float:
    """How true a caption is, in [0, 1]; see above."""
    found = read(text)
    if one.thing is None or found.get("kind") == "same":
        return float(one.kind == found.get("kind"))
    truth = {"kind": one.kind, "name": one.thing.name, "color": one.thing.color, "place": place(one.thing)}
    true = sum(truth[name] == value for name, value in found.items())
    return 2 * true / (len(found) + len(truth))


def reward(completions: Sequence[Any], id: Sequence[str], task: Sequence[str], **columns: Any) -> list[float | None]:
    """`gold` of the captions, as a judge by TRL's signature: `demo/change/captions.py:reward` in a recipe.

    Rows of other tasks get None. The id of a row ends in its pair's seed.
    """
    values: list[float | None] = []
    for completion, row, its in zip(completions, id, task, strict=True):
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        seed = re.search(r"(\d+)(?:\.\w+)?$", row)
        whole = (answers.parse(text).answer or "") if "<answer>" in text else text
        values.append(gold(whole, pair(int(seed[1]))) if its == "caption" and seed else None)
    return values
