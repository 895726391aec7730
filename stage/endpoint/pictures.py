"""Pictures as they are sent to an endpoint."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

from vlm.pictures import images

JPEG_QUALITY = 95


def user_turn(pictures: Sequence[str], text: str) -> dict[str, Any]:
    """A user's turn of a conversation: pictures (as `data_url` gives them), then the text."""
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def data_url(image: str | bytes, max_pixels: int) -> str:
    """The image as an endpoint gets it: upright RGB JPEG of at most `max_pixels`, as a data URL."""
    picture = images.load(image)
    size = limited(picture.size, max_pixels)
    if size != picture.size:
        picture = picture.resize(size)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def limited(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """(width, height) in pixels after reducing an image to at most `max_pixels`; never enlarged, sides ≥ 1."""
    width, height = size
    if width * height <= max_pixels:
        return size
    shrink = math.sqrt(max_pixels / (width * height))
    return max(1, math.floor(width * shrink)), max(1, math.floor(height * shrink))
