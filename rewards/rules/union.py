"""The area that boxes cover together: what has changed, or is built on, however it is cut into boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rewards.registry import register
from rewards.rules.boxes import AT_LEAST, MOST, Notation, check_frame, own
from rewards.rules.rows import Column, Inside, given, name_of, per_row
from vlm import boxes as vlm_boxes
from vlm.common.errors import DataError

if TYPE_CHECKING:
    from shapely import Geometry


@register("union")
def union(
    prompts: Any = None,
    completions: Sequence[Any] = (),
    boxes: Column = None,
    quads: Column = None,
    size: Column = None,
    resized: Column = None,
    written: Column = None,
    task: Column = None,
    shape: Literal["box", "quad"] = "box",
    notation: Notation = vlm_boxes.FALLBACK,
    applies_to: Sequence[str] = ("grounding",),
    inside: Inside = "answer",
    **columns: Any,
) -> list[float | None]:
    """F1 of areas, in [0, 1]: of the union of the said boxes, and of that of the true ones.

        r = 2 |S ∩ T| / (|S| + |T|)

    in pixels of the original image, and exact. No box has a partner: where a street of houses is built, one box around
    it and a box each cover about the same, and `iou` would pay the one that has the number right. TEOChat scores its
    change and building boxes by this, on a raster of 256² (ermongroup/TEOChat), which evaluations do.

    Said boxes are read as in `iou`: one that misses the picture covers nothing, an answer that is no boxes earns 0. Of
    more than 4 boxes for each true one (and 256) the first ones count. What overhangs the image is cut off, of true
    ones, too. shape, notation, resized, written: as in `iou`.

    Hacking: the whole picture earns 2a / (1 + a), a the share of it that is true, above 1/2 from a third on; nothing
    earns 0. Boxes said twice cover nothing more and cost nothing but words. Small objects beside a large one hardly
    count, and numbers of objects do not: where they matter, `iou` or `detect` are for it. No slope leads to what is
    missed altogether. `tests/rewards/test_union_reward.py` plays these.
    """
    name = "boxes" if shape == "box" else "quads"
    column = boxes if shape == "box" else quads
    read: dict[int, vlm_boxes.Said | None] = {}

    def judge(row: int, said: str) -> float | None:
        if not given("union", row, task, columns, **{name: column}, size=size):
            return None
        check_frame(row, own(row, notation, written), resized, columns)
        assert column is not None and size is not None
        truth = covered(column[row], size[row])
        if not truth.area:
            raise DataError(f"{name_of(row, columns)}: found {name} without area in the image, expected some")
        found = read[row] = vlm_boxes.read_said(
            said, own(row, notation, written), size[row], None if resized is None else resized[row]
        )
        if found is None:
            return 0.0
        shapes = found.boxes if shape == "box" else found.quads
        area = covered(shapes[: max(MOST * len(column[row]), AT_LEAST)], size[row])
        return float(min(1.0, 2 * area.intersection(truth).area / (area.area + truth.area)))

    return per_row(
        "union",
        completions,
        columns,
        task,
        applies_to,
        inside,
        judge,
        readable=lambda row, said: read[row] is not None,
    )


def covered(shapes: Sequence[Sequence[float]], size: Sequence[float]) -> Geometry:
    """What boxes or quadrilaterals cover of a picture of (width, height), in its pixels; nothing for none.

    What is no simple polygon (its edges cross, its corners lie on a line) covers nothing, as in `quad_iou`.
    """
    import numpy as np
    import shapely

    corners = [vlm_boxes.corners(one) if len(one) == 4 else one for one in shapes]
    polygons = shapely.polygons(np.reshape(np.asarray(corners, dtype=float), (-1, 4, 2)))
    return shapely.union_all(polygons[shapely.is_valid(polygons)]).intersection(shapely.box(0, 0, *size))
