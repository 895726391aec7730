"""Numbers about conversations with tools: how often and how deep, whether crops show what they should, what it gains.

Over the questions that were asked with tools at hand (`Prediction.turns`); those that a benchmark asks without are not
among them. Names are those that GRPO logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evals.predictions import Prediction
from evals.scoring.report import Scores
from vlm.common.bootstrap import Statistic, means, ratio
from vlm.tools import zoom
from vlm.tools.zoom import HELD

GAIN = "zoom/gain:"
"""Begins the names of gains; what is scored follows."""
_TOOLS = "of the questions that were asked with tools"
_TRUE = "of the questions with true regions"
CONVENTIONS = {
    "turns/mean": f"turns of the model, one and as many more as calls were answered; a number, no percentage; {_TOOLS}",
    "turns/calls": f"a tool was called, and answered; {_TOOLS}",
    "turns/depth_entropy": f"entropy of the number of calls, in nats, no percentage; {_TOOLS}",
    "turns/failed": "calls that were refused, or whose tool failed, of all that were answered",
    "turns/over": f"called once more than turns.limit, or with no room left; {_TOOLS}",
    "zoom/share": f"a region was shown; {_TOOLS}",
    "zoom/holds": f"a crop has {HELD:.0%} of a true region's area or more; {_TRUE} that zoomed",
    "zoom/holds_of_all": f"the same; {_TRUE} that were asked with tools, whether they zoomed or not",
}


def calls(row: Prediction) -> int:
    """Tool turns of a conversation."""
    return sum(turn["role"] == "tool" for turn in row.turns or ())


def holds(row: Prediction) -> bool:
    """Whether a crop holds a true region of the first picture."""
    return zoom.holds(row.crops or (), row.regions or ())


def chains(predictions: Sequence[Prediction]) -> Scores:
    """None where no question was asked with tools."""
    rows, out = [row for row in predictions if row.turns is not None], Scores()
    if not rows:
        return out
    depth = {row.key: calls(row) for row in rows}
    true = [row for row in rows if row.regions]
    found: dict[str, Statistic] = {
        "turns/mean": means([{key: 1.0 + count for key, count in depth.items()}]),
        "turns/calls": means([{key: float(count > 0) for key, count in depth.items()}]),
        "turns/depth_entropy": entropy(depth),
        "turns/over": means([{row.key: float(bool(row.over)) for row in rows}]),
        "zoom/share": means([{row.key: float(bool(row.crops)) for row in rows}]),
    }
    if any(depth.values()):
        found["turns/failed"] = ratio({row.key: (len(row.faults or ()), depth[row.key]) for row in rows})
    if zoomed := {row.key: float(holds(row)) for row in true if row.crops}:
        found["zoom/holds"] = means([zoomed])
    if true:
        found["zoom/holds_of_all"] = means([{row.key: float(holds(row)) for row in true}])
    for name, convention in CONVENTIONS.items():
        if name in found:
            out.add(name, found[name], convention)
    return out


def entropy(depth: Mapping[str, int]) -> Statistic:
    """-Σ p ln p over the shares of questions with each number of calls."""
    keys = sorted(depth)
    kinds = np.array([[float(depth[key] == count) for count in sorted({*depth.values()})] for key in keys])  # (N, K)

    def of(drawn: np.ndarray) -> np.ndarray:
        shares = drawn @ kinds / drawn.sum(1, keepdims=True)
        return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1) + 0.0

    return Statistic(keys, of)


def gained(report: Scores, without: Scores, predictions: Sequence[Prediction]) -> Scores:
    """What regions that were shown add to each number: with them less without, over the questions that zoomed.

    report, without: over the same questions, the second asked without the zoom. The interval is of the pairs.
    """
    zoomed, out = {row.key for row in predictions if row.crops}, Scores()
    for name, (statistic, _) in report.found.items():
        if any(mark in name for mark in "[:") or name == "format" or name not in without.found:
            continue
        if found := difference(without.found[name][0], statistic, zoomed):
            said = f"{name} with regions shown, less that of control no_zoom; over the questions that zoomed, paired"
            out.add(GAIN + name, found, said)
    return out


def difference(a: Statistic, b: Statistic, among: set[str]) -> Statistic | None:
    """b - a over the questions of both that are `among` these; None where there are none."""
    keys = [key for key in b.keys if key in among and key in set(a.keys)]
    if not keys:
        return None
    places = [[{key: at for at, key in enumerate(one.keys)}[key] for key in keys] for one in (a, b)]

    def of(drawn: np.ndarray) -> np.ndarray:
        values = []
        for one, order in zip((a, b), places, strict=True):
            whole = np.zeros((len(drawn), len(one.keys)))
            whole[:, order] = drawn
            values.append(one.of(whole))
        return values[1] - values[0]

    return Statistic(keys, of, most=min(a.most, b.most))
