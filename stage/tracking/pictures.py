"""Pictures of a table: small enough to be sent, each once, and where boxes lie in them."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vlm.pictures import images

QUALITY = 90
"""Of JPEG: 256² pixels take about 15 KB."""


@dataclass(frozen=True)
class Small:
    """A picture as it is stored and sent."""

    name: str
    "Of its file, by its contents: the same picture is the same file at every step."
    content: bytes
    size: tuple[int, int]
    "Width and height."


def small(picture: Image.Image, pixels: int) -> Small:
    """The picture as JPEG, reduced to at most `pixels` pixels where it has more."""
    width, height = picture.size
    scale = min(1.0, math.sqrt(pixels / (width * height)))
    if scale < 1:
        # floor: rounding up could exceed the bound
        size = (max(1, math.floor(width * scale)), max(1, math.floor(height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=QUALITY)
    content = file.getvalue()
    return Small(f"{hashlib.sha1(content, usedforsecurity=False).hexdigest()[:16]}.jpg", content, picture.size)


def opened(picture: Small) -> Image.Image:
    return images.load(picture.content)


def placed(box: Sequence[float], original: Sequence[float], size: Sequence[float]) -> list[int]:
    """A box in pixels of the original image, (width, height), as whole pixels of the small one, cut to it."""
    limits = (*size, *size)
    scaled = (edge * to / by for edge, to, by in zip(box, limits, (*original, *original), strict=True))
    return [min(max(round(edge), 0), int(limit)) for edge, limit in zip(scaled, limits, strict=True)]
