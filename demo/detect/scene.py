"""Scenes of the detection demo: the demo world's things, smaller and more of them, and some pictures with none.

`scene(seed)` is a pure function of its seed, and `demo.world.render` draws it. Things stand upright or on their side,
so that the box that bounds what is drawn is the thing's own rectangle. Every class has a paint of its own: by shape
alone a model this small did not learn which of several things a class means (LOG.md).

Frame: pixels of the 224 × 224 image, x to the right, y down.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from demo.world.scene import TURNS, Scene, placed, shore

SCALE = 0.8
"""Of the demo world's sizes: six things of full size seldom find room."""
COUNTS = {0: 0.08, 1: 0.08, 2: 0.12, 3: 0.2, 4: 0.2, 5: 0.16, 6: 0.16}
"""Share of scenes that are to have so many things; one that finds no room, or has too many of its kind, is left out."""
MOST = 2
"""Things of one class: which of many is meant is said by nothing but their order."""
UPRIGHT = tuple(turn for turn in TURNS if turn in (0.0, math.pi / 2))
PAINT = {"court": "green", "house": "black", "plane": "white", "ship": "yellow", "tank": "purple", "truck": "red"}


def scene(seed: int) -> Scene:
    """The scene of a seed."""
    rng = random.Random(seed)
    out = Scene(seed, shore(rng))
    for _ in range(rng.choices(list(COUNTS), list(COUNTS.values()))[0]):
        thing = placed(rng, out, SCALE, UPRIGHT)
        if thing is not None and sum(thing.name == other.name for other in out.things) < MOST:
            out.things.append(replace(thing, color=PAINT[thing.name]))
    return out
