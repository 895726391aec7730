"""Masks as polygons in text: `[[[120,40],[180,40],[180,90]],[[300,10],…]]`, per mille of the image's sides.

The form is ours. No model of the field that was read writes polygons of masks as text: GeoPixel and its like decode
them from a hidden state, and what RSCoVLM calls polygon are four corners.

A mask's outline goes along the borders of its pixels, and is then simplified (shapely, Douglas-Peucker): by the
greatest of TOLERANCES at which the rings, rounded and read back, keep an IoU of GOOD with the mask, and have no more
than POINTS points. Where none does, as with a chequerboard or a mist of specks, the closest within POINTS is written,
its largest parts. Rings begin at their uppermost, then leftmost point, go clockwise as seen, and stand in the order of
these points. A picture with a side over SIDE pixels is outlined on a grid of that many cells, which is as fine
as per mille is. Rings have no holes: a shape with one is cut through it, into parts that touch.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlm.masks.cells import cells, pooled
from vlm.masks.runs import Runs, area, check_runs, overlap, pixels_of, rings_to_runs, runs_of, spans
from vlm.masks.said import SaidMask

if TYPE_CHECKING:
    import shapely  # and scipy: imported where masks are written, for prompts alone need neither

FULL = 1000
"""Per mille: numbers run from 0 to this across the image, and down it."""
POINTS = 64
"""Points of all rings together, at most, in what is written. About ten tokens each."""
READ_POINTS = 4 * POINTS
"""Points in what is read; with more a text is unreadable."""
GOOD = 0.95
"""IoU with the mask that simplifying may not go below, where POINTS allow."""
TOLERANCES = (32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
"""Of simplifying, per mille of the longer side."""
STAIR = 0.3
"""Pixels below which simplifying changes nothing: the stairs of an outline of whole pixels are higher."""
SIDE = 1024
OVERHANG = 0.02
"""By this share of the side a point may lie outside, as a box may (`vlm.boxes.said`)."""
MERGED = 2048
"""Rectangles up to which a part is outlined as it is; one of more, a web of pixels, is outlined by its hull."""

Ring = list[list[int]]
"""[[x, y], …], per mille."""
_NUMBER = r"-?\d{1,9}(?:\.\d{1,9})?"
_POINT = rf"\[\s*+{_NUMBER}\s*+,\s*+{_NUMBER}\s*+\]"
_RING = rf"\[\s*+{_POINT}(?:\s*+,\s*+{_POINT})*+\s*+\]"
_ONE = re.compile(_RING)
_ALL = re.compile(rf"\[\s*+(?:{_RING}(?:\s*+,\s*+{_RING})*+)?\s*+\]")
_COMMA = re.compile(r"\s*+,?+\s*+")
_REST = re.compile(r"[\[\],.\d\s-]*+")


def rings_of(mask: Runs) -> list[Ring]:
    """The rings that a mask is written as; at least one where it is not empty."""
    if not area(mask):
        return []
    pixels = _pictured(mask)
    truth = runs_of(pixels)
    best: tuple[float, list[Ring]] = (0.0, [])
    for rings in _candidates(pixels):
        close = _iou(rings, truth)
        if close > best[0]:
            best = (close, rings)
        if close >= GOOD:
            break
    rings = best[1] if _iou(best[1], mask) else [_around(mask)]
    return sorted(map(_turned, rings), key=lambda ring: ring[0][::-1])


def _turned(ring: Ring) -> Ring:
    """Clockwise as seen, from the uppermost, then leftmost point."""
    twice = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
    ring = ring if twice > 0 else ring[::-1]
    first = min(range(len(ring)), key=lambda n: ring[n][::-1])
    return ring[first:] + ring[:first]


def _pictured(mask: Runs) -> np.ndarray:
    """(h, w) bool: the mask, on a grid of at most SIDE cells a side where the picture is larger."""
    height, width = check_runs(mask)
    if max(height, width) <= SIDE:
        return pixels_of(mask)
    grid = (min(height, SIDE), min(width, SIDE))
    true, every = cells(mask, grid)
    mostly = 2 * true > every
    return mostly if mostly.any() else pooled(mask, grid)


def _candidates(pixels: np.ndarray) -> Iterator[list[Ring]]:
    """Sets of rings of at most POINTS points, from coarse to fine."""
    height, width = pixels.shape
    shapes = _parts(pixels)
    tried: list[list[Ring]] = []
    for tolerance in TOLERANCES:
        step = tolerance * max(height, width) / FULL
        if 0 < step < STAIR:
            continue
        rings: list[Ring] = []
        count = 0
        for shape in shapes:
            for ring in _written(shape, step, width, height):
                count += len(ring)
                if count <= POINTS:
                    rings.append(ring)
            if count >= POINTS:
                break
        if rings and rings not in tried:
            tried.append(rings)
            yield rings


def _parts(pixels: np.ndarray) -> list[shapely.Polygon]:
    """Outlines along the borders of pixels, largest first: of parts that touch by sides, holes included."""
    import shapely
    from scipy import ndimage

    labels, count = ndimage.label(pixels)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    largest = np.argsort(-sizes, kind="stable")[: min(count, POINTS // 3)]  # a ring has three points at least
    step = np.diff(np.pad(np.isin(labels, largest), ((0, 0), (1, 1))).astype(np.int8), axis=1)
    top, left = np.nonzero(step == 1)
    boxes = shapely.box(left, top, np.nonzero(step == -1)[1], top + 1)
    part = labels[top, left]
    webs = [label for label in largest if np.count_nonzero(part == label) > MERGED]
    shapes = [shapely.convex_hull(shapely.multipolygons(boxes[part == label])) for label in webs]
    shapes += shapely.get_parts(shapely.union_all(boxes[~np.isin(part, webs)])).tolist()
    return sorted((shape.simplify(0) for shape in shapes), key=lambda shape: -shape.area)  # no points along straights


def _written(shape: shapely.Polygon, step: float, width: int, height: int) -> list[Ring]:
    """Rings of one part, simplified by `step` pixels, per mille; none where nothing of it is left."""
    import shapely

    if step:
        shape = shape.simplify(step)
    holes = sorted(shape.interiors, key=lambda hole: -shapely.Polygon(hole).area)[: POINTS // 3]
    shape = shapely.Polygon(shape.exterior, [hole for hole in holes if shapely.Polygon(hole).area > step * step])
    rings = []
    for piece in _without_holes(shape):
        corners = np.asarray(piece.exterior.coords)[:-1] * (FULL / width, FULL / height)
        ring = [point for point, _ in itertools.groupby(corners.round().astype(int).tolist())]
        if len(ring) > 1 and ring[0] == ring[-1]:
            ring.pop()
        if len(ring) > 2 and shapely.Polygon(ring).area:
            rings.append(ring)
    return rings


def _without_holes(shape: shapely.Polygon) -> list[shapely.Polygon]:
    """Parts without holes, which together are the shape: cut from top to bottom through the middle of each hole."""
    import shapely

    open_, done = [shape], []
    while open_:
        one = open_.pop()
        if not one.interiors:
            done.append(one)
            continue
        x1, y1, x2, y2 = one.bounds
        middle = one.interiors[0].centroid.x
        for half in (shapely.box(x1, y1, middle, y2), shapely.box(middle, y1, x2, y2)):
            open_ += [part for part in shapely.get_parts(one.intersection(half)) if part.geom_type == "Polygon"]
    return done


def _around(mask: Runs) -> Ring:
    """The box around a mask that rounding would lose, at least one per mille wide and high."""
    height, width = check_runs(mask)
    starts, ends = spans(mask)
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height
    high = starts // height < (ends - 1) // height  # runs that go on in the next column
    top = 0 if high.any() else int((starts % height).min())
    bottom = height - 1 if high.any() else int(((ends - 1) % height).max())
    x1, y1 = FULL * left // width, FULL * top // height
    x2, y2 = -(-FULL * (right + 1) // width), -(-FULL * (bottom + 1) // height)
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def _iou(rings: Sequence[Ring], truth: Runs) -> float:
    height, width = truth["size"]
    said = rings_to_runs([_scaled(np.ravel(ring), (width, height)) for ring in rings], (width, height))
    both, either = overlap(said, truth)
    return both / either


def _scaled(numbers: Sequence[float] | np.ndarray, size: Sequence[int]) -> list[float]:
    """[x1, y1, …] from per mille to pixels."""
    return (np.reshape(numbers, (-1, 2)) * (size[0] / FULL, size[1] / FULL)).ravel().tolist()


def rings_text(rings: Sequence[Ring]) -> str:
    """`[[[x,y],[x,y],…],…]`, without blanks."""
    return "[" + ",".join("[" + ",".join(f"[{x},{y}]" for x, y in ring) + "]" for ring in rings) + "]"


def read_rings(text: str, size: Sequence[int], repairs: Counter[str]) -> list[list[float]] | None:
    """Rings in pixels; None where a text states none, nor that there are none.

    Mended, and counted in `repairs`:

        fence     a code fence around the JSON, closed or not
        prose     words before or behind the one fence; without a fence they make it unreadable
        nesting   one ring without the list around it
        cut       cut off at the end: the rings that are whole
        points    a ring of fewer than three points says nothing
        outside   a ring with a point further outside the picture than OVERHANG says nothing
    """
    before, *fenced = text.strip().split("```")
    if len(fenced) > 2:
        return None
    behind = "".join(fenced[1:])
    repairs["fence"] += bool(fenced)
    repairs["prose"] += bool(fenced) * (bool(before.strip()) + bool(behind.strip()))
    plain = fenced[0].removeprefix("json").strip() if fenced else before
    if _ALL.fullmatch(plain):
        found = _ONE.findall(plain)
    elif _ONE.fullmatch(plain):
        repairs["nesting"] += 1
        found = [plain]
    elif whole := _whole(plain):
        repairs["cut"] += 1
        found = whole
    else:
        return None
    rings = [[float(number) for number in re.findall(_NUMBER, ring)] for ring in found]
    if sum(map(len, rings)) > 2 * READ_POINTS:
        return None
    kept = []
    for ring in rings:
        if len(ring) < 6:
            repairs["points"] += 1
        elif any(not -OVERHANG * FULL <= number <= (1 + OVERHANG) * FULL for number in ring):
            repairs["outside"] += 1
        else:
            kept.append(_scaled(ring, size))
    return kept if kept or not rings else None


def _whole(text: str) -> list[str]:
    """The whole rings of a text that is cut off in one; none where anything else is in it."""
    if not text.startswith("["):
        return []
    at, found = 1, []
    while match := _ONE.match(text, _past(text, at)):
        found.append(match[0])
        at = match.end()
    return found if _REST.fullmatch(text, at) else []


def _past(text: str, at: int) -> int:
    match = _COMMA.match(text, at)
    return match.end() if match else at


@dataclass(frozen=True)
class PolygonForm:
    """Masks as outlines."""

    name: str
    resized = False
    "As `GridForm.resized`."

    def write(self, mask: Runs, resized: Sequence[float] | None = None, name: str | None = None) -> str:
        return rings_text(rings_of(mask))

    def text(self, said: SaidMask, name: str | None = None) -> str:
        """The text of rings that were read, or are in pixels of `said.size`."""
        scale = (FULL / said.size[0], FULL / said.size[1])
        rings = [(np.reshape(ring, (-1, 2)) * scale).round().astype(int).tolist() for ring in said.rings or ()]
        return rings_text(rings)

    def read(
        self, text: str, size: Sequence[int], resized: Sequence[float] | None = None, name: str | None = None
    ) -> SaidMask:
        repairs = Counter[str]()
        rings = read_rings(text, size, repairs)
        return SaidMask(None, rings, rings is not None, dict(+repairs), (int(size[0]), int(size[1])))
