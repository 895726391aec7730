"""Procedural yards, seen from above: four by four blocks between roads, coloured pads, and small trucks on each pad.

A pad is large and tells *where* to look; the mark on the roofs of its trucks, the same on all of one pad, is what is
asked, and is two pixels wide once the whole yard has shrunk to what the model sees. `scene(seed)` is a pure function of its seed; splits take disjoint seed
ranges, so that no yard is in two of them.

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
PAD = (230, 290)
"""Side of a pad."""
TRUCK = (32, 40)
"""Side of a truck's square roof."""
KERB = 14
"""How far a truck stays from the edge of its pad."""
FLEET = (5, 9)
"""Trucks on a pad, in nine slots: with a single one the tiny base learned its mark too slowly (LOG.md)."""
MARKS = ("cross", "ring", "bar", "pole", "ex", "wedge", "disc", "dots")
"""What a roof shows: +, ○, —, |, ×, a triangle, a small disc, four dots; each of the same area of white."""
PADS = (3, 6)

SPLIT_SEEDS = {"sft": 100_000_000, "grpo": 200_000_000, "test": 300_000_000, "pretrain": 1_000_000_000}
"""First scene seed of each split; a run's own seed shifts it by 100,000 (test is the same for every run)."""

Box = tuple[float, float, float, float]


@dataclass(slots=True, frozen=True)
class Pad:
    """A square pad of one colour, with trucks on it that all have one mark. `box` is the pad's, `trucks` their roofs'."""

    color: str
    box: Box
    trucks: tuple[Box, ...]
    mark: str

    @property
    def center(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def fleet(self) -> Box:
        """The box around all trucks."""
        x1, y1, x2, y2 = zip(*self.trucks, strict=True)
        return min(x1), min(y1), max(x2), max(y2)


@dataclass(slots=True)
class Scene:
    """A yard. `bushes` are (x, y, radius): they mean nothing."""

    seed: int
    pads: list[Pad] = field(default_factory=list)
    bushes: list[tuple[int, int, int]] = field(default_factory=list)


def _pad(rng: random.Random, block: int, color: str) -> Pad:
    """A pad somewhere in its block, with trucks in some of nine slots."""
    side = rng.randint(*PAD)
    free = BLOCK - 2 * ROAD - side
    x = block % BLOCKS * BLOCK + ROAD + rng.randint(0, free)
    y = block // BLOCKS * BLOCK + ROAD + rng.randint(0, free)
    slot = (side - 2 * KERB) // 3
    trucks = []
    for place in rng.sample(range(9), rng.randint(*FLEET)):
        roof = rng.randint(*TRUCK)
        u = x + KERB + place % 3 * slot + rng.randint(0, slot - roof - 4)
        v = y + KERB + place // 3 * slot + rng.randint(0, slot - roof - 4)
        trucks.append((u, v, u + roof, v + roof))
    return Pad(color, (x, y, x + side, y + side), tuple(trucks), rng.choice(MARKS))


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
