"""Each picture is prepared once: content keys, and a memo that stands before an image processor for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images

from vlm.pictures.digests import digest
from vlm.pictures.processing import present
from vlm.prefix import media


class Contents:
    """Hashable keys of prompts and pictures: equal contents give equal keys, whatever the objects.

    A picture object is digested once in the lifetime of this one (milliseconds for 1024² pixels), then known by id.
    """

    def __init__(self):
        self._known: dict[int, tuple[Any, Hashable]] = {}  # the object is held, so that its id stays its own

    def key(self, value: Any) -> Hashable:
        """Key of nested dicts, lists, text, numbers, pictures and arrays; other objects count by identity."""
        if isinstance(value, dict):
            return ("dict", *((name, self.key(value[name])) for name in sorted(value)))
        if isinstance(value, list | tuple):
            return ("list", *map(self.key, value))
        if value is None or isinstance(value, str | bytes | int | float):
            return (type(value).__name__, value)
        if id(value) not in self._known:
            self._known[id(value)] = value, self._digest(value)
        return self._known[id(value)][1]

    @staticmethod
    def _digest(value: Any) -> Hashable:
        if isinstance(value, Image):
            return digest(value)
        if isinstance(value, np.ndarray | torch.Tensor):
            array = np.ascontiguousarray(value.cpu() if isinstance(value, torch.Tensor) else value)
            return (str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).digest())
        return ("object", id(value))


class ImageMemo:
    """An image processor that prepares each picture once, however often and in however many calls it is given.

    What it returns is the processor's own output, but `pixel_values` without repetitions: picture i of the last call is
    number `order[i]` of them, the units `units[order[i]]` (`vlm.prefix.media`). Any other field has an entry for every
    picture.
    """

    def __init__(self, processor, contents: Contents):
        self.processor, self.contents = processor, contents
        self.order: list[int] = []
        self.units: list[list[int]] = []
        self._done: dict[Hashable, BatchFeature] = {}

    def __getattr__(self, name: str):
        return getattr(self.processor, name)

    def fetch_images(self, images):
        """As the processor's; rows without pictures, which it refuses, are left out."""
        return self.processor.fetch_images(present(images))

    def __call__(self, images, return_tensors=None, **options) -> BatchFeature:
        if options.get("crop_to_patches") and not hasattr(self.processor, "crop_to_patches"):
            # TRL asks for tiles wherever pixels have four axes and there are not as many as pictures
            return BatchFeature({"num_patches": torch.ones(len(self.order), dtype=torch.long)})
        numbers: dict[Hashable, int] = {}
        self.order, found = [], []
        # what a processor has by itself may be left out of a call, or not
        told = {name: value for name, value in options.items() if getattr(self.processor, name, None) != value}
        for picture in make_flat_list_of_images(present(images)):
            key = (self.contents.key(picture), repr(told))
            if key not in self._done:
                self._done[key] = self.processor([picture], return_tensors="pt", **options)
            self.order.append(numbers.setdefault(key, len(numbers)))
            found.append(self._done[key])
        distinct = [self._done[key] for key in numbers]
        ends = list(accumulate(len(media.rows(done)) for done in distinct))
        self.units = [list(range(end - len(media.rows(done)), end)) for done, end in zip(distinct, ends, strict=True)]
        data = {name: torch.cat([one[name] for one in found]) for name in found[0] if name != media.PIXELS}
        data[media.PIXELS] = torch.cat([done[media.PIXELS] for done in distinct])
        if return_tensors != "pt":
            data = {name: value.numpy() for name, value in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)


@contextmanager
def without_absent(processor) -> Iterator[None]:
    """Within, the image processor of `processor` leaves out rows without pictures, on which TRL calls it directly."""
    inner = getattr(processor, "image_processor", None)
    if inner is None:
        yield
        return
    fetch = inner.fetch_images
    inner.fetch_images = lambda images: fetch(present(images))
    try:
        yield
    finally:
        del inner.fetch_images


@contextmanager
def remembering(processor, contents: Contents) -> Iterator[ImageMemo]:
    """Within, `processor` (a multimodal one) prepares each picture once."""
    memo, replacement = ImageMemo(processor.image_processor, contents), processor.replace_image_token

    def of_the_picture(fields, image_idx, **named):
        """A processor that counts a picture's tokens by its pixels looks for them by its number."""
        return replacement({**fields, media.PIXELS: Shown(fields[media.PIXELS], memo)}, image_idx=image_idx, **named)

    processor.image_processor, processor.replace_image_token = memo, of_the_picture
    try:
        yield memo
    finally:
        processor.image_processor = memo.processor
        del processor.replace_image_token


class Shown:
    """`pixel_values` as if they had repetitions: the first unit of the picture of a number."""

    def __init__(self, pixels, memo: ImageMemo):
        self.pixels, self.memo = pixels, memo

    def __getitem__(self, number: int):
        return self.pixels[self.memo.units[self.memo.order[number]][0]]
