"""Average precision of ranked predictions, three ways. One equation each, over the same three things:

    precision   (R,) share of right ones among all predictions up to the 1st, 2nd … Rth right one, in the order of the
                ranks: precision is greatest at these places, recall rises only there
    found       (R,) how many right ones there are up to there: 1, 2 … R, unless some count several times
    truths      how many true objects there are: recall is found / truths

`voc07`    mean over the recalls 0, 0.1 … 1 of the greatest precision at a recall of at least that (VOC2007, 3.4.1)
`voc12`    area under the greatest precision at a recall of at least r, over r (VOC2010 and later)
`coco`     as voc07, over the recalls 0, 0.01 … 1
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Curve = Callable[[np.ndarray, np.ndarray, float], float]

SLACK = 1e-9
"""0.3 as 3 / 10 and as 0.1 * 3 differ in the last bit: a recall that reaches a point must count as reaching it."""
ELEVEN = np.arange(0.0, 1.1, 0.1)
HUNDRED = np.linspace(0.0, 1.0, 101)


def voc07(precision: np.ndarray, found: np.ndarray, truths: float) -> float:
    """11-point AP. A recall of 3 of 10 reaches the point 0.3, which it misses in the floats of public tools."""
    return _points(precision, found, truths, ELEVEN - SLACK)


def devkit07(precision: np.ndarray, found: np.ndarray, truths: float) -> float:
    """11-point AP in the floats of DOTA's devkit (dota_evaluation_task1.py of CAPTAIN-WHU/DOTA_devkit at 62891d3):
    `np.arange(0., 1.1, 0.1)` holds 0.30000000000000004, 0.6000000000000001 and 0.7000000000000001, which recalls of 3,
    6 and 7 of 10 do not reach."""
    return _points(precision, found, truths, ELEVEN)


def voc12(precision: np.ndarray, found: np.ndarray, truths: float) -> float:
    """Area under the curve."""
    return float(_envelope(precision) @ np.diff(found, prepend=0.0) / truths) if truths else 0.0


def coco(precision: np.ndarray, found: np.ndarray, truths: float) -> float:
    """101-point AP."""
    return _points(precision, found, truths, HUNDRED)


def _points(precision: np.ndarray, found: np.ndarray, truths: float, points: np.ndarray) -> float:
    if not len(precision) or not truths:
        return 0.0
    reached = np.searchsorted(found / truths, points)  # the first right one whose recall reaches each point
    return float(_envelope(precision)[reached[reached < len(precision)]].sum() / len(points))


def _envelope(precision: np.ndarray) -> np.ndarray:
    """(R,) the greatest precision there or later."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def weighted(right: np.ndarray, counted: np.ndarray, weight: np.ndarray, truths: float, curve: Curve) -> float:
    """AP of ranked predictions (M,), of which each counts `weight` times in a row.

    right, counted: whether each is right, and whether it counts at all. A prediction that counts twice is two, one
    behind the other, with an object each: the curve needs the last of them only, as precision rises from one to the
    next and recall is asked from where on it is reached.
    """
    places = np.flatnonzero(right & (weight > 0))
    found = np.cumsum(weight[places])
    return curve(found / np.cumsum(weight * counted)[places], found, truths)
