"""Scenes of the detection demo: the demo world's things, smaller and more of them, and some pictures with none.

`scene(seed)` is a pure function of its seed, and `demo.world.render` draws it. Things stand upright or on their side,
so that the box that bounds what is drawn is the thing's own rectangle.

Frame: pixels of the 224 × 224 image, x to the right, y down.
"""

from __future__ import annotations

import math
import random

from demo.world.scene import TURNS, Scene, placed, shore

SCALE = 0.8
"""Of the demo world's sizes: six things of full size seldom find room."""
COUNTS = {0: 0.08, 1: 0.1, 2: 0.14, 3: 0.2, 4: 0.2, 5: 0.16, 6: 0.12}
"""Share of scenes with so many things; where the last finds no room there is one less."""
UPRIGHT = tuple(turn for turn in TURNS if turn in (0.0, math.pi / 2))


def scene(seed: int) -> Scene:
    """The scene of a seed."""
    rng = random.Random(seed)
    out = Scene(seed, shore(rng))
    for _ in range(rng.choices(list(COUNTS), list(COUNTS.values()))[0]):
        if (thing := placed(rng, out, SCALE, UPRIGHT)) is not None:
            out.things.append(thing)
    return out
