"""A slope for shapes that overlap nothing: the nearer a shape's centre is to the true one's, the more it earns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vlm.common.errors import RecipeError


def check_distance(reward: str, weight: float) -> None:
    """Raises RecipeError for a weight that is not in [0, 1)."""
    if not 0 <= weight < 1:
        raise RecipeError(f"reward {reward!r}: distance is {weight}; expected a weight in [0, 1), 0 for none")


def with_distance(worth: Any, overlap: Any, near: Any, weight: float) -> Any:
    """What pairs of a shape and a true one are worth, in [0, 1], with a slope where they do not overlap.

        weight + (1 − weight) · worth    where IoU > 0
        weight · near                    where not

    So no pair that is apart is worth more than one that overlaps, however little, and a perfect pair stays at 1.
    worth, overlap (IoU), near (`nearness`): arrays of one shape, each in [0, 1].

    In the spirit of the positional reward of RSGround-R1 (arXiv 2601.21634): "continuous and distance-aware" is all
    that its abstract says of it, the formula is ours.
    """
    import numpy as np

    return np.where(overlap > 0, weight + (1 - weight) * np.asarray(worth), weight * near)


def nearness(shapes: Any, truth: Any, size: Sequence[float]) -> Any:
    """How near the centres of ``shapes`` are to those of ``truth``: 1 less their distance by the picture's diagonal.

    shapes (P, 4 or 8), truth (T, 4 or 8), one at least of each: boxes or quadrilaterals in pixels of a picture of
    ``size`` (width, height). Returns (P, T), in [0, 1]; 0 for a shape without width or height, of which many fit
    anywhere.

    The diagonal, not the object's size, is the measure: a box that misses a small object is many of its sizes away, and
    there a measure by size is flat. So all objects, small or large, have the same slope everywhere in the picture.
    """
    import numpy as np

    first, second = (np.reshape(np.asarray(some, dtype=float), (len(some), -1, 2)) for some in (shapes, truth))
    apart = np.linalg.norm(first.mean(axis=1)[:, None] - second.mean(axis=1)[None], axis=-1)  # (P, T), pixels
    extended = np.all(first.max(axis=1) > first.min(axis=1), axis=-1)
    return np.where(extended[:, None], np.clip(1 - apart / math.hypot(*size), 0.0, 1.0), 0.0)
