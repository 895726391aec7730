"""Masks as two projects keep them beside their pictures, as run lengths (`vlm.masks`).

Both count in pixels of the picture. Neither is what `samples.readers.masks` reads of our own rows: there a mask picture
has two values, and a ring goes along the edges of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from samples.readers.masks import of_picture
from samples.readers.rows import Place, RowFault
from vlm import masks
from vlm.common.errors import DataError
from vlm.pictures import images, rasters

Points = Sequence[Sequence[float]]
"""Corners [[x, y], …]."""


def something(runs: masks.Runs, field: str, found: str) -> masks.Runs:
    """A mask that must hold something. Raises: RowFault where it is empty."""
    if not masks.area(runs):
        raise RowFault("mask", field, f"{found}, which is empty", "the mask of something: it is what the row asks for")
    return runs


def plain(path: str, size: tuple[int, int], field: str) -> masks.Runs:
    """A picture of 0 and one other value that holds something. size: (width, height) of its image. Raises: RowFault."""
    path = str(rasters.plain(path))
    return something(of_picture(path, size, field), field, path)


def above(path: str, least: int, size: tuple[int, int], place: Place, field: str) -> masks.Runs:
    """The pixels of a picture whose grey value is above `least`, as a project's own loader takes them.

    size: (width, height) of its image. Pictures of more than two values are counted in `place.told`.
    Raises: RowFault for one that cannot be read, of another size, or without a pixel above `least`.
    """
    place.alone = False
    path = str(rasters.plain(path))  # a mask is read as it is stored, whatever is said of rasters
    try:
        picture = images.load(path)
    except DataError as error:
        raise RowFault("unreadable_image", field, f"{path} ({error})", "a picture that can be read") from error
    if picture.size != size:
        found = f"{path} of {picture.width} x {picture.height} pixels"
        raise RowFault("size_mismatch", field, found, f"the image's own {size[0]} x {size[1]}")
    grey = np.asarray(picture.convert("L"))
    inside = grey > least
    if not inside.any() and grey.any():
        found = f"{path} with the values {', '.join(map(str, np.unique(grey)))}"
        raise RowFault("mask", field, found, f"values above {least}: its project's loader takes all others for nothing")
    if np.unique(grey).size > 2:
        place.told[
            f"masks are pictures of more than two values: all above {least} count, as in the project's loader"
        ] += 1
    return something(masks.runs_of(inside), field, path)


def of_pixels(polygons: Sequence[Points], size: tuple[int, int]) -> masks.Runs:
    """The union of polygons whose corners are pixels, which belong to them as their edges do; OpenCV's fillPoly.

    An outline along the border pixels of a mask, as OpenCV's findContours gives it, becomes that mask again, where a
    ring along pixel edges would lose its right and lower border. size: (width, height); what lies beyond is cut off.
    """
    drawn = Image.new("1", size)
    draw = ImageDraw.Draw(drawn)
    for polygon in polygons:
        corners = [(float(x), float(y)) for x, y in polygon]
        if len(corners) == 1:
            draw.point(corners, 1)
        elif len(corners) == 2:
            draw.line(corners, 1)
        else:
            draw.polygon(corners, fill=1, outline=1)
    return masks.runs_of(np.asarray(drawn))
