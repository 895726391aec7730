"""Decoded pictures that are kept, by bytes: forty pictures of 8,000² pixels take 7.7 GB, whatever their files do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from PIL.Image import Image

from vlm.sections import PictureSection


def weight(picture: Image) -> int:
    """Bytes of the pixels: one for each band of 8 bits; Pillow keeps a fourth beside three."""
    bands = len(picture.getbands())
    return picture.width * picture.height * (4 if bands == 3 else bands)


class PictureCache:
    """The pictures used last, of at most `most` bytes together. A picture larger than that is handed out, not kept."""

    def __init__(self, most: int):
        self.most, self.bytes = most, 0
        self._kept: OrderedDict[Hashable, Image] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Image]) -> Image:
        """The picture under `key`, made where it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()  # not under the lock: threads decode side by side
        with self._lock:
            size = weight(made)
            if size <= self.most and key not in self._kept:
                self._kept[key] = made
                self.bytes += size
            while self.bytes > self.most:
                self.bytes -= weight(self._kept.popitem(last=False)[1])
        return made

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)


decoded = PictureCache(PictureSection().cache * 2**20)
"""This process's."""
