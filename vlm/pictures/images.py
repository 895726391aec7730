"""Decode images one way everywhere, so that every stage sees the same pixels and the same width and height.

    load(image)         -> RGB picture, upright
    load(image, at)     -> the same; a large one at this size, never decoded whole
    window(image, box)  -> a part of it, in pixels of the picture
    size(image)         -> (width, height) of the picture, from the header alone
    use(images)         -> the recipe's `images.limit` and `images.cache`, for this process and those that it starts

So the size of what `load` gives may be another than the picture's: boxes count in pixels of `size`.

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
    large files   of more than LARGE pixels are reduced as they are read (`vlm.pictures.large`) where at most a quarter
                  of the pixels is asked for. Where rasterio is not installed, or the file cannot be read in parts, they
                  are decoded whole, by the same arithmetic; above WHOLE pixels they are refused instead
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vlm.common.errors import DataError, UserError
from vlm.pictures import cache, large, rasters
from vlm.pictures.large import Box, Size
from vlm.pictures.rasters import BITS, COLOURS, UPRIGHT
from vlm.sections import PictureSection, RasterSection, StretchSection

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000")
"""What is decoded, of every origin; an MPO, as some cameras write, opens as JPEG."""
SETTINGS = "NADIR_PICTURES"
"""Environment variable that hands `images.limit` and `images.cache` on to processes that this one starts."""
ORDINARY = RasterSection()
LARGE = 2**25
"""Pixels beyond which a picture is not decoded whole where less is asked for: 128 MiB as Pillow keeps them."""
WHOLE = PictureSection().limit
"""Pixels beyond which nothing is decoded whole to give a part of it, or less of it."""
PARTS = 0.25
"""Share of `images.cache` that a picture may take to be kept whole: a group asks for several parts of it."""
JPEG_MEMORY = 500 * 2**20
"""Bytes of a progressive JPEG's coefficients beyond which GDAL refuses it."""
FEW_GREYS = {"1": 1, "L;2": 3, "L;4": 15}
"""White in a PNG of fewer than 8 bits, by Pillow's name of how it is packed."""
PREVIEW = 2**20
"""Pixels of a large picture that are looked at where no model says how many."""


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


def load(image: str | bytes, at: Size | None = None) -> Image.Image:
    """The picture as upright 8-bit RGB.

    at: the size, (width, height), at which it is needed. A picture that is `reduced` then has this size; others come
    as they are.

    Raises: DataError where the file is missing, no image, cut short, too large, or a raster of which nobody has said
    how it is shown; RecipeError where that takes rasterio, which is not installed.
    """
    if at is not None and reduced(found := size(image), at):
        return _part(image, (0, 0, *found), at, found)
    image, raster = rasters.split(image)
    if raster is None and not _pillow_reads(image):
        raster = ORDINARY
    if raster is not None:
        return rasters.load(image, raster, describe(image), limit(), _turn(image))
    with _opened(image) as picture:
        orientation = _orientation(picture)
        picture.load()
        rgb = _rgb(picture, image)
    upright = rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb
    upright.info.clear()  # a note that it lies on its side goes with the pixels, and vLLM would turn it once more
    return upright


def stored(image: str | bytes) -> np.ndarray:
    """Values of a small picture as the file has them, upright: (height, width), or with channels; of a palette its
    indices. For masks and labels, whose values are no brightness. Raises: DataError as `load`."""
    with _opened(image) as picture:
        return np.asarray(ImageOps.exif_transpose(picture))


def reduced(size: Size, at: Size) -> bool:
    """Whether a picture of this size is reduced while it is read, for who needs it at the size `at`."""
    pixels = size[0] * size[1]
    return pixels > LARGE and pixels >= 4 * at[0] * at[1] and min(size[0] / at[0], size[1] / at[1]) >= 1


def preview(image: str | bytes, pixels: int = PREVIEW) -> Image.Image:
    """The picture; a large one with at most so many pixels. Raises: as `load`."""
    return load(image, limited(size(image), pixels))


def limited(size: Size, most: int) -> Size:
    """(width, height) after reducing a picture to at most so many pixels; never enlarged, sides ≥ 1."""
    width, height = size
    if width * height <= most:
        return size
    shrink = math.sqrt(most / (width * height))
    return max(1, math.floor(width * shrink)), max(1, math.floor(height * shrink))


def window(image: str | bytes, box: Sequence[float], out: Size | None = None) -> Image.Image:
    """A part of the upright picture, as `load` would show it: the pixels that `box` touches.

    box: x1, y1, x2, y2 in pixels of the picture (`size`), half open; whole numbers are exactly these rows and columns,
    others are taken outwards. What lies beyond the picture's borders is cut off, so the part may be smaller than the
    box. out: (width, height) that the part is resized to, by Pillow's bicubic filter; without it the pixels are the
    file's. A stretch by percentiles is that of the whole picture (of a large one: measured on a sample of it).

    Raises: DataError as `load`, and for a box that has no pixel of the picture in it; RecipeError as `load`.
    """
    width, height = found = size(image)
    if not all(map(math.isfinite, box)):
        raise DataError(f"image {describe(image)}: found the window {list(box)}, expected four numbers")
    x1, y1 = (max(0, math.floor(low)) for low in box[:2])
    x2, y2 = (min(most, math.ceil(high)) for most, high in zip(found, box[2:], strict=True))
    if x1 >= x2 or y1 >= y2:
        raise DataError(
            f"image {describe(image)}: found the window {list(box)}, expected x1 < x2 and y1 < y2 with pixels of the "
            f"picture in it, which has {width} x {height}"
        )
    return _part(image, (x1, y1, x2, y2), out, found)


def _part(image: str | bytes, box: Box, out: Size | None, found: Size) -> Image.Image:
    if found[0] * found[1] > LARGE and (file := _in_parts(image, found)) is not None:
        return large.read(file, box, out, load, LARGE)
    kept = cache.decoded
    small = 4 * found[0] * found[1] <= kept.most * PARTS
    # under the name by which `Resizing.picture` keeps the same one, as a training row's
    part = (kept.get(image, lambda: load(image)) if small else load(image)).crop(box)
    return part if out is None else large.fitted(part, out)


def _in_parts(image: str | bytes, found: Size) -> large.File | None:
    """How GDAL reads parts of the picture just as `load` shows it; None where it cannot, and all of it is not too much.

    Raises: DataError, RecipeError where it cannot, and the picture has more than WHOLE pixels.
    """
    whole = found[0] * found[1] <= WHOLE
    image, raster = rasters.split(image)
    plain = raster is None and _pillow_reads(image)
    try:
        rasters.library()
        shown = _as_pillow(image) if plain else raster or ORDINARY
        file = large.File(image, shown, plain, describe(image), limit(), _turn(image), found)
        large.check(file)
    except UserError:
        if whole:
            return None
        raise
    return file


def _as_pillow(image: str | bytes) -> RasterSection:
    """What makes GDAL show a picture as Pillow does. Raises: DataError where nothing does."""
    with _opened(image) as picture:
        bands = picture.getbands()
        why, instead = f"a {picture.format} of mode {picture.mode}", large.TILED
        if picture.format in ("WEBP", "GIF"):
            why = f"a {picture.format}"
        elif (needs := _coefficients(picture)) > JPEG_MEMORY:
            why = f"a progressive JPEG, whose decoder holds {needs >> 20} MiB"
            instead = "rewrite it as a baseline JPEG (jpegtran -copy all IN > OUT)"
        elif picture.mode == "P" or (
            picture.mode in ("L", "RGB")
            and not picture.has_transparency_data
            and not (picture.tile and ";" in str(picture.tile[0].args))
        ):
            return ORDINARY
        elif picture.format == "PNG" and not picture.has_transparency_data and picture.tile[0].args in FEW_GREYS:
            return RasterSection(stretch=StretchSection(range=[0, FEW_GREYS[picture.tile[0].args]]))
        elif picture.mode in ("LA", "RGBA"):
            colours = list(range(1, len(bands)))
            if picture.format != "TIFF":
                return RasterSection(bands=colours, alpha=len(bands))
            if rasters.layout(picture.tag_v2)[2] != (1,):
                return ORDINARY
            return RasterSection(bands=colours)  # multiplied by their opacity already, as over black
        raise DataError(
            f"image {describe(image)}: found {why}, which is decoded whole, of {picture.width} x {picture.height} "
            f"pixels, expected at most {WHOLE} of these; {instead}, or cut the picture into tiles"
        )


def _coefficients(picture: Image.Image) -> int:
    """Bytes that libjpeg holds of a progressive JPEG: two for each value of a component at its own resolution."""
    if not picture.info.get("progressive"):
        return 0
    layers = [(across, down) for _, across, down, _ in picture.layer]  # type: ignore[attr-defined]  # of JPEG's class
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return sum(2 * picture.width * picture.height * across * down // most for across, down in layers)


def size(image: str | bytes) -> tuple[int, int]:
    """(width, height) in pixels of the whole picture; reads the header only, and of a TIFF with transparency that.

    Raises: DataError where the file is missing, is no image, is too large, or is a raster that `load` refuses.
    """
    file, raster = rasters.split(image)
    if raster is None and not _pillow_reads(file):
        raster = ORDINARY
    if raster is not None:
        found = rasters.size(file, raster, describe(file), limit(), _turn(file))
        if found[0] * found[1] > WHOLE:
            _in_parts(image, found)
        return found
    with _opened(file) as picture:
        width, height = picture.size
        if _orientation(picture) in (5, 6, 7, 8):
            width, height = height, width
        asks = picture.format == "TIFF" and picture.mode in ("RGBA", "LA")
        parts = None
        if width * height > (LARGE if asks else WHOLE):
            parts = _in_parts(file, (width, height))
        if asks and parts is None:
            _ask(picture, file)
    if asks and parts is not None:
        large.known(parts)
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


def opaque(images: Any) -> Any:
    """Decoded pictures, or rows of them, on white where they are transparent, as by transformers 5.23 (5.17 drops
    alpha). What is not a picture stays."""
    if isinstance(images, list | tuple):
        return [opaque(image) for image in images]
    if not isinstance(images, Image.Image) or not images.has_transparency_data:
        return images
    white = Image.new("RGBA", images.size, "white")
    return Image.alpha_composite(white, images.convert("RGBA")).convert("RGB")
