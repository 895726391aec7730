"""Main effects of a matrix: what a value of one axis changes, on the mean over all values of the others.

Of {Zero, R1} × {with, without}, the effect of R1 is the mean of (R1-with, R1-without) less that of (Zero-with,
Zero-without): both columns of the table tell the same thing, so each counts half. Seeds and questions pair as in
`rows.differences`. An effect that depends on the other axis (an interaction) does not show in it; the single
differences do show it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from studies.study import Study
from studies.tables.rows import LEVEL, Row, Runs, benchmarks, of_seeds, scheme
from vlm.common.bootstrap import mean_of, quantiles, replicates
from vlm.common.errors import DataError

Cells = Mapping[tuple[str, ...], str]
"""A value of each axis → the label of the run that stands for it."""


def effects(
    runs: Runs, study: Study, names: Iterable[str], *, level: float = LEVEL, count: int = 4000, seed: int = 0
) -> list[Row]:
    """A row for each axis, each of its values but the first, benchmark and metric; none for a matrix of one axis.

    Raises: DataError where runs that pair have other questions.
    """
    axes = {axis: values for axis, values in study.axes.items() if len(values) > 1}
    if len(axes) < 2:
        return []
    cells = labelled(study, runs)
    out = []
    for benchmark, metric in itertools.product(benchmarks(runs), names):
        for axis, value, pairs in contrasts(axes, cells):
            first = axes[axis][0]
            sides = [[of_seeds(runs, label, benchmark, metric) for label in side] for side in zip(*pairs, strict=True)]
            common = [one for one in sides[0][0] if all(one in found for side in sides for found in side)]
            if not common:
                continue
            before, after = ([mean_of([found[one] for found in side]) for one in common] for side in sides)
            where = f"{axis} {value} against {first}, {metric}"
            try:
                low, high = quantiles(replicates(after, before, count=count, seed=seed), level)
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            own = tuple(y.value - x.value for x, y in zip(before, after, strict=True))
            over = ", ".join(f"{b} − {a}" for a, b in pairs)
            note = f"main effect, the mean of {over}; seeds {', '.join(common)} paired by name"
            out.append(
                Row("difference", benchmark, metric, f"{axis} {value}", statistics.fmean(own), low, high, level,
                    len(before[0].keys), len(own), own, f"{axis} {first}", scheme(after), note=note)
            )  # fmt: skip
    return out


def labelled(study: Study, runs: Runs) -> Cells:
    """Each combination of values that has a run among `runs`; a run of several values stands for all of them."""
    found: dict[tuple[str, ...], str] = {}
    for run in study.runs:
        if run.label in runs:
            own = [_values(run.values.get(axis), values) for axis, values in study.axes.items()]
            found |= dict.fromkeys(itertools.product(*own), run.label)
    return {
        tuple(value for value, values in zip(cell, study.axes.values(), strict=True) if len(values) > 1): label
        for cell, label in found.items()
    }


def _values(stated: str | None, values: list[str]) -> list[str]:
    return values if stated is None else [stated] if stated in values else stated.split("+")


def contrasts(axes: Mapping[str, Sequence[str]], cells: Cells) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(axis, value, the labels (with the axis's first value, with this one) of each combination of the others).

    Where one is missing, or both are one run, whom the axis does not concern, the combination is left out; an axis with
    fewer than two is not compared, for its effect is then a difference of two labels.
    """
    for place, (axis, (first, *others)) in enumerate(axes.items()):
        rest = [values for number, values in enumerate(axes.values()) if number != place]
        for value in others:
            pairs = []
            for fixed in itertools.product(*rest):
                a, b = (cells.get((*fixed[:place], one, *fixed[place:])) for one in (first, value))
                if a is not None and b is not None and a != b:
                    pairs.append((a, b))
            if len(dict.fromkeys(pairs)) > 1:
                yield axis, value, list(dict.fromkeys(pairs))
