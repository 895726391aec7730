"""The size at which a picture reaches the model, and drawing it for each training row.

Notations whose frame is "resized" (Qwen2.5-VL, RSCoVLM) count pixels of the picture as the model sees it, so rows carry
that size in a column `resized`. With `images.random_resize` in the recipe the size of a training row is drawn, and the
boxes follow: truth stays in pixels of the original image, and what the model writes is converted by the size it saw.

Where the pictures of a row share a budget (`images.row_pixels`, `vlm.pictures.budget`), how large one is seen depends
on how many there are: each function here takes the sight of the row, `sight.among(pictures)`.

The draw. RSCoVLM (VisionXLab/RSCoVLM, `random_resize` in rscovlm/training/data/refgeo_dataset.py) enlarges or reduces
training images to anything between two pixel counts. Here the *side* √(w·h) is uniform between their roots, whatever
the image; the published code draws a ratio of areas uniformly and multiplies sides by it, so most of its draws end at
the limits. The aspect ratio stays, up to the sizes that the model takes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from ctypes import c_longlong
from functools import lru_cache
from multiprocessing.sharedctypes import RawValue
from typing import Any

from PIL.Image import Image, Resampling

from vlm.common.errors import RecipeError
from vlm.families import Sight
from vlm.pictures import images as pictures
from vlm.pictures.cache import decoded
from vlm.sections import ResizeSection
from vlm.shapes import sight_of


def seen(size: Sequence[int] | None, sight: Sight | None) -> tuple[int, int] | None:
    """(width, height) at which a picture of ``size`` reaches the model; None where one is not known, or where the model
    sees no scaled picture.

    Raises ValueError for a strip that the model does not take.
    """
    if size is None or sight is None:
        return None
    return sight.seen((int(size[0]), int(size[1])))


def shown(image: str | bytes, sight: Sight) -> Image:
    """The picture for a processor with these limits: as it is, a large one at the size that the model sees, or a few
    times larger; one that shares a budget at the size that it is seen at.

    Raises: DataError, RecipeError as `vlm.pictures.images.load`; ValueError as `seen`.
    """
    found = pictures.load(image, _target(pictures.size(image), sight))
    return fitted(found, sight) if sight.fits else found


def resized(image: str | bytes, sight: Sight) -> Image:
    """The picture for a processor that is not ours: `fitted`. Raises: as `shown`."""
    return fitted(shown(image, sight), sight)


def fitted(picture: Image, sight: Sight) -> Image:
    """The picture at the size that the model sees, by our processor's resampling, so that a processor with wider limits
    has nothing left to resize; as it is where the model sees no scaled one."""
    wanted = sight.seen(picture.size)
    return picture if wanted in (None, picture.size) else picture.resize(wanted, Resampling.BICUBIC)


def _target(size: tuple[int, int], sight: Sight) -> tuple[int, int] | None:
    """A size at which a picture of this size can be given to the processor, which then makes the same of it.

    The size that the model sees is such a one, unless rounding to multiples left too few pixels, or of a thin strip
    other proportions: the processor would round once more. None where no size is found, as of some strips under limits
    with equal ends: those are decoded whole.
    """
    wanted = sight.seen(size)
    at: tuple[int, int] | None
    for at in (wanted, *(pictures.limited(size, times * sight.most) for times in (4, 16))):
        try:
            if at is not None and sight.seen(at) == wanted:
                return at
        except ValueError:  # too thin
            continue
    return None


@lru_cache(maxsize=2**16)
def _of_file(path: str) -> tuple[int, int]:
    return pictures.size(path)


def header_size(image: str | bytes) -> tuple[int, int]:
    """`vlm.pictures.images.size`, looked up once for a file."""
    return _of_file(image) if isinstance(image, str) else pictures.size(image)


class Resizing:
    """The sizes of a table's pictures. With `images.random_resize`, one size for each row and pass over the data.

    What is drawn depends on the seed, the pass and the row, and on nothing else: TRL reads the row of a GRPO group once
    for each completion, perhaps in several processes, and all of them must see one picture. The pictures of a row share
    the draw, so that those of one size, as two dates of a place, still lie on each other, pixel on pixel.
    `passed` is the number of passes done, told by `stage.trainer.callbacks.PassCallback`, also to the workers of a data
    loader that live through several.
    """

    def __init__(self, sight: Sight, drawing: ResizeSection | None = None, seed: int = 0):
        self.sight, self.drawing, self.seed = sight, drawing, seed
        self._passed = RawValue(c_longlong, 0)  # in memory that processes share

    @property
    def passed(self) -> int:
        return self._passed.value

    @passed.setter
    def passed(self, passes: int) -> None:
        self._passed.value = passes

    def drawn(self, size: tuple[int, int], row: int, *, among: int) -> tuple[int, int]:
        """(width, height) that the picture is resized to before the processor gets it; its own where none is drawn and
        it shares no budget. among: how many pictures the row has."""
        sight = self.sight.among(among)
        if self.drawing is None:
            return sight.seen(size) or size if sight.fits else size
        low, high = math.sqrt(self.drawing.min_pixels), math.sqrt(self.drawing.max_pixels)
        key = f"{self.seed} {self.passed} {row}".encode()
        # A hash, not a generator: the same on every platform, and a few microseconds.
        share = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
        pixels = (low + share * (high - low)) ** 2
        return sight.drawn(size, pixels, self.drawing.min_pixels, self.drawing.max_pixels)

    def picture(self, image: str | bytes, row: int, *, among: int) -> Image:
        """The picture as the processor gets it, at the size that is drawn; the same object for each completion of a
        group. A large one is never decoded whole: without a draw it has the size that the model sees. among: how many
        pictures the row has.

        Raises: DataError, RecipeError as `vlm.pictures.images.load`; ValueError as `seen`.
        """
        size = header_size(image)
        drawn, sight = self.drawn(size, row, among=among), self.sight.among(among)
        at = drawn if self.drawing or sight.fits else _target(size, sight)
        if at is not None and pictures.reduced(size, at):
            return decoded.get((image, at), lambda: pictures.load(image, at))
        whole = decoded.get(image, lambda: pictures.load(image))
        if whole.size == drawn:
            return whole
        return decoded.get((image, drawn), lambda: whole.resize(drawn, Resampling.BICUBIC))

    def seen(self, size: tuple[int, int], *, among: int) -> tuple[int, int]:
        """(width, height) at which a picture of ``size``, its own or that it is handed at, reaches the model."""
        return seen(size, self.sight.among(among))


def by_role(recipe: Any) -> dict[str, Resizing]:
    """The sizes of a training recipe's tables: of held-out pictures none is drawn.

    Raises: RecipeError where sizes are drawn for a model that sees none.
    """
    sight = sight_of(recipe)
    if recipe.images.random_resize is not None and not sight.free:
        raise RecipeError(f"images.random_resize: {sight.text()}; leave it out")
    return {"train": Resizing(sight, recipe.images.random_resize, recipe.seed), "eval": Resizing(sight)}
