"""Non-maximum suppression: of objects that overlap by more than a threshold, the first in order stays.

`suppressed` is the fast path, `suppressed_one_by_one` says the same in plain words. Overlaps are those of
`vlm.boxes.quad_iou`, of boxes `vlm.boxes.iou`: areas of the shapes themselves. mmrotate turns quadrilaterals into
rectangles before (mmrotate/evaluation/metrics/dota_metric.py at 00fd002), with the same threshold of 0.1; the DOTA
devkit takes 0.3 (ResultMerge.py at 5288789).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlm.boxes import iou, ious, quad_iou, quad_ious

THRESHOLD = 0.1
BLOCK = 256
"""Objects that are compared at once with those that stay: 20,000 of these take 80 MB."""


def suppressed_one_by_one(shapes: Sequence[Sequence[float]], threshold: float = THRESHOLD) -> list[int]:
    """Numbers of the shapes that stay. shapes: quadrilaterals, or boxes, in order of preference."""
    overlap: Callable[..., float] = iou if shapes and len(shapes[0]) == 4 else quad_iou
    kept: list[int] = []
    for number, shape in enumerate(shapes):
        if all(overlap(shape, shapes[other]) <= threshold for other in kept):
            kept.append(number)
    return kept


def suppressed(shapes: Sequence[Sequence[float]], threshold: float = THRESHOLD) -> list[int]:
    """The same, many at once."""
    overlaps: Callable[..., Any] = ious if shapes and len(shapes[0]) == 4 else quad_ious
    kept: list[int] = []
    for start in range(0, len(shapes), BLOCK):
        block = list(range(start, min(start + BLOCK, len(shapes))))
        if kept:
            table = overlaps([shapes[n] for n in block], [shapes[n] for n in kept])  # (block, kept)
            block = [n for n, most in zip(block, table.max(axis=1), strict=True) if most <= threshold]
        table = overlaps([shapes[n] for n in block], [shapes[n] for n in block])
        gone = np.zeros(len(block), dtype=bool)
        for place, number in enumerate(block):
            if not gone[place]:
                kept.append(number)
                gone |= table[place] > threshold
    return kept
