"""Rasters: pictures of more than 8 bits, of other bands than red, green and blue, or packed as Pillow cannot read them.

What a recipe says about a file (`vlm.sections.RasterSection`) travels with the file's name, as GDAL's own connection
strings do, so that whoever opens the picture, in whatever stage or process, sees the same pixels; and so that whatever
tells pictures apart by name (caches, fingerprints, journals) tells two ways of reading one file apart:

    /data/a.tif#raster={"bands":[4,3,2],"stretch":{"range":[0.0,3000.0]}}

    bands       counted from 1, as GDAL does; without them, all of a file of one or three (and a mask, see below)
    stretch     value → (value - low) / (high - low), clipped to 0 … 1, times 255, rounded. With `percentile` low and
                high are those of the band's valid values in this picture (numpy's, interpolated linearly); a band
                whose two ends are equal has no contrast, and is black
    no stretch  8-bit values are the brightness; other types are refused
    nodata      a value that is no measurement becomes black, band by band, and counts in no percentile: the recipe's
                `nodata`, or without one the file's own; NaN and infinities; what a mask in the file leaves out
    alpha       the recipe's `alpha` lays the picture over black. Without it a band that the file calls alpha is
                believed where it looks like one (SOFT); else the recipe's `bands` leave it out, or it is asked about
    upright     the orientation tag of TIFF and EXIF is applied. Where the raster lies on the globe plays no part

Files are opened by their first bytes (DRIVERS), and alone: what GDAL knows besides may name other files, or the
network.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vlm.common.errors import DataError, RecipeError
from vlm.sections import RasterSection

MARK = "#raster="
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How a TIFF begins; the last two are BigTIFF's."""
DRIVERS = dict.fromkeys(TIFF, "GTiff") | {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"\0\0\0\x0cjP  ": "JP2OpenJPEG", b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"RIFF": "WEBP", b"BM": "BMP", b"GIF8": "GIF",
}  # fmt: skip
"""First bytes of a file → GDAL's driver."""
KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex int", 6: "complex float"}
"""TIFF 6.0, tag 339 (SampleFormat)."""
BITS, COLOURS, ORIENTATION, SAMPLES, EXTRA, FORMAT = 258, 262, 274, 277, 338, 339
"""Tags of TIFF 6.0."""
BLOCKS = 96 * 2**20
"""Bytes of decoded blocks that GDAL keeps; its own bound is a twentieth of the memory."""
ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": BLOCKS}
"""Files beside a raster (.msk, .ovr, .aux.xml) are not looked at: GDAL opens them by any driver, and whoever wrote the
data would choose what is read. A picture is what its file holds."""
SOFT = 0.01
"""Share of an alpha band that may be neither nothing nor full, as at the smoothed edges of a mosaic: more is asked
about, because GDAL calls any fourth band of 8 bits alpha, near infrared, too."""
INSTALL = "rasters are read by rasterio, which is not installed: pip install -e '.[geo]'"


def named(image: str | bytes, raster: RasterSection | None) -> str | bytes:
    """The image's name together with how it is read; a name that says so already keeps what it says."""
    if raster is None or split(image)[1] is not None:
        return image
    return f"{mark(raster)}\n".encode() + image if isinstance(image, bytes) else image + mark(raster)


def mark(raster: RasterSection | None) -> str:
    """What follows a file's name."""
    return "" if raster is None else MARK + raster.text


def split(image: str | bytes) -> tuple[str | bytes, RasterSection | None]:
    """The inverse of `named`. Raises: DataError where what follows the mark is no raster section."""
    if isinstance(image, bytes):
        if not image.startswith(MARK.encode()):
            return image, None
        text, _, content = image.partition(b"\n")
        return content, _parsed(text.decode(errors="replace").removeprefix(MARK))
    if MARK not in image:
        return image, None
    path, _, said = image.partition(MARK)
    return path, _parsed(said)


@lru_cache(maxsize=256)
def _parsed(text: str) -> RasterSection:
    try:
        return RasterSection.model_validate_json(text)
    except ValueError as error:
        raise DataError(
            f"found {MARK}{text[:80]} after an image's name ({str(error).splitlines()[-1].strip()}), expected "
            f'JSON such as {MARK}{{"bands":[4,3,2],"stretch":{{"range":[0,3000]}}}}'
        ) from error


def plain(image: str | bytes) -> str | bytes:
    """The file's path or its bytes, whatever way of reading goes with it."""
    return split(image)[0]


def tags(image: str | bytes) -> ImageFileDirectory_v2 | None:
    """The first directory of a TIFF, undecoded; None of any other file. Raises: whatever a broken one makes Pillow
    raise."""
    with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
        head = file.read(8)
        if head[:4] not in TIFF:
            return None
        found = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a truncated file, which whoever reads the pixels refuses
            file.seek(found.next)
            found.load(file)
        return found


def layout(found: ImageFileDirectory_v2) -> tuple[int, list[str], tuple[int, ...]]:
    """(bands, the dtype of each, ExtraSamples) of a TIFF's directory."""
    count = int(found.get(SAMPLES, 1))
    bits, kinds = _each(found.get(BITS, 1), count), _each(found.get(FORMAT, 1), count)
    extra = found.get(EXTRA, ())
    names = [f"{KINDS.get(kind, 'unknown ')}{bit}" for kind, bit in zip(kinds, bits, strict=True)]
    return count, names, tuple(extra) if isinstance(extra, tuple) else (extra,)


def _each(value: Any, count: int) -> tuple[int, ...]:
    given = value if isinstance(value, tuple) else (value,)
    return given if len(given) == count else given[:1] * count


def size(image: str | bytes, raster: RasterSection, name: str, limit: int, orientation: int) -> tuple[int, int]:
    """(width, height) of what `load` returns, and whether it could: from the header. Raises: DataError."""
    with opened(image, name, limit) as source:
        _chosen(source, raster, name)
        width, height = source.width, source.height
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def load(image: str | bytes, raster: RasterSection, name: str, limit: int, orientation: int) -> Image.Image:
    """Upright 8-bit RGB. name: how messages call the file. limit: most pixels. orientation: EXIF's, which GDAL does not
    look at. Raises: DataError, RecipeError."""
    with opened(image, name, limit) as source:
        return upright(render(source, raster, name, white_is_zero(image)), orientation)


class Known(NamedTuple):
    """What is measured over a whole picture, for those who read it part by part."""

    ends: dict[int, tuple[float, float]]
    "Band → the values of black and white, of a stretch."
    alpha: tuple[float, float] | None
    "(value of an opaque pixel, share of the pixels that are neither opaque nor transparent) of an alpha band."


def measure(source: Any, raster: RasterSection, name: str) -> Known:
    """source: as `render` takes it. Raises: DataError as `load`."""
    bands = _chosen(source, raster, name)
    if _palette(source, raster):
        return Known({}, None)
    alpha = _alpha(source, raster, bands)
    known = Known({}, None if alpha is None else _opacity(source.read(alpha)))
    mask, _ = _mask(source, raster, bands, name, known)
    for band in bands if raster.stretch is not None else ():
        values = source.read(band)
        known.ends[band] = _ends(values, _valid(source, raster, band, values, mask), raster)
    return known


def render(
    source: Any, raster: RasterSection, name: str, inverted: bool, known: Known | None = None, factor: int = 1
) -> Image.Image:
    """8-bit RGB of a dataset, or of what reads like one, with its rows and columns as they are stored.

    inverted: stored values count from white. known: measured on the whole of what `source` is a part of. factor: so
    many rows and columns are averaged to one, as Pillow's `reduce` does.
    """
    bands = _chosen(source, raster, name)
    if _palette(source, raster):
        return _painted(source).reduce(factor)
    mask, opacity = _mask(source, raster, bands, name, known)
    shown = [Image.fromarray(_band(source, raster, band, mask, inverted, known)) for band in bands]
    if opacity is None:  # a band at a time, three times faster
        shown = [band.reduce(factor) for band in shown]
    picture = Image.merge("RGB", shown if len(shown) == 3 else shown * 3)
    if opacity is None:
        return picture
    picture.putalpha(Image.fromarray(opacity))
    laid = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return laid.convert("RGB").reduce(factor)


def library() -> Any:
    """rasterio. Raises: RecipeError where it is not installed."""
    try:
        import rasterio
    except ImportError as error:
        raise RecipeError(INSTALL) from error
    return rasterio


@contextmanager
def opened(image: str | bytes, name: str, limit: int, level: int | None = None) -> Iterator[Any]:
    """The dataset of rasterio; with `level` that of the overview of this number, from 0.

    Raises: DataError, also for what rasterio raises while it is open; RecipeError where it is not installed.
    """
    rasterio = library()
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    options = {"driver": driver_of(image, name)} | ({} if level is None else {"overview_level": level})
    try:
        with warnings.catch_warnings(), rasterio.Env(**ALONE):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if isinstance(image, bytes):
                from rasterio.io import MemoryFile

                with MemoryFile(image) as file, file.open(**options) as source:
                    yield _bounded(source, name, limit)
            else:
                with rasterio.open(os.path.abspath(image), **options) as source:
                    yield _bounded(source, name, limit)
    except (RasterioError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        why = f"{error} {error.__cause__ or ''}".strip()
        raise DataError(f"image {name}: cannot be read as a raster ({why})") from error


def driver_of(image: str | bytes, name: str) -> str:
    """GDAL's, by the first bytes. Raises: DataError where the file is missing, or of no known kind."""
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
            head = file.read(16)
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"image {name}: {why}") from error
    for start, driver in DRIVERS.items():
        if head.startswith(start):
            return driver
    raise DataError(
        f"image {name}: cannot be read (not an image file); expected {', '.join(sorted(set(DRIVERS.values())))}"
    )


def _bounded(source: Any, name: str, limit: int) -> Any:
    if source.width * source.height > limit:
        raise DataError(too_large(name, source.width, source.height, limit))
    return source


def bands_of(count: int, kinds: Iterable[str]) -> str:
    """What messages say was found."""
    return f"{count} band{'s' if count > 1 else ''} of {', '.join(sorted(set(kinds)))}"


def example(count: int, kinds: Iterable[str], first: str) -> str:
    """What may be written for a raster of so many bands, of which the first is red, blue or of no colour."""
    bands = "" if count in (1, 3) else "bands: [1]" if count == 2 else "bands: [3, 2, 1]"
    bands = "bands: [1, 2, 3]" if bands.endswith("[3, 2, 1]") and first == "red" else bands
    stretch = "" if set(kinds) == {"uint8"} else "stretch: {percentile: [2, 98]}"
    return f"raster: {{{', '.join(filter(None, (bands, stretch)))}}}"


def too_large(name: str, width: int, height: int, limit: int) -> str:
    """The message for a picture beyond `images.limit`."""
    return (
        f"image {name}: found {width} x {height} = {width * height} pixels, expected at most {limit} (images.limit); "
        "raise it, or cut the picture into tiles"
    )


def _interpretations(source: Any) -> list[str]:
    return [colour.name for colour in source.colorinterp]


def _chosen(source: Any, raster: RasterSection, name: str) -> list[int]:
    """The bands that are shown. Raises: DataError where there are no such, or where it is not clear how."""
    colours, kinds = _interpretations(source), sorted(set(source.dtypes))
    found = f"image {name}: found {bands_of(source.count, kinds)} ({', '.join(colours)})"
    instead = example(source.count, kinds, colours[0])
    said = raster.bands or list(range(1, source.count + 1))
    if raster.bands is None:
        masked = colours[-1] == "alpha" or raster.alpha == source.count
        said = said[:-1] if masked and source.count in (2, 4) else said
        if len(said) not in (1, 3):
            raise DataError(f"{found}, expected one or three; say which to show: `{instead}`")
    if max([*said, raster.alpha or 0]) > source.count:
        raise DataError(f"{found}, expected at least {max([*said, raster.alpha or 0])}, which `raster` names")
    types = {source.dtypes[band - 1] for band in said}
    if strange := [kind for kind in types if kind.startswith("complex")]:
        raise DataError(f"{found}, expected real numbers: {strange[0]} has no brightness; compute one first")
    if raster.stretch is None and types != {"uint8"}:
        raise DataError(f"{found}, whose values are no brightness; say which is, e.g. `{instead}`")
    if raster.stretch is not None and "palette" in [colours[band - 1] for band in said]:
        raise DataError(f"{found}: a palette has colours, nothing to stretch; write `raster: plain` at the source")
    return said


def _palette(source: Any, raster: RasterSection) -> bool:
    return raster.bands is None and _interpretations(source)[0] == "palette"


def _painted(source: Any) -> Image.Image:
    colours = source.colormap(1)
    table = np.zeros((256, 4), np.uint8)
    for value, colour in colours.items():
        table[value] = colour
    painted = Image.fromarray(table[source.read(1)], "RGBA")
    return Image.alpha_composite(Image.new("RGBA", painted.size, (0, 0, 0, 255)), painted).convert("RGB")


def _mask(
    source: Any, raster: RasterSection, bands: list[int], name: str, known: Known | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(H, W) bool: the pixels that a mask of the file or an alpha band of zeros leaves in; None for all. And (H, W)
    uint8: how opaque they are, where `alpha` says so."""
    from rasterio.enums import MaskFlags

    flags = source.mask_flag_enums[bands[0] - 1]
    if raster.alpha is None and MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return source.dataset_mask() > 0, None
    if (band := _alpha(source, raster, bands)) is None:
        return None, None
    values = source.read(band)
    full, soft = known.alpha if known is not None and known.alpha is not None else _opacity(values)
    if raster.alpha is not None or soft <= SOFT:
        return values > 0, np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8)
    if raster.bands is None:
        raise DataError(f"image {name}: {doubtful(band, soft)}")
    return None, None


def opacity_band(source: Any, raster: RasterSection, name: str) -> int | None:
    """The band that `render` reads as opacity, or asks about. Raises: DataError as `load`."""
    bands = _chosen(source, raster, name)
    return None if _palette(source, raster) else _alpha(source, raster, bands)


def needed(source: Any, raster: RasterSection, name: str) -> list[int]:
    """The bands that `render` reads. Raises: DataError as `load`."""
    if _palette(source, raster):
        return [1]
    bands, alpha = _chosen(source, raster, name), opacity_band(source, raster, name)
    return list(dict.fromkeys([*bands, *([] if alpha is None else [alpha])]))


def _alpha(source: Any, raster: RasterSection, bands: list[int]) -> int | None:
    """The band that is opacity, or is called so."""
    colours = _interpretations(source)
    if raster.alpha is not None or "alpha" not in colours:
        return raster.alpha
    band = colours.index("alpha") + 1
    return None if band in bands else band


def _opacity(alpha: np.ndarray) -> tuple[float, float]:
    """As `Known.alpha`. An opaque pixel has the type's largest value; in files of 16 bits it is often 255 all the
    same."""
    full = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
    if alpha.dtype.kind != "f" and alpha.max() == 255:
        full = 255.0
    return full, float(1 - np.mean((alpha == 0) | (alpha == full)))


def doubtful(band: int, share: float) -> str:
    """What is asked about a band that is called alpha, and does not look like one."""
    others = ", ".join(str(n) for n in range(1, band)) or "1"
    return (
        f"found band {band} called alpha with other values than nothing and full in {share:.0%} of the pixels; GDAL "
        "calls any fourth band so, near infrared, too: which is it? Without it: `images.raster: {bands: "
        f"[{others}]}}`; as transparency: `images.raster: {{bands: [{others}], alpha: {band}}}`"
    )


def _valid(
    source: Any, raster: RasterSection, band: int, values: np.ndarray, mask: np.ndarray | None
) -> np.ndarray | None:
    """(H, W) bool: where something was measured; None for everywhere."""
    nodata = source.nodatavals[band - 1] if raster.nodata is None else raster.nodata
    known = [] if mask is None else [mask]
    if values.dtype.kind == "f":
        known.append(np.isfinite(values))
    if nodata is not None:
        known.append(values != nodata)
    return np.logical_and.reduce(known) if known else None


def _band(
    source: Any, raster: RasterSection, band: int, mask: np.ndarray | None, inverted: bool, known: Known | None
) -> np.ndarray:
    """(H, W) uint8."""
    values = source.read(band)
    valid = _valid(source, raster, band, values, mask)
    if raster.stretch is None:
        shown = values
    else:
        low, high = known.ends[band] if known is not None else _ends(values, valid, raster)
        # stored values may be integers, whose differences would wrap around
        scaled = (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)
        scaled = scaled if valid is None else np.where(valid, scaled, 0.0)
        shown = np.rint(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
    shown = 255 - shown if inverted else shown
    return shown if valid is None else np.where(valid, shown, 0).astype(np.uint8)


def _ends(values: np.ndarray, valid: np.ndarray | None, raster: RasterSection) -> tuple[float, float]:
    assert raster.stretch is not None
    if raster.stretch.range is not None:
        return raster.stretch.range[0], raster.stretch.range[1]
    kept = values if valid is None else values[valid]
    if not kept.size:  # nothing was measured here: all black
        return 0.0, 0.0
    low, high = np.percentile(kept.astype(np.float64), raster.stretch.percentile)
    return float(low), float(high)


def white_is_zero(image: str | bytes) -> bool:
    """Whether a TIFF says that its grey values count from white."""
    found = tags(image)
    return found is not None and found.get(COLOURS) == 0


# EXIF 2.3, tag 0x0112: what has to be done to the stored rows and columns to stand upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The stored rows and columns, turned as EXIF's orientation says."""
    return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture
