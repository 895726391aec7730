"""Decode images one way everywhere, so that every stage sees the same pixels and the same width and height.

    load(image)  -> RGB picture, upright
    size(image)  -> (width, height) of that picture, from the header alone
    use(images)  -> the recipe's `images.limit` and `images.cache`, for this process and those that it starts

An image is a path or the encoded bytes of a file, perhaps with how a raster is to be read
(`vlm.pictures.rasters.named`). What the functions settle:

    orientation   the EXIF orientation is applied, in `size` too
    rasters       one or three bands of 8 bits are read as they are; so are palettes, bilevel files and CMYK. Anything
                  else has no brightness until a recipe says which bands are shown, and how their values become 8 bits
                  (`images.raster`): an error that says what was found
    transparency  laid over black, the usual "no data" of aerial mosaics. A fourth band of a TIFF is transparency where
                  the file says so and it looks like it (`vlm.pictures.rasters.SOFT`)
    other types   refused (FORMATS): Pillow knows more, and starts Ghostscript, a program, for one of them (EPS)
    huge files    an error above `images.limit` pixels
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

from vlm.common.errors import DataError, UserError
from vlm.pictures import cache, rasters
from vlm.pictures.rasters import BITS, COLOURS, UPRIGHT
from vlm.sections import PictureSection, RasterSection

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000")
"""What is decoded, of every origin; an MPO, as some cameras write, opens as JPEG."""
SETTINGS = "NADIR_PICTURES"
"""Environment variable that hands `images.limit` and `images.cache` on to processes that this one starts."""
ORDINARY = RasterSection()


def use(section: PictureSection) -> None:
    """Take the recipe's limit and cache, for all that this process and its children open from now on."""
    os.environ[SETTINGS] = f"{section.limit} {section.cache}"
    _take()


def _take() -> None:
    if said := os.environ.get(SETTINGS):
        limit, size = map(int, said.split())
        # Pillow's own bound, so that there is one: it also looks at frames and at compressed text
        Image.MAX_IMAGE_PIXELS = limit
        cache.decoded.most = size * 2**20


_take()


def limit() -> int:
    """Pixels of the largest picture that is opened."""
    return PictureSection().limit if Image.MAX_IMAGE_PIXELS is None else Image.MAX_IMAGE_PIXELS


def load(image: str | bytes) -> Image.Image:
    """The picture as upright 8-bit RGB.

    Raises: DataError where the file is missing, no image, cut short, too large, or a raster of which nobody has said
    how it is shown; RecipeError where that takes rasterio, which is not installed.
    """
    image, raster = rasters.split(image)
    if raster is None and not _pillow_reads(image):
        raster = ORDINARY
    if raster is not None:
        return rasters.load(image, raster, describe(image), limit(), _turn(image))
    with _opened(image) as picture:
        orientation = _orientation(picture)
        picture.load()
        rgb = _rgb(picture, image)
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def size(image: str | bytes) -> tuple[int, int]:
    """(width, height) in pixels of what `load` returns; reads the header only, and of a TIFF with transparency that.

    Raises: DataError where the file is missing, is no image, is too large, or is a raster that `load` refuses.
    """
    image, raster = rasters.split(image)
    if raster is None and not _pillow_reads(image):
        raster = ORDINARY
    if raster is not None:
        return rasters.size(image, raster, describe(image), limit(), _turn(image))
    with _opened(image) as picture:
        if picture.format == "TIFF" and picture.mode in ("RGBA", "LA"):
            _ask(picture, image)
        width, height = picture.size
        if _orientation(picture) in (5, 6, 7, 8):
            width, height = height, width
    return width, height


def orientation(image: str | bytes) -> int:
    """The EXIF orientation, 1 to 8, that `load` applies; 1 where nothing is turned, or no picture is."""
    found = _turn(rasters.split(image)[0])
    return found if found in UPRIGHT else 1


def _pillow_reads(image: str | bytes) -> bool:
    """Whether this is a file for Pillow, rather than a TIFF of 8-bit bands whose packing only GDAL knows.

    Raises: DataError for a TIFF of which nobody can tell without `images.raster` how it is shown.
    """
    try:
        found = rasters.tags(image)
    except Exception:  # broken: Pillow says how
        return True
    if found is None:
        return True
    count, kinds, extra = rasters.layout(found)
    colours, bits = found.get(COLOURS), found.get(BITS, (1,))
    masked = count in (2, 4) and extra in ((1,), (2,), (999,))
    shown = count - masked
    if set(kinds) == {"uint8"} and (shown in (1, 3) or (colours == 5 and count == 4)):
        try:
            with _lazy(image):
                return True
        except Exception as error:
            return isinstance(error, Image.DecompressionBombError | FileNotFoundError)
    if count == 1 and set(bits if isinstance(bits, tuple) else (bits,)) <= {1, 2, 4} and kinds[0].startswith("uint"):
        return True
    raise DataError(_unclear(image, kinds, "red" if colours == 2 else ""))


def _unclear(image: str | bytes, kinds: Sequence[str], first: str) -> str:
    return (
        f"image {describe(image)}: found {rasters.bands_of(len(kinds), kinds)}, expected one or three of uint8, "
        "and perhaps a declared alpha; say in the recipe which bands are shown and what is black and white, such as "
        f"`images: {{{rasters.example(len(kinds), kinds, first)}}}`, or `raster:` at the source alone (docs/data.md)"
    )


def _lazy(image: str | bytes) -> Image.Image:
    """The header. Raises: whatever a broken file makes Pillow raise."""
    with warnings.catch_warnings():
        # Between one and two times the limit Pillow only warns; `_opened` makes it an error.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # of truncated tags: reading the pixels says so
        return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS)


def _turn(image: str | bytes) -> int:
    """The EXIF orientation of a file that GDAL opens, in TIFF a tag of its own; 1 where there is none."""
    try:
        found = rasters.tags(image)
        if found is not None:
            return int(found.get(rasters.ORIENTATION, 1))
        with _lazy(image) as picture:
            return _orientation(picture)
    except (OSError, SyntaxError, ValueError, TypeError):  # no picture, or one that only GDAL knows: it says so
        return 1


@contextmanager
def _opened(image: str | bytes) -> Iterator[Image.Image]:
    """Open lazily, refuse bombs, and turn whatever Pillow throws at a broken file into one DataError."""
    try:
        with _lazy(image) as picture:
            if picture.width * picture.height > limit():
                raise DataError(rasters.too_large(describe(image), picture.width, picture.height, limit()))
            _clear(picture, image)
            yield picture
    except UserError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"image {describe(image)}: no such file") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"image {describe(image)}: found more than {limit()} pixels ({error}), expected at most as many "
            "(images.limit); raise it, or cut the picture into tiles"
        ) from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError, KeyError, …
        if isinstance(error, Image.UnidentifiedImageError):
            known = ", ".join(FORMATS)
            raise DataError(f"image {describe(image)}: cannot be read (not an image file); expected {known}") from error
        raise DataError(f"image {describe(image)}: cannot be read ({str(error) or type(error).__name__})") from error


def _clear(picture: Image.Image, image: str | bytes) -> None:
    """Refuse what Pillow would open by dropping bits, or by taking a fourth band for transparency."""
    kinds: list[str] = []
    if picture.format == "PNG" and picture.tile and "16" in str(picture.tile[0].args):
        kinds = ["uint16"] * len(picture.getbands())
    elif picture.format == "JPEG2000":
        depths, alpha = _jpeg2000(image)
        if (depths and max(depths) > 8) or (len(depths) in (2, 4) and not alpha):
            kinds = [f"uint{depth}" for depth in depths]
    elif picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        kinds = ["float32" if picture.mode == "F" else "int32" if picture.mode == "I" else "uint16"]
    if kinds:
        raise DataError(_unclear(image, kinds, "red"))


def _jpeg2000(image: str | bytes) -> tuple[list[int], bool]:
    """(bits of each component, whether one is declared opacity): ISO 15444-1, marker SIZ and box `cdef`."""
    with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
        head = file.read(2**16)
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return [], True
    count = int.from_bytes(head[start + 40 : start + 42], "big")
    depths = [(head[start + 42 + 3 * n] & 0x7F) + 1 for n in range(count)]
    place, alpha = head.find(b"cdef", 0, start), False
    if place >= 0:
        entries = int.from_bytes(head[place + 4 : place + 6], "big")
        kinds = [int.from_bytes(head[place + 8 + 6 * n : place + 10 + 6 * n], "big") for n in range(entries)]
        alpha = bool({1, 2} & set(kinds))
    return depths, alpha


def _orientation(picture: Image.Image) -> int:
    if picture.format == "TIFF":
        return 1  # Pillow turns TIFFs itself, in `.size` and on loading
    # The base method: PNG's own override would decode the pixels to look for a tag behind them.
    return Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)


def _rgb(picture: Image.Image, image: str | bytes) -> Image.Image:
    if picture.format == "TIFF" and picture.mode in ("RGBA", "LA"):
        _ask(picture, image)
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return picture.convert("RGB")


def _ask(picture: Image.Image, image: str | bytes) -> None:
    """Refuse a fourth band that is called alpha and has the values of something else.

    Colours that are multiplied by it already (ExtraSamples 1) are its own word: GDAL writes that where it is told to.
    """
    if rasters.layout(picture.tag_v2)[2] == (1,):
        return
    counts = np.asarray(picture.getchannel("A").histogram())
    soft = counts[1:-1].sum() / counts.sum()
    if soft > rasters.SOFT:
        band = len(picture.getbands())
        raise DataError(f"image {describe(image)}: {rasters.doubtful(band, float(soft))}")


def describe(image: str | bytes) -> str:
    """How messages name an image: the path, or the number of bytes."""
    image = rasters.plain(image)
    return f"of {len(image)} bytes" if isinstance(image, bytes) else image
