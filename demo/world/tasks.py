"""Questions about a scene, their exact answers, and truthful reasoning traces.

    item = ask(scene, "vqa", random.Random(0))
    item.question   "How many ships are there?"
    item.trace      "red ship upper left, blue ship middle center, so 2."
    item.answer     "2"

A trace says where the evidence is and why the answer follows; every statement in it is true of the scene. It names a
thing right before its place, as the bare captions of `demo.corpus` do: in whole sentences a model this small no longer
tells which of several things is meant (LOG.md).
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

from demo.world.captions import QUESTION, caption, facts_of
from demo.world.scene import PLACES, Scene, Thing, place
from demo.world.shapes import CLASSES, COLORS

TASKS = ("grounding", "vqa", "choice", "caption")
VQA_KINDS = ("presence", "count", "color", "comparison")


@dataclass(slots=True)
class Item:
    """One question. `things` are the objects it is about (for grounding: the one to box)."""

    task: str
    kind: str
    question: str
    answer: str
    trace: str
    things: list[Thing]
    choices: list[str] | None = None


def plural(name: str) -> str:
    return f"{name}s"


def noun(thing: Thing) -> str:
    return f"{thing.color} {thing.name}"


def sighting(thing: Thing) -> str:
    return f"{noun(thing)} {place(thing)}"


def _reading_order(thing: Thing) -> tuple[int, float]:
    return PLACES.index(place(thing)), thing.box[0]


def _sightings(things: list[Thing]) -> str:
    """Each thing once, in reading order: in random order a small model repeats some and forgets others."""
    return ", ".join(map(sighting, sorted(things, key=_reading_order)))


def _unique(scene: Scene) -> list[tuple[Thing, str, str]]:
    """(thing, phrase, reason) for every phrase that picks out exactly one thing."""
    out = []
    for thing in scene.things:
        others = [t for t in scene.things if t is not thing]
        where = f"is in the {place(thing)}."
        if all(t.name != thing.name for t in others):
            out.append((thing, f"the {thing.name}", f"the only {thing.name} is {thing.color} and {where}"))
        if all((t.name, t.color) != (thing.name, thing.color) for t in others):
            out.append((thing, f"the {noun(thing)}", f"the only {noun(thing)} {where}"))
        if all(t.color != thing.color for t in others):
            out.append(
                (
                    thing,
                    f"the {thing.color} object",
                    f"the only {thing.color} object, a {thing.name}, {where}",
                )
            )
    return out


def sentences_about(thing: Thing, scene: Scene) -> list[str]:
    """The true sentences that single the thing out and say where it is; none where no phrase does."""
    return [reason for found, _, reason in _unique(scene) if found is thing]


def _grounding(scene: Scene, rng: random.Random) -> Item | None:
    found = _unique(scene)
    if not found:
        return None
    thing, phrase, _ = rng.choice(found)
    return Item("grounding", "box", phrase, "", f"{sighting(thing)}.", [thing])


def _presence(scene: Scene, rng: random.Random) -> Item:
    if rng.random() < 0.5:
        thing = rng.choice(scene.things)
        return Item(
            "vqa", "presence", f"Is there a {noun(thing)}?", "yes",
            f"{sighting(thing)}, so yes.", [thing],
        )  # fmt: skip
    there = {(t.color, t.name) for t in scene.things}
    absent = [(c, n) for c in COLORS for n in CLASSES if (c, n) not in there]
    near = [(c, n) for c, n in absent if any(t.name == n or t.color == c for t in scene.things)]
    color, name = rng.choice(near if rng.random() < 0.6 else absent)
    trace = f"{_sightings(scene.things)}, so no."
    return Item("vqa", "presence", f"Is there a {color} {name}?", "no", trace, [])


def _count(scene: Scene, rng: random.Random) -> Item:
    name = rng.choice(scene.things).name if rng.random() < 0.8 else rng.choice(CLASSES)
    things = [t for t in scene.things if t.name == name]
    trace = _sightings(things or scene.things)
    return Item(
        "vqa",
        "count",
        f"How many {plural(name)} are there?",
        str(len(things)),
        f"{trace}, so {len(things)}.",
        things,
    )


def _color(scene: Scene, rng: random.Random) -> Item | None:
    single = [t for t in scene.things if sum(o.name == t.name for o in scene.things) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    return Item(
        "vqa", "color", f"What color is the {thing.name}?", thing.color,
        f"{sighting(thing)}.", [thing],
    )  # fmt: skip


def _comparison(scene: Scene, rng: random.Random) -> Item:
    counts = {name: sum(t.name == name for t in scene.things) for name in CLASSES}
    pairs = [(a, b) for a in CLASSES for b in CLASSES if a != b and counts[a] + counts[b] > 0]
    more = rng.random() < 0.5
    a, b = rng.choice([(a, b) for a, b in pairs if (counts[a] > counts[b]) == more] or pairs)
    answer = "yes" if counts[a] > counts[b] else "no"
    trace = f"{_sightings(scene.things)}, so {answer}."
    return Item("vqa", "comparison", f"Are there more {plural(a)} than {plural(b)}?", answer, trace, [])


def _vqa(scene: Scene, rng: random.Random) -> Item | None:
    makers = {"presence": _presence, "count": _count, "color": _color, "comparison": _comparison}
    return makers[rng.choice(VQA_KINDS)](scene, rng)


def _choice(scene: Scene, rng: random.Random) -> Item:
    thing = rng.choice(scene.things)
    there = {(t.color, t.name) for t in scene.things}
    absent = [f"{c} {n}" for c in COLORS for n in CLASSES if (c, n) not in there]
    choices = rng.sample(absent, 3)
    right = rng.randrange(4)
    choices.insert(right, noun(thing))
    letter = string.ascii_uppercase[right]
    return Item(
        "choice", "which", "Which of these is in the image?", letter,
        f"{letter}. {sighting(thing)}.", [thing], choices,
    )  # fmt: skip


def _caption(scene: Scene, rng: random.Random) -> Item:
    things = sorted(scene.things, key=lambda t: (t.box[1], t.box[0]))
    text = caption([facts_of(t, scene) for t in things])
    return Item("caption", "scene", QUESTION, text, _sightings(scene.things) + ".", things)


def ask(scene: Scene, task: str, rng: random.Random) -> Item | None:
    """One question of a task, or None where the scene admits none (no phrase picks out one thing)."""
    return {"grounding": _grounding, "vqa": _vqa, "choice": _choice, "caption": _caption}[task](scene, rng)
