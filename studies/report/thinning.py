"""Fewer points that draw the same line.

A screen has some hundred columns of pixels, a run ten thousand steps. For each column the first, last, least and
greatest point are kept: drawn at that width, the line covers the same pixels as all points would (M4: Jugel et al.
2014, "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 7(10), theorem 1). No peak is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DIGITS = 5
"""Significant digits that are kept of a value: a screen shows three."""


def kept(steps: np.ndarray, columns: int, *values: np.ndarray) -> np.ndarray:
    """Indices, rising, of the points that stay: of each array of `values` (N,) the four of every column.

    steps: (N,), rising. At most columns · (2 + 2 · arrays) indices; all where there are no more points than that.
    """
    count = len(steps)
    if count <= columns * (2 + 2 * len(values)):
        return np.arange(count)
    span = steps[-1] - steps[0]
    column = np.minimum((steps - steps[0]) * columns // span, columns - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    stops = np.append(starts[1:], count)
    chosen = [starts, stops - 1]
    for one in values:
        for place in (np.argmin, np.argmax):
            chosen.append(np.array([start + place(one[start:stop]) for start, stop in zip(starts, stops, strict=True)]))
    return np.unique(np.concatenate(chosen))


def rounded(values: Sequence[float] | np.ndarray) -> list[float | int]:
    """As JSON shall hold them: DIGITS significant digits, whole numbers without a point."""
    short = [float(f"{value:.{DIGITS}g}") for value in values]
    return [int(value) if value.is_integer() and abs(value) < 1e15 else value for value in short]
