"""When two pictures are one and the same: by their pixels (here), or by their looks (`vlm.pictures.perceptual`)."""

from __future__ import annotations

import hashlib

from PIL import Image


def digest(picture: Image.Image) -> bytes:
    """32 bytes of SHA-256 over mode, size, palette and pixel values, whatever file the picture came from.

    An `RGB` picture (`vlm.pictures.images.load` gives these) has the same digest from every lossless file.
    """
    palette = bytes(picture.getpalette("RGBA") or b"") if picture.mode == "P" else b""
    header = (picture.mode, picture.size, palette, str(picture.info.get("transparency")))
    found = hashlib.sha256(repr(header).encode())
    found.update(picture.tobytes())
    return found.digest()
