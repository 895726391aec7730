"""What a Qwen2-VL sees under the limits of an `images:` section, for tests without a checkpoint."""

from __future__ import annotations

from vlm.families import Sight
from vlm.families.sight import Grid
from vlm.pictures.budget import shared
from vlm.pictures.resizing import Resizing


def sight(images) -> Sight:
    return shared(Grid(28, images.min_pixels, images.max_pixels), images.row_pixels)


def resizing(images, seed: int = 0, train: bool = False) -> Resizing:
    return Resizing(sight(images), images.random_resize if train else None, seed)
