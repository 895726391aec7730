"""Decode images one way everywhere, so that every stage sees the same pixels and the same width and height.

    load(image)  -> RGB picture, upright
    size(image)  -> (width, height) of that picture, from the header alone

An image is a path or the encoded bytes of a file. What the two functions settle:

    orientation   the EXIF orientation is applied, in `size` too
    16 bits       the high byte is kept (value >> 8), which is also what Pillow does with 16-bit RGB files
    32 bits       refused: integers and floats without a declared range have no right brightness
    transparency  laid over black, the usual "no data" of aerial mosaics
    other types   refused (FORMATS): Pillow knows more, and starts Ghostscript, a program, for one of them (EPS)
    huge files    an error above Pillow's decompression-bomb limit, `PIL.Image.MAX_IMAGE_PIXELS`
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

from vlm.common.errors import DataError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000")
"""What is decoded, of every origin; an MPO, as some cameras write, opens as JPEG."""

# EXIF 2.3, tag 0x0112: what has to be done to the stored rows and columns to stand upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load(image: str | bytes) -> Image.Image:
    """The picture as upright 8-bit RGB.

    Raises: DataError where the file is missing, no image, cut short, too large, or has 32 bits per channel.
    """
    with _opened(image) as picture:
        orientation = _orientation(picture)
        picture.load()
        rgb = _rgb(picture, image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def size(image: str | bytes) -> tuple[int, int]:
    """(width, height) in pixels of what `load` returns; reads the header only.

    Raises: DataError where the file is missing, is no image, or is too large.
    """
    with _opened(image) as picture:
        width, height = picture.size
        if _orientation(picture) in (5, 6, 7, 8):
            width, height = height, width
    return width, height


def orientation(image: str | bytes) -> int:
    """The EXIF orientation, 1 to 8, that `load` applies; 1 where nothing is turned. Raises: as `size`."""
    with _opened(image) as picture:
        found = _orientation(picture)
    return found if found in _UPRIGHT else 1


@contextmanager
def _opened(image: str | bytes) -> Iterator[Image.Image]:
    """Open lazily, refuse bombs, and turn whatever Pillow throws at a broken file into one DataError."""
    try:
        with warnings.catch_warnings():
            # Between one and two times the limit Pillow only warns; the check below makes it an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS)
        with picture:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and picture.width * picture.height > limit:
                raise DataError(
                    f"image {describe(image)}: found {picture.width} x {picture.height} pixels, expected at "
                    f"most {limit} (PIL.Image.MAX_IMAGE_PIXELS); cut it into tiles"
                )
            yield picture
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {describe(image)}: no such file") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError, KeyError, …
        if isinstance(error, Image.UnidentifiedImageError):
            known = ", ".join(FORMATS)
            raise DataError(f"image {describe(image)}: cannot be read (not an image file); expected {known}") from error
        raise DataError(f"image {describe(image)}: cannot be read ({str(error) or type(error).__name__})") from error


def _orientation(picture: Image.Image) -> int:
    if picture.format == "TIFF":
        return 1  # Pillow turns TIFFs itself, in `.size` and on loading
    # The base method: PNG's own override would decode the pixels to look for a tag behind them.
    return Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)


def _rgb(picture: Image.Image, image: str | bytes) -> Image.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise DataError(
            f"image {describe(image)}: found 32 bits per channel (mode {picture.mode}), expected 8 or 16; a "
            "32-bit image has no declared range, convert it to 8 bits first"
        )
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return picture.convert("RGB")


def describe(image: str | bytes) -> str:
    """How messages name an image: the path, or the number of bytes."""
    return f"of {len(image)} bytes" if isinstance(image, bytes) else image
