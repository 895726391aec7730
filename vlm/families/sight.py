"""What a model sees of a picture: the size it is resized to, and the visual tokens that it becomes; no torch.

A size is (width, height) in pixels. Limits are the fewest and most pixels of a picture, a recipe's `images:`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

from vlm.common.errors import RecipeError

Size = tuple[int, int]

IMPOSSIBLE = "images: min_pixels {} and max_pixels {}; expected 0 < min_pixels <= max_pixels"
STRIP = 200
"""The greatest ratio of sides that `smart_resize` takes."""


class Sight(Protocol):
    """How one model sees pictures under certain limits."""

    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int:
        """Fewest and most pixels of a picture."""

    @property
    def free(self) -> bool:
        """Whether limits have a say."""

    @property
    def fits(self) -> bool:
        """Whether pictures must be brought to the size at which they are seen before a processor gets them, whose own
        limits are wider (`vlm.pictures.budget`)."""

    @property
    def plain(self) -> Sight:
        """What the processor's own limits say: of a picture that shares with none."""

    def among(self, pictures: int) -> Sight:
        """Of each of so many pictures of a row, where those share a budget (`vlm.pictures.budget`); else of any.
        Raises: Crowded where the budget is too small for so many."""

    def near(self, size: Size) -> Sequence[Size]:
        """Sizes about as large as this one, at which a picture may be seen, too; none where there are no others."""

    def within(self, least: int, most: int) -> Sight:
        """The same model's under other limits. Raises: RecipeError for impossible ones."""

    def seen(self, size: Size) -> Size | None:
        """The size at which a picture reaches the model, to which its pixels are scaled; None where it is not scaled
        (cut, or padded). Raises: ValueError for a picture that the model does not take."""

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        """The size to which a picture is brought that shall have about so many pixels, of those from `least` to
        `most`; its own where it is not scaled."""

    def tokens(self, size: Size) -> int:
        """Visual tokens of a picture. Raises: ValueError as `seen`."""

    def tokens_of(self, handed: Size) -> int:
        """Of one that is of the size at which vLLM gets it (`Family.handed`)."""

    def bounds(self) -> tuple[int, int]:
        """Fewest and most visual tokens of a picture."""

    def text(self) -> str:
        """In words, for a plan."""


class Alone:
    """A picture is seen at one size, whatever else its row shows."""

    fits = False

    @property
    def plain(self) -> Self:
        return self

    def among(self, pictures: int) -> Self:
        return self

    def near(self, size: Size) -> Sequence[Size]:
        return ()


@dataclass(frozen=True)
class Grid(Alone):
    """Pictures of any proportions, cut into squares of `side` pixels, each a visual token (Qwen2-VL, arXiv
    2409.12191). Strips thinner than a square after shrinking may have more tokens than the bounds say."""

    side: int
    least: int
    most: int
    free = True

    def within(self, least: int, most: int) -> Grid:
        return Grid(self.side, least, most)

    def __post_init__(self):
        if not 0 < self.least <= self.most:
            raise RecipeError(IMPOSSIBLE.format(self.least, self.most))
        if self.most < self.side**2:
            raise RecipeError(
                f"images: max_pixels = {self.most} is less than one visual token's {self.side**2} pixels "
                f"({self.side}×{self.side}); it counts the pixels of the whole image, not of a side"
            )

    def seen(self, size: Size) -> Size:
        return smart_resize(size, self.least, self.most, self.side)

    def near(self, size: Size) -> Sequence[Size]:
        """A square more or less on either side."""
        steps = (-self.side, 0, self.side)
        found = [(size[0] + wide, size[1] + high) for wide in steps for high in steps if wide or high]
        return [one for one in found if min(one) >= self.side]

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        scale = math.sqrt(pixels) / math.sqrt(size[0] * size[1])
        return self.within(least, most).seen((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))

    def tokens(self, size: Size) -> int:
        return self.tokens_of(self.seen(size))

    def tokens_of(self, handed: Size) -> int:
        return (handed[0] // self.side) * (handed[1] // self.side)

    def reached(self) -> int:
        """A bound for the pixels of `seen`: beyond `most` where a strip's short side is rounded up to one token
        (a·b = most, b ≤ 200·a), or both sides of a small picture are (a·b = least)."""
        root = math.sqrt(STRIP)
        strip, small = self.side * math.sqrt(STRIP * self.most), self.side * (root + 1 / root) * math.sqrt(self.least)
        return max(self.most, math.ceil(strip), math.ceil(self.least + small + self.side**2))

    def bounds(self) -> tuple[int, int]:
        return max(1, math.ceil(self.least / self.side**2)), max(1, self.most // self.side**2)

    def text(self) -> str:
        return f"{self.side}×{self.side} pixels a visual token, {self.least} to {self.most} pixels an image"


USUAL = Grid(28, 262144, 1048576)
"""Qwen2-VL's under the limits that a recipe has where it says nothing."""


def smart_resize(size: Sequence[int], least: int, most: int, side: int) -> Size:
    """(width, height) that Qwen2-VL resizes an image to: multiples of `side`, area within the limits.

    Source: the arithmetic of Qwen2-VL's image processor, which rounds half to even.
    """
    width, height = size
    if min(size) <= 0 or max(size) / min(size) > STRIP:
        raise ValueError(f"image size {width}×{height}: the model takes aspect ratios up to {STRIP}")
    w, h = round(width / side) * side, round(height / side) * side
    if w * h > most:
        shrink = math.sqrt(width * height / most)
        w = max(side, math.floor(width / shrink / side) * side)
        h = max(side, math.floor(height / shrink / side) * side)
    elif w * h < least:
        grow = math.sqrt(least / (width * height))
        w = math.ceil(width * grow / side) * side
        h = math.ceil(height * grow / side) * side
    return w, h


@dataclass(frozen=True)
class Square(Alone):
    """Every picture as one square of `edge` pixels, padded to it (LLaVA-1.5, arXiv 2310.03744, section 3.2). Limits
    have no say."""

    edge: int
    per_picture: int
    free = False

    def within(self, least: int, most: int) -> Square:
        return self

    @property
    def least(self) -> int:
        return self.edge**2

    @property
    def most(self) -> int:
        return self.edge**2

    def seen(self, size: Size) -> Size | None:
        return (self.edge, self.edge) if size[0] == size[1] else None

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        return size

    def tokens(self, size: Size) -> int:
        return self.per_picture

    tokens_of = tokens

    def bounds(self) -> tuple[int, int]:
        return self.per_picture, self.per_picture

    def text(self) -> str:
        return f"every image is padded to a square of {self.edge}×{self.edge} pixels, {self.per_picture} visual tokens"


@dataclass(frozen=True)
class Tiles(Alone):
    """Pictures scaled to a grid of square tiles whose proportions are nearest to theirs, and where that has more than
    one, the whole picture as a further tile (InternVL 1.5, arXiv 2404.16821, section 3.2). Limits are of the tiles'
    pixels together, without the last one."""

    edge: int
    per_tile: int
    least: int
    most: int
    free = True

    def within(self, least: int, most: int) -> Tiles:
        return Tiles(self.edge, self.per_tile, least, most)

    def __post_init__(self):
        if not 0 < self.least <= self.most:
            raise RecipeError(IMPOSSIBLE.format(self.least, self.most))

    @property
    def limits(self) -> tuple[int, int]:
        """Fewest and most tiles of a grid."""
        most = max(1, self.most // self.edge**2)
        return min(max(1, self.least // self.edge**2), most), most

    def grid(self, size: Size) -> tuple[int, int]:
        """Columns and rows. Of grids that are equally near, the larger one where the picture has more than half its
        pixels. Source: transformers' GotOcr2ImageProcessor."""
        width, height = size
        best, distance = (1, 1), math.inf
        for columns, rows in arrangements(*self.limits):
            found = abs(width / height - columns / rows)
            larger = found == distance and width * height > 0.5 * self.edge**2 * columns * rows
            if found < distance or larger:
                best, distance = (columns, rows), found
        return best

    def seen(self, size: Size) -> Size:
        columns, rows = self.grid(size)
        return columns * self.edge, rows * self.edge

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        """In as many tiles as the pixels suffice for: how large a picture is says little of how many it becomes."""
        return self.within(least, max(least, int(pixels))).seen(size)

    def tiles(self, size: Size) -> int:
        columns, rows = self.grid(size)
        return columns * rows + (columns * rows > 1)

    def tokens(self, size: Size) -> int:
        return self.tiles(size) * self.per_tile

    tokens_of = tokens

    def bounds(self) -> tuple[int, int]:
        least, most = (tiles + (tiles > 1) for tiles in self.limits)
        return least * self.per_tile, most * self.per_tile

    def text(self) -> str:
        low, high = self.limits
        return f"{low} to {high} tiles of {self.edge}×{self.edge} pixels an image, {self.per_tile} visual tokens each"


@lru_cache
def arrangements(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """(columns, rows) of grids with `least` to `most` tiles, small ones first, and of these narrow ones."""
    sides = range(1, most + 1)
    found = [(columns, rows) for columns in sides for rows in sides if least <= columns * rows <= most]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


@dataclass(frozen=True)
class Unknown(Alone):
    """Of a model that has no file here: its own processor does what it does."""

    least: int
    most: int
    free = False

    def within(self, least: int, most: int) -> Unknown:
        return self

    def seen(self, size: Size) -> None:
        return None

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        return size

    def tokens(self, size: Size) -> int:
        return 0

    tokens_of = tokens

    def bounds(self) -> tuple[int, int]:
        return 0, 0

    def text(self) -> str:
        return "the model's own processor decides on sizes and visual tokens"
