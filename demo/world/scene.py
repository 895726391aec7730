"""Procedural aerial scenes: things of six classes and six colours on land or water, lit by a slanting glow.

`scene(seed)` is a pure function of its seed: same seed, same things, same pixels (`demo.world.render`). Splits take
disjoint seed ranges, so that no scene is ever in two of them, and a range never runs out: nothing can be memorised.

Frame: pixels of the 224 × 224 image, x to the right, y down, boxes x1, y1, x2, y2.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from demo.world.shapes import CLASSES, COLORS, SIZES, bounds

SIDE = 224

MARGIN = 5

TURNS = (0.0, math.pi / 2, math.pi / 4, -math.pi / 4)
"""Angles of things, in radians."""

SPLIT_SEEDS = {"sft": 100_000_000, "grpo": 200_000_000, "test": 300_000_000, "pretrain": 1_000_000_000}
"""First scene seed of each split; a run's own seed shifts it by 100,000 (test is the same for every run)."""


@dataclass(slots=True, frozen=True)
class Thing:
    """One object. `box` bounds what is drawn, in pixels: x1, y1, x2, y2."""

    name: str
    color: str
    center: tuple[float, float]
    length: float
    width: float
    angle: float
    box: tuple[float, float, float, float]


@dataclass(slots=True)
class Scene:
    """A scene: `shore` is (nx, ny, d): a pixel with nx·x + ny·y > d is water; None is all land."""

    seed: int
    shore: tuple[float, float, float] | None
    things: list[Thing] = field(default_factory=list)

    def is_water(self, x: float, y: float) -> bool:
        return self.shore is not None and self.shore[0] * x + self.shore[1] * y > self.shore[2]


def _clear(box: tuple[float, float, float, float], things: list[Thing]) -> bool:
    x1, y1, x2, y2 = box
    if x1 < 2 or y1 < 2 or x2 > SIDE - 2 or y2 > SIDE - 2:
        return False
    return all(
        x2 + MARGIN < t.box[0] or t.box[2] + MARGIN < x1 or y2 + MARGIN < t.box[1] or t.box[3] + MARGIN < y1
        for t in things
    )


def shore(rng: random.Random) -> tuple[float, float, float] | None:
    kind = rng.random()
    if kind < 0.35:
        return None
    if kind < 0.5:
        return (1.0, 0.0, -1.0)  # all water
    turn = rng.random() * 2 * math.pi
    nx, ny = math.cos(turn), math.sin(turn)
    return (nx, ny, nx * SIDE / 2 + ny * SIDE / 2 + rng.uniform(-30, 30))


def placed(rng: random.Random, scene: Scene, scale: float = 1.0, turns: tuple[float, ...] = TURNS) -> Thing | None:
    """One placed thing, or None after enough tries (a full scene).

    scale: of its size; turns: the angles that it may have, in radians.
    """
    palette = list(CLASSES)
    for _ in range(60):
        # a third of the things repeat the class of one already there, so that counts above one are common
        name = rng.choice(scene.things).name if scene.things and rng.random() < 0.33 else rng.choice(palette)
        (low, high), ratio = SIZES[name]
        length = rng.uniform(low, high) * scale
        width = length * ratio
        angle = 0.0 if name == "tank" else rng.choice(turns)
        center = (rng.uniform(20, SIDE - 20), rng.uniform(20, SIDE - 20))
        wet = scene.is_water(*center)
        if (name == "ship") != wet and name != "plane":  # planes fly over both
            continue
        box = bounds(name, center, length, width, angle)
        if _clear(box, scene.things):
            return Thing(name, rng.choice(COLORS), center, length, width, angle, box)
    return None


def scene(seed: int) -> Scene:
    """The scene of a seed: one to four things that do not touch, each wholly inside the image."""
    rng = random.Random(seed)
    out = Scene(seed, shore(rng))
    for _ in range(rng.choices((1, 2, 3, 4), (5, 3, 2, 1))[0]):
        thing = placed(rng, out)
        if thing is not None:
            out.things.append(thing)
    return out if out.things else scene(seed + 50_000_000)


PLACES = tuple(f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "center", "right"))
"""The cells of a 3 × 3 grid over the image, in reading order."""


def place(thing: Thing) -> str:
    """Where a thing stands, in words: the cell of a 3 × 3 grid that holds the centre of its box."""
    x = (thing.box[0] + thing.box[2]) / 2 / SIDE
    y = (thing.box[1] + thing.box[3]) / 2 / SIDE
    row = 0 if y < 1 / 3 else 2 if y > 2 / 3 else 1
    column = 0 if x < 1 / 3 else 2 if x > 2 / 3 else 1
    return PLACES[3 * row + column]
