"""Procedural yards, seen from above: four by four blocks between roads, coloured pads, and a small truck on each pad.

A pad is large and tells *where* to look; the mark on its truck's roof is what is asked, and is three pixels wide once
the whole yard has shrunk to what the model sees. `scene(seed)` is a pure function of its seed; splits take disjoint
seed ranges, so that no yard is in two of them.

Frame: pixels of the 1,792 × 1,792 picture, x to the right, y down, boxes x1, y1, x2, y2.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from demo.world.shapes import COLORS

SIDE = 1792
BLOCKS = 4
BLOCK = SIDE // BLOCKS
ROAD = 24
"""Half the width of a road, which runs along each edge of a block."""
PAD = (150, 200)
"""Side of a pad."""
TRUCK = (42, 50)
"""Side of a truck's square roof."""
KERB = 14
"""How far a truck stays from the edge of its pad."""
MARKS = ("cross", "ring", "bar", "pole", "ex", "wedge", "disc", "dots")
"""What a roof shows: +, ○, —, |, ×, a triangle, a small disc, four dots; each of the same area of white."""
PADS = (3, 6)

SPLIT_SEEDS = {"sft": 100_000_000, "grpo": 200_000_000, "test": 300_000_000, "pretrain": 1_000_000_000}
"""First scene seed of each split; a run's own seed shifts it by 100,000 (test is the same for every run)."""

Box = tuple[float, float, float, float]


@dataclass(slots=True, frozen=True)
class Pad:
    """A square pad of one colour, with a truck on it. `box` is the pad's, `truck` its truck's roof."""

    color: str
    box: Box
    truck: Box
    mark: str

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(slots=True)
class Scene:
    """A yard. `bushes` are (x, y, radius): they mean nothing."""

    seed: int
    pads: list[Pad] = field(default_factory=list)
    bushes: list[tuple[int, int, int]] = field(default_factory=list)


def _pad(rng: random.Random, block: int, color: str) -> Pad:
    """A pad somewhere in its block, with a truck somewhere on it."""
    side = rng.randint(*PAD)
    free = BLOCK - 2 * ROAD - side
    x = block % BLOCKS * BLOCK + ROAD + rng.randint(0, free)
    y = block // BLOCKS * BLOCK + ROAD + rng.randint(0, free)
    roof = rng.randint(*TRUCK)
    room = side - 2 * KERB - roof
    u, v = x + KERB + rng.randint(0, room), y + KERB + rng.randint(0, room)
    return Pad(color, (x, y, x + side, y + side), (u, v, u + roof, v + roof), rng.choice(MARKS))


def scene(seed: int) -> Scene:
    """The yard of a seed: three to six pads, each of a colour of its own, in as many blocks."""
    rng = random.Random(seed)
    count = rng.randint(*PADS)
    blocks = rng.sample(range(BLOCKS * BLOCKS), count)
    pads = [_pad(rng, block, color) for block, color in zip(blocks, rng.sample(COLORS, count), strict=True)]
    empty = [block for block in range(BLOCKS * BLOCKS) if block not in blocks]
    bushes = []
    for block in rng.sample(empty, 6):
        x, y = block % BLOCKS * BLOCK, block // BLOCKS * BLOCK
        bushes += [
            (x + rng.randint(70, BLOCK - 70), y + rng.randint(70, BLOCK - 70), rng.randint(12, 36))
            for _ in range(rng.randint(2, 7))
        ]
    return Scene(seed, pads, bushes)
