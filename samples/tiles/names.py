"""A tile's name says where it comes from: `P0706__1__412___824` is the tile of the scene P0706 at the scale 1 whose
left upper corner is at x = 412, y = 824, in pixels of the scaled scene (the DOTA devkit's convention:
CAPTAIN-WHU/DOTA_devkit, ImgSplit.py at fb92a7f, ResultMerge.py at 5288789).

mmrotate writes the size of the window where the devkit writes the scale, and counts in pixels of the scene itself
(`P0706__1024__824___0`; tools/data/dota/split/img_split.py at 96de045). No scene is enlarged MOST_RATE times, so a
larger number is such a size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST_RATE = 16
_NAME = re.compile(r"(.+)__(\d+(?:\.\d+)?)__(\d+)___(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tile:
    """Where a tile lies."""

    scene: str
    "The scene's name."
    rate: float
    "Pixels of the tile for one of the scene."
    x: int
    "Left edge, in pixels of the scaled scene."
    y: int
    "Upper edge."

    @property
    def name(self) -> str:
        return f"{self.scene}__{rate_text(self.rate)}__{self.x}___{self.y}"

    def out(self, points: Sequence[float]) -> list[float]:
        """x1, y1, … in pixels of the tile, in those of the scene."""
        return [(value + (self.y if n % 2 else self.x)) / self.rate for n, value in enumerate(points)]

    def into(self, points: Sequence[float]) -> list[float]:
        """The inverse of `out`."""
        return [value * self.rate - (self.y if n % 2 else self.x) for n, value in enumerate(points)]

    def area(self, size: Sequence[float]) -> list[float]:
        """x1, y1, x2, y2 in the scene of a tile of (width, height)."""
        return self.out([0, 0, *size])


def rate_text(rate: float) -> str:
    """How a name writes a scale."""
    return f"{rate:g}"


def parse(name: str) -> Tile | None:
    """The tile of this name; None for a name that is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    rate = float(found[2])
    if rate == 0:
        return None
    return Tile(found[1], rate if rate < MOST_RATE else 1.0, int(found[3]), int(found[4]))
