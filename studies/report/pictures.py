"""Pictures inside the page: each once, small enough that all of them together stay within a bound."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vlm.common.errors import DataError
from vlm.pictures import images

SIDE = 448
"""Most pixels of a side: what a phone shows across, and a desktop in a column."""
CUT = 224
"""The same of a region that is shown beside its picture."""
LEAST = 96
"""Pixels of a side that a picture is never made smaller than for room."""
QUALITY = 78
"""Of WebP: 448² pixels of an aerial picture take about 25 KB."""
ROOM = 8_000_000
"""Bytes of all pictures; as base64 they are a third more."""


class Cut(NamedTuple):
    """A region of a picture."""

    path: Path
    box: tuple[float, ...]
    "x1, y1, x2, y2 in pixels of the picture."


class Pictures:
    """Data URIs by number, and the number of each file and region that was asked for."""

    def __init__(self, room: int = ROOM):
        self.room = room
        self.uris: list[str] = []
        self.missing: dict[Path | Cut, str] = {}
        "File or region → why it cannot be shown."

    def add(self, paths: Iterable[Path | Cut]) -> dict[Path | Cut, int]:
        """File or region → number; what has the same pixels has the same. What cannot be decoded goes to `missing`."""
        wanted = list(dict.fromkeys(paths))
        encoded = self._encoded(wanted, SIDE)
        total: float = sum(map(len, encoded.values()))
        if total > self.room:  # bytes grow about as the area does, a little slower: hence twice
            for _ in range(2):
                side = max(LEAST, int(SIDE * math.sqrt(self.room / total) * 0.97))
                encoded = self._encoded(encoded, side)
                if sum(map(len, encoded.values())) <= self.room or side == LEAST:
                    break
                total = sum(map(len, encoded.values())) * (SIDE / side) ** 2
        numbers: dict[bytes, int] = {}
        found = {}
        for path, content in encoded.items():
            digest = hashlib.sha256(content).digest()
            if digest not in numbers:
                numbers[digest] = len(self.uris)
                self.uris.append("data:image/webp;base64," + base64.b64encode(content).decode())
            found[path] = numbers[digest]
        return found

    def _encoded(self, paths: Iterable[Path | Cut], side: int) -> dict[Path | Cut, bytes]:
        made = {}
        for path in paths:
            try:
                picture, most = _read(path, side)
            except DataError as error:
                self.missing[path] = str(error)
                continue
            picture.thumbnail((most, most), Image.Resampling.LANCZOS, reducing_gap=2.0)
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=QUALITY, method=4)
            made[path] = file.getvalue()
        return made


def _read(path: Path | Cut, side: int) -> tuple[Image.Image, int]:
    """A picture, and the most pixels that a side of it may have. side: of a whole one. Raises: DataError."""
    if isinstance(path, Path):
        return images.preview(str(path), side * side), side
    (x1, y1, x2, y2), most = path.box, max(LEAST, side * CUT // SIDE)
    size = max(1, math.ceil(x2) - math.floor(x1)), max(1, math.ceil(y2) - math.floor(y1))
    return images.window(str(path.path), path.box, images.limited(size, most * most)), most
