"""A budget of pixels that the pictures of a row share: the recipe's `images.row_pixels`.

    sight = shared(family.sight(config, 3136, 1048576), 1048576)     # what the model of a recipe sees
    sight.among(4).seen((2000, 1500))                                # of each of four pictures: at most 262,144 pixels

Each of n pictures gets an equal part of it, N / n, within `images.min_pixels` and `images.max_pixels`; a part below the
former is refused. Where the part is less than `max_pixels`, pictures are brought to their size before a processor gets
them (`vlm.pictures.resizing`): it knows one pair of limits for all pictures, and must find nothing left to do, or the
pixels and what is said of them (column `resized`, tokens that are planned) would be of two sizes. So a size is taken
only where the processor would leave it as it is; `vlm.pictures.processing` refuses any other picture.

Frames of a series have one size, so a series has one size, too. TEOChat (ermongroup/TEOChat) and EarthDial
(hiyamdebary/EarthDial) take a fixed number of frames at a fixed size instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL.Image import Image

from vlm.common.errors import DataError, RecipeError, UserError
from vlm.families import Sight
from vlm.families.sight import Size

ROW_PIXELS = "row_pixels"
"""In the recipe's `images:`, and in the image processor's settings that a checkpoint carries."""
KEY = f"images.{ROW_PIXELS}"


class Crowded(DataError, ValueError):
    """A row has more pictures than its budget has room for, or a picture has no size within its part of it."""


def shared(sight: Sight, row_pixels: int | None) -> Sight:
    """What a model sees whose rows have so many pixels for all their pictures; None: each picture has its own.

    Raises: RecipeError for a model that resizes no picture, and for a budget below `min_pixels`.
    """
    if row_pixels is None:
        return sight
    if not sight.free:
        raise RecipeError(f"{KEY}: {sight.text()}; leave it out")
    if row_pixels < sight.least:
        raise RecipeError(
            f"{KEY} = {row_pixels}, images.min_pixels = {sight.least}: no row could have a picture; expected "
            "row_pixels ≥ min_pixels"
        )
    return Shared(sight, row_pixels)


@dataclass(frozen=True)
class Shared:
    """Of a row: how large a picture is depends on how many there are, so sizes and tokens are those of `among`. Who
    asks this itself for them has forgotten the row, which is an error, not a picture too large."""

    plain: Sight
    pixels: int
    fits = False
    free = True

    @property
    def least(self) -> int:
        return self.plain.least

    @property
    def most(self) -> int:
        return min(self.plain.most, self.pixels)

    def among(self, pictures: int) -> Sight:
        part = self.pixels // max(1, pictures)
        if part >= self.plain.most:
            return self.plain
        if part < self.plain.least:
            raise Crowded(
                f"{KEY} = {self.pixels} leaves each of {pictures} pictures {part} pixels, and images.min_pixels is "
                f"{self.plain.least}: show at most {self.pixels // self.plain.least} pictures a row (of a series: "
                "`frames` of the source), raise row_pixels, or lower min_pixels"
            )
        return Part(self.plain, part)

    def near(self, size: Size) -> Sequence[Size]:
        return self.plain.near(size)

    def within(self, least: int, most: int) -> Sight:
        return Shared(self.plain.within(least, most), self.pixels)

    def seen(self, size: Size) -> Size | None:
        raise self._unasked

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        raise self._unasked

    def tokens(self, size: Size) -> int:
        raise self._unasked

    @property
    def _unasked(self) -> TypeError:
        return TypeError(f"under {KEY} a picture's size is that of sight.among(pictures of its row)")

    def tokens_of(self, handed: Size) -> int:
        return self.plain.tokens_of(handed)

    def bounds(self) -> tuple[int, int]:
        return self.plain.within(self.least, self.most).bounds()

    def text(self) -> str:
        return f"{self.plain.text()}, {self.pixels} pixels for all images of a row together"


@dataclass(frozen=True)
class Part:
    """Of a picture that has `most` pixels, its part of the row's. plain: the processor's own limits, wider ones."""

    plain: Sight
    most: int
    fits = True
    free = True

    @property
    def least(self) -> int:
        return self.plain.least

    def among(self, pictures: int) -> Part:
        return self

    def near(self, size: Size) -> Sequence[Size]:
        return self.plain.near(size)

    def within(self, least: int, most: int) -> Sight:
        return self.plain.within(min(least, self.most), min(most, self.most))

    def seen(self, size: Size) -> Size:
        """Raises: ValueError as of the plain one; Crowded where no size is."""
        return _within(self.plain, self.most, size)

    def drawn(self, size: Size, pixels: float, least: int, most: int) -> Size:
        """Within the part, too: draws beyond it end at it."""
        low, high = min(least, self.most), min(most, self.most)
        return self.seen(self.plain.drawn(size, min(pixels, self.most), low, high))

    def tokens(self, size: Size) -> int:
        return self.plain.tokens_of(self.seen(size))

    def tokens_of(self, handed: Size) -> int:
        return self.plain.tokens_of(handed)

    def bounds(self) -> tuple[int, int]:
        return self.plain.within(self.least, self.most).bounds()

    def text(self) -> str:
        return f"{self.plain.text()}, {self.most} pixels for this one"


@lru_cache(maxsize=2**12)
def _within(plain: Sight, most: int, size: Size) -> Size:
    """The size that the plain limits give with `most` for their upper one, or one next to it where that would not stay:
    rounding down may have left too few pixels, which the processor would enlarge, or, of a strip, too many."""
    wanted = plain.within(plain.least, most).seen(size)
    assert wanted is not None
    for found in (wanted, *_nearest(plain.near(wanted), size)):
        if found[0] * found[1] <= most and _stays(plain, found):
            return found
    raise Crowded(
        f"{KEY}: a picture of {size[0]}×{size[1]} has {most} pixels for its part and would be {wanted[0]}×{wanted[1]}, "
        f"{wanted[0] * wanted[1]}: no size that the model takes lies between images.min_pixels = {plain.least} and "
        f"{most}; lower min_pixels, raise row_pixels, or show fewer pictures a row"
    )


def _stays(plain: Sight, size: Size) -> bool:
    try:
        return plain.seen(size) == size
    except ValueError:  # too thin
        return False


def _nearest(sizes: Sequence[Size], size: Size) -> list[Size]:
    """By proportions nearest to those of `size`; of two alike the larger."""

    def apart(one: Size) -> tuple[float, int]:
        ratio = one[0] * size[1] / (one[1] * size[0])
        return max(ratio, 1 / ratio), -one[0] * one[1]

    return sorted(sizes, key=apart)


def check_rows(rows: Sequence[Sequence[Image] | None], sight: Sight) -> None:
    """Refuse pictures that were not brought to the size that their row leaves them: a processor would resize each to
    its own limits, and nothing would say so.

    rows: as processors take them. Raises: UserError.
    """
    for row in rows:
        if row is not None and not isinstance(row, list | tuple):
            raise UserError(f"{KEY}: found pictures, expected rows of pictures: [[first, second], [third], []]")
        pictures = row or ()
        part = sight.among(len(pictures))
        for place, picture in enumerate(pictures if part.fits else (), 1):
            if picture.size != (wanted := part.seen(picture.size)):
                raise UserError(
                    f"{KEY}: picture {place} of a row of {len(pictures)} comes with {picture.size}, expected {wanted}: "
                    "bring it to that first, by vlm.pictures.resizing.fitted(picture, processor.sight.among(pictures))"
                )
