"""Pictures that are too large to be decoded whole: a window of them, or all of it reduced, in bounded memory.

GDAL reads (rasterio, extra `geo`), some CHUNK pixels at a time, as 8-bit RGB (`vlm.pictures.rasters.render`). Blocks of
`factor`² pixels are averaged, `factor` a power of two, so that between two and four times the asked width and height
are left; Pillow's bicubic filter does the rest. That is the arithmetic of Pillow's own `resize(…, reducing_gap=2)`:

    whole.reduce(factor).resize(out, BICUBIC)

    overviews   are read instead where the file holds them (TIFF; JPEG's and JPEG 2000's decoders have their own): the
                one that still has twice the asked width and height. Their pixels are what whoever wrote them averaged
    none        the whole picture is read once; what it is reduced to is kept on disk (`vlm.pictures.kept`)
    a stretch   by percentiles, and whether a fourth band is opacity, is measured on the whole picture: on its smallest
                overview of at least SAMPLE / 4 pixels, or on every n-th row and column, SAMPLE pixels or fewer

`read(out_shape=…)`, which GDAL has for this, takes 1.3 GB, or minutes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vlm.common.errors import DataError
from vlm.pictures import kept, rasters
from vlm.sections import RasterSection

CHUNK = 2**21
"""Pixels that are rendered at a time."""
SAMPLE = 2**22
"""Pixels that percentiles are measured on."""
MOST_BLOCK = 2**27
"""Bytes of the largest block of a file (a tile, or strip) that is decoded."""
GAP = 2
"""Times the asked width and height that averaging leaves at least (as Pillow's `reducing_gap`)."""

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2: whole pixels, half open, y down."""
Size = tuple[int, int]
SWAPPED = (5, 6, 7, 8)
"""Orientations whose width is the stored height."""


class File(NamedTuple):
    """A picture, and how it is read."""

    image: str | bytes
    raster: RasterSection
    plain: bool
    "Nodata and masks are passed over, as Pillow does."
    name: str
    "How messages call it."
    limit: int
    "Most pixels."
    orientation: int
    "EXIF's."
    size: Size
    "(width, height), upright."

    @property
    def stored(self) -> Size:
        return self.size[::-1] if self.orientation in SWAPPED else self.size

    @property
    def settings(self) -> tuple[object, ...]:
        """What the pixels depend on."""
        return kept.identity(self.image), self.raster.text, self.plain


def read(file: File, box: Box, out: Size | None, open_kept: Callable[[str], Image.Image], most: int) -> Image.Image:
    """The part of the upright picture in `box`, as upright RGB of the size `out`, or as it is.

    box: within the picture. open_kept: opens a PNG. most: pixels of the largest part that is not kept once reduced.
    Raises: DataError, RecipeError.
    """
    x1, y1, x2, y2 = _turned_back(box, file)
    swapped = file.orientation in SWAPPED
    size = out[::-1] if out is not None and swapped else out
    level, factor = (None, 1) if size is None else _level(file, (x2 - x1) / size[0], (y2 - y1) / size[1])
    with rasters.opened(file.image, file.name, file.limit, level) as source:
        width, height = file.stored
        across, down = source.width / width, source.height / height
        region = (x1 * across, y1 * down, x2 * across, y2 * down)

        def averaged(part: Box) -> Image.Image:
            return _averaged(source, file, part, factor)

        pixels = (x2 - x1) * (y2 - y1)
        # the decoder's own overviews (JPEG's) need all of the file, too; those of a TIFF are quick
        quick = level is not None and source.driver == "GTiff"
        if size is not None and not quick and (pixels == width * height or (level is None and pixels > most)):
            start, whole = (0, 0), (0, 0, source.width, source.height)
            what = (*file.settings, level, factor)
            picture = kept.keep(what, ".png", lambda: averaged(whole), _save, lambda path: open_kept(str(path)))
        else:
            start = math.floor(region[0]), math.floor(region[1])
            end = min(math.ceil(region[2]), source.width), min(math.ceil(region[3]), source.height)
            picture = averaged((*start, *end))
    if size is not None:
        left, top = ((region[n] - start[n]) / factor for n in range(2))
        right = min((region[2] - start[0]) / factor, picture.width)
        picture = picture.resize(
            size, Image.Resampling.BICUBIC, box=(left, top, right, min((region[3] - start[1]) / factor, picture.height))
        )
    return rasters.upright(picture, file.orientation)


def fitted(picture: Image.Image, out: Size) -> Image.Image:
    """The plain way: a decoded picture at the size that `read` gives it, by the same arithmetic."""
    factor = _power(picture.width / out[0], picture.height / out[1])
    box = (0, 0, picture.width / factor, picture.height / factor)
    return picture.reduce(factor).resize(out, Image.Resampling.BICUBIC, box=box)


def known(file: File) -> rasters.Known | None:
    """What is measured over the whole picture; None where nothing has to be. Raises: DataError as `rasters.load`."""
    raster = file.raster
    with rasters.opened(file.image, file.name, file.limit) as source:
        percentile = raster.stretch is not None and raster.stretch.percentile is not None
        if not percentile and rasters.opacity_band(source, raster, file.name) is None:
            return None
        large = [n for n, by in enumerate(source.overviews(1)) if _pixels(source) / by**2 >= SAMPLE / 4]
    level = large[-1] if large else None

    def make() -> rasters.Known:
        with rasters.opened(file.image, file.name, file.limit, level) as source:
            step = 1 if level is not None else math.ceil(math.sqrt(_pixels(source) / SAMPLE))
            chunks = list(_chunks(source, (0, 0, source.width, source.height), 1))
            return rasters.measure(Part(source, file, chunks, step), raster, file.name)

    return kept.keep((*file.settings, "known", level), ".json", make, _write_known, _read_known, worth=0)


def _pixels(source: Any) -> int:
    return source.width * source.height


def _write_known(found: rasters.Known, path: Path) -> None:
    path.write_text(json.dumps([list(found.ends.items()), found.alpha]))


def _read_known(path: Path) -> rasters.Known:
    ends, alpha = json.loads(path.read_text())
    return rasters.Known({band: tuple(pair) for band, pair in ends}, None if alpha is None else tuple(alpha))


def _save(picture: Image.Image, path: Path) -> None:
    picture.save(path, compress_level=1)


class Part:
    """Windows of a dataset, which together read like one (`rasters.render`, `rasters.measure`).

    windows: in pixels of `source`, by rows; they are all of it, or one. step: of their rows and columns every how
    many are read.
    """

    def __init__(self, source: Any, file: File, windows: list[Any], step: int = 1):
        from rasterio.enums import MaskFlags

        self.source, self.windows, self.step = source, windows, step
        self.count, self.dtypes, self.colorinterp = source.count, source.dtypes, source.colorinterp
        self.nodatavals = (None,) * source.count if file.plain else source.nodatavals
        self.mask_flag_enums = source.mask_flag_enums
        if file.plain:
            self.mask_flag_enums = ([MaskFlags.all_valid],) * source.count
        self._bands = rasters.needed(source, file.raster, file.name)
        self._values: np.ndarray | None = None

    def read(self, band: int) -> np.ndarray:
        if self._values is None:  # all bands at once: a block of a file mostly holds them all
            self._values = self._assembled(lambda window: self.source.read(self._bands, window=window))
        return self._values[self._bands.index(band)]

    def dataset_mask(self) -> np.ndarray:
        return self._assembled(lambda window: self.source.dataset_mask(window=window))

    def colormap(self, band: int) -> dict[int, tuple[int, ...]]:
        return self.source.colormap(band)

    def _assembled(self, read: Callable[[Any], np.ndarray]) -> np.ndarray:
        rows: dict[int, list[np.ndarray]] = {}
        for window in self.windows:
            values = read(window)
            if len(self.windows) == 1 and self.step == 1:
                return values
            # a copy: a view would hold all pixels
            thin = values[..., -window.row_off % self.step :: self.step, -window.col_off % self.step :: self.step]
            rows.setdefault(window.row_off, []).append(thin.copy())
        return np.concatenate([np.concatenate(row, axis=-1) for row in rows.values()], axis=-2)


def _averaged(source: Any, file: File, box: Box, factor: int) -> Image.Image:
    """Stored rows and columns `box` of the dataset, each `factor`² pixels averaged to one; the last may be fewer."""
    x1, y1, x2, y2 = box
    inverted, facts = rasters.white_is_zero(file.image), known(file)
    out = Image.new("RGB", (math.ceil((x2 - x1) / factor), math.ceil((y2 - y1) / factor)))
    for window in _chunks(source, box, factor):
        shown = rasters.render(Part(source, file, [window]), file.raster, file.name, inverted, facts, factor)
        out.paste(shown, ((window.col_off - x1) // factor, (window.row_off - y1) // factor))
    return out


def _chunks(source: Any, box: Box, factor: int) -> Iterator[Any]:
    """Windows of about CHUNK pixels that make up the box, by rows; the file's blocks are not cut where that can be."""
    from rasterio.windows import Window

    (x1, y1, x2, y2), (tall, wide) = box, source.block_shapes[0]
    # a block that is as wide as the picture stays among GDAL's until its last rows are read
    wide = x2 - x1 if wide >= source.width else math.ceil(wide / factor) * factor
    tall = min(math.ceil(tall / factor), max(1, CHUNK // (wide * factor))) * factor
    more = max(1, CHUNK // (tall * wide))
    tall, wide = (tall * more, wide) if wide >= x2 - x1 else (tall, wide * more)
    for top in range(y1, y2, tall):
        for left in range(x1, x2, wide):
            yield Window(left, top, min(wide, x2 - left), min(tall, y2 - top))


def _level(file: File, across: float, down: float) -> tuple[int | None, int]:
    """(number of the overview, times that its width and height are reduced by averaging) for a picture that is to be
    so many times smaller."""
    with rasters.opened(file.image, file.name, file.limit) as source:
        fit = [(n, by) for n, by in enumerate(source.overviews(1)) if by * GAP <= min(across, down)]
    level, by = max(fit, key=lambda found: found[1]) if fit else (None, 1)
    return level, _power(across / by, down / by)


def _power(across: float, down: float) -> int:
    return 2 ** max(0, math.floor(math.log2(min(across, down) / GAP)))


def check(file: File) -> None:
    """Raises: DataError for a file that GDAL decodes in blocks which are too large."""
    with rasters.opened(file.image, file.name, file.limit) as source:
        tall, wide = source.block_shapes[0]
        each = source.count if source.interleaving is not None and source.interleaving.value == "PIXEL" else 1
        taken = tall * wide * each * np.dtype(source.dtypes[0]).itemsize
    if taken > MOST_BLOCK:
        raise DataError(
            f"image {file.name}: found blocks of {wide} x {tall} pixels, {taken >> 20} MiB each, expected at most "
            f"{MOST_BLOCK >> 20} MiB, because a block is decoded whole; {TILED}"
        )


TILED = "rewrite it in tiles (gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER IN OUT.tif)"
"""What helps a file that can only be decoded whole."""


def _turned_back(box: Box, file: File) -> Box:
    """The box in stored rows and columns."""
    (x1, y1, x2, y2), (width, height) = box, file.size
    if file.orientation in (2, 3, 6, 7):  # what is stored first is seen at the right
        x1, x2 = width - x2, width - x1
    if file.orientation in (3, 4, 7, 8):  # at the bottom
        y1, y2 = height - y2, height - y1
    return (y1, x1, y2, x2) if file.orientation in SWAPPED else (x1, y1, x2, y2)
