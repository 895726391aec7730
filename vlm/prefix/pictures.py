"""Each picture is prepared once: content keys, and a memo that stands before an image processor for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images

from vlm.common.processes import processes
from vlm.pictures.digests import digest
from vlm.pictures.processing import present


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
    number `order[i]` of them. `image_grid_thw` has a row for every picture.
    """

    def __init__(self, processor, contents: Contents):
        self.processor, self.contents = processor, contents
        self.order: list[int] = []
        self._done: dict[Hashable, BatchFeature] = {}

    def __getattr__(self, name: str):
        return getattr(self.processor, name)

    def fetch_images(self, images):
        """As the processor's; rows without pictures, which it refuses, are left out."""
        return self.processor.fetch_images(present(images))

    def __call__(self, images, return_tensors=None, **options) -> BatchFeature:
        numbers: dict[Hashable, int] = {}
        self.order, found = [], []
        for picture in make_flat_list_of_images(present(images)):
            key = (self.contents.key(picture), repr(options))
            if key not in self._done:
                self._done[key] = self.processor([picture], return_tensors="pt", **options)
            self.order.append(numbers.setdefault(key, len(numbers)))
            found.append(self._done[key])
        data = {
            "pixel_values": torch.cat([self._done[key]["pixel_values"] for key in numbers]),
            "image_grid_thw": torch.cat([done["image_grid_thw"] for done in found]),
        }
        if return_tensors != "pt":
            data = {name: value.numpy() for name, value in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)


@contextmanager
def remembering(processor, contents: Contents) -> Iterator[ImageMemo]:
    """Within, `processor` (a multimodal one) prepares each picture once."""
    memo = ImageMemo(processor.image_processor, contents)
    processor.image_processor = memo
    try:
        yield memo
    finally:
        processor.image_processor = memo.processor


def blank_picture(config) -> dict[str, torch.Tensor]:
    """`pixel_values` (patches, dim) and `image_grid_thw` (1, 3) of a black picture of one visual token.

    For the forward pass without pictures of one process among several: the vision tower has to run in each. ZeRO-3
    gathers its weights from all processes at once, and DDP waits for all of its gradients. config: the whole model's.
    """
    vision = config.vision_config
    merge, patch = vision.spatial_merge_size, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {"pixel_values": torch.zeros(merge**2, patch), "image_grid_thw": torch.tensor([[1, merge, merge]])}


def shown_in_all(batch: Mapping[str, Any], config, before: bool = False) -> dict[str, Any]:
    """A padded batch; one of text alone, among several processes, with `blank_picture` at an end of its first row,
    which nothing attends to and no label follows. Loss and gradients are those without it; the vision tower's are 0.

    batch: `input_ids`, `attention_mask` and, where there are any, `mm_token_type_ids` and `labels` (B, L).
    before: at the beginning, where places are counted from the end.
    """
    if processes() == 1 or "pixel_values" in batch:
        return dict(batch)
    first = {"input_ids": config.image_token_id, "attention_mask": 0, "mm_token_type_ids": 1, "labels": -100}
    longer = {}
    for name in first.keys() & batch.keys():
        column = torch.full_like(batch[name][:, :1], -100 if name == "labels" else 0)
        column[0] = first[name]
        longer[name] = torch.cat([column, batch[name]] if before else [batch[name], column], 1)
    device = batch["input_ids"].device
    return {**batch, **longer, **{name: value.to(device) for name, value in blank_picture(config).items()}}
