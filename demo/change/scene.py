"""Scenes of the change demo: few large things of the demo world, and pairs in which one of them came or went.

`scene(seed)` and `pair(seed)` are pure functions of their seed, and `demo.world.render` draws scenes. Both pictures of
a pair have the same ground and grain: what differs is the change. No two things of a scene have the same colour and
class, so that "the red ship" names one.

Frame: pixels of the 224 × 224 image, x to the right, y down.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from demo.world.scene import SIDE, Scene, Thing, placed, shore
from demo.world.shapes import PARTS, to_pixels

SCALE = 1.5
"""Of the demo world's sizes: a cell of a mask's grid is a quarter of the picture's side."""
COUNTS = {1: 0.35, 2: 0.4, 3: 0.25}
"""Share of scenes that are to have so many things; one that finds no room is left out."""
KINDS = ("new", "gone", "same")
SHARES = (0.4, 0.4, 0.2)
"""Of pairs in which a thing came, went, and in which none did."""
STAYS = {0: 0.3, 1: 0.45, 2: 0.25}
"""Share of the pairs with a change in which so many things are to stay."""


@dataclass(slots=True, frozen=True)
class Pair:
    """Two scenes of one place. `thing` is what is new in the second, or gone from it; None where nothing changed."""

    before: Scene
    after: Scene
    kind: str
    thing: Thing | None


def _filled(seed: int, count: int) -> Scene:
    """A scene of so many things, as far as they find room; each with its own colour and class."""
    rng = random.Random(seed)
    out = Scene(seed, shore(rng))
    for _ in range(count):
        thing = placed(rng, out, SCALE)
        if thing is not None and all((thing.name, thing.color) != (t.name, t.color) for t in out.things):
            out.things.append(thing)
    return out if out.things else _filled(seed + 50_000_000, count)


def scene(seed: int) -> Scene:
    """The scene of a seed: one to three things."""
    return _filled(seed, random.Random(seed ^ 0xF00D).choices(list(COUNTS), list(COUNTS.values()))[0])


def pair(seed: int) -> Pair:
    """The pair of a seed: up to three things, of which mostly one does not stay."""
    rng = random.Random(seed ^ 0xC0DE)
    kind = rng.choices(KINDS, SHARES)[0]
    if kind == "same":
        one = scene(seed)
        return Pair(one, one, kind, None)
    full = _filled(seed, 1 + rng.choices(list(STAYS), list(STAYS.values()))[0])
    thing = rng.choice(full.things)
    less = replace(full, things=[t for t in full.things if t is not thing])
    return Pair(less, full, kind, thing) if kind == "new" else Pair(full, less, kind, thing)


def mask(thing: Thing) -> np.ndarray:
    """(SIDE, SIDE) booleans: the pixels that the thing is drawn on, where nothing covers it."""
    canvas = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(canvas)
    if thing.name == "tank":
        draw.ellipse(thing.box, fill=1)
    else:
        for points, _ in PARTS[thing.name]:
            draw.polygon(to_pixels(points, thing.center, thing.length, thing.width, thing.angle), fill=1)
    return np.asarray(canvas) > 0
