"""Polygons as WKT, as TEOChatlas gives the truth of box tasks, and the masks that its evaluator draws of shapes.

The evaluator (ermongroup/TEOChat, videollava/eval/detection.py at 569ce63; RSCoVLM's copy, rscovlm/eval/metric/
teochatlas_bench.py at bfc2ff7) draws polygons, and predicted boxes, into 256 x 256 pixels with Pillow: exteriors alone,
outline included. So a polygon is in pixels of the picture at 256 x 256, whatever the file's own size, and holes count
as inside.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from shapely import GEOSException, wkt
from shapely.geometry.base import BaseGeometry

from samples.readers.rows import RowFault, show

SIDE = 256
"""Pixels of the evaluator's frame, both ways."""
BEYOND = 1.0
"""Pixels by which corners may lie outside: they are rounded there."""
Ring = list[tuple[float, float]]


def rings(said: str, field: str) -> list[Ring]:
    """Exteriors of a POLYGON or MULTIPOLYGON in the 256 x 256 frame, corners (x, y); none for an empty one.

    Raises: RowFault for other geometry, and for corners outside the frame.
    """
    try:
        with np.errstate(invalid="ignore"):  # corners that are no numbers are refused below
            shape: BaseGeometry = wkt.loads(said)
    except (GEOSException, TypeError, ValueError) as error:
        raise RowFault("wrong_type", field, f"{show(said)} ({error})", "a polygon as WKT") from error
    parts = list(shape.geoms) if shape.geom_type in ("MultiPolygon", "GeometryCollection") else [shape]
    if any(part.geom_type != "Polygon" for part in parts):
        raise RowFault("wrong_type", field, f"a {shape.geom_type}", "a POLYGON or MULTIPOLYGON as WKT")
    found = [[(float(x), float(y)) for x, y, *_ in part.exterior.coords] for part in parts if not part.is_empty]
    for x, y in (corner for ring in found for corner in ring):
        if not (-BEYOND <= x <= SIDE + BEYOND and -BEYOND <= y <= SIDE + BEYOND):
            expected = f"pixels of the picture at {SIDE} x {SIDE}, in which TEOChat's evaluator draws it"
            raise RowFault("box_outside", field, f"the corner ({x:g}, {y:g})", expected)
    return found


def drawn(shapes: Iterable[Ring], size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """(height, width) bool: the union of shapes, as Pillow fills them with their outline; size: (width, height)."""
    canvas = Image.new("L", size, 0)
    pen = ImageDraw.Draw(canvas)
    for ring in shapes:
        pen.polygon(ring, outline=1, fill=1)
    return np.asarray(canvas, dtype=bool)


def corners(box: Iterable[float], width: float, height: float) -> Ring:
    """A box [x1, y1, x2, y2] of a picture of that size as a ring of the 256 x 256 frame, as the evaluator draws it."""
    x1, y1, x2, y2 = box
    x1, x2, y1, y2 = x1 / width * SIDE, x2 / width * SIDE, y1 / height * SIDE, y2 / height * SIDE
    return [(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)]
