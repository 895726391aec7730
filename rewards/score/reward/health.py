"""What is watched while a learned reward trains a policy: is it alive, does it look at the image, is it being gamed?

The metrics `score/…` and what they say: `stage.metrics.learned`; those of `probes` are logged beside them. Per row, in
TRL's completions table: `score/raw`.

Correlations are Pearson's, of values centred on their group's mean, over the last WINDOW rows: within its group is
where a completion gains by being longer. Means over rows and groups are exact over all processes; where a group lies in
two of them, each counts its part as one.

The names never depend on the outcome. What has no value (no row was scored, a correlation without variance) is NaN,
which TRL leaves out of its average and logs as null; with several processes it is left to those that have one, because
TRL averages over processes, and one NaN would hide the others' values.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rewards.score.reward.shaping import Judged, spread
from vlm.common.processes import processes

WINDOW = 512
Log = Callable[[str, float], None]


class WithinGroups:
    """Pearson correlation of x and y, each centred on the mean of its group, over the last `window` rows."""

    def __init__(self, window: int = WINDOW) -> None:
        self.pairs: deque[tuple[float, float]] = deque(maxlen=window)

    def add(self, rows: Iterable[tuple[int, float | None, float | None]]) -> None:
        """(group, x, y) of one call's rows; a row that lacks either counts nowhere."""
        groups = defaultdict(list)
        for group, x, y in rows:
            if x is not None and y is not None:
                groups[group].append((x, y))
        for pairs in groups.values():
            mean_x, mean_y = (statistics.fmean(values) for values in zip(*pairs, strict=True))
            self.pairs.extend((x - mean_x, y - mean_y) for x, y in pairs)

    def value(self) -> float:
        """In [-1, 1]; NaN where x or y never varies within a group."""
        xx, yy, xy = (math.fsum(p[i] * p[j] for p in self.pairs) for i, j in ((0, 0), (1, 1), (0, 1)))
        tiny = 1e-12 * max(1, len(self.pairs))  # what is left of equal numbers less their mean
        return max(-1.0, min(1.0, xy / math.sqrt(xx * yy))) if xx > tiny and yy > tiny else math.nan


class Health:
    """Keeps the running correlations and logs a call. rules: names of the rule rewards that are watched beside."""

    def __init__(self, rules: Sequence[str] = (), references: bool = True, window: int = WINDOW) -> None:
        self.references = references
        self.correlations = {name: WithinGroups(window) for name in ("length", "format", *rules)}

    def log(self, log: Log, rows: Sequence[Judged], flattened: int, known: Sequence[bool], seconds: float) -> None:
        """One call. flattened: groups below `min_group_std`; known: for each reference, whether it was remembered."""
        groups = list(_by_group(rows).values())
        scores = [row.score for row in rows if row.score is not None]
        record(log, "score/mean", scores)
        record(log, "score/std", [statistics.stdev(scores)] if len(scores) > 1 else [])
        per_group = [[row.score for row in group if row.score is not None] for group in groups]
        record(log, "score/group_std", [statistics.stdev(group) for group in per_group if len(group) > 1])
        if self.references:
            pairs = [(row.score, row.reference) for row in rows]
            record(log, "score/margin", [s - r for s, r in pairs if s is not None and r is not None])
            record(log, "score/reference_known", [float(one) for one in known])
        record(log, "score/scored", [float(row.score is not None) for row in rows])
        record(log, "score/failed", [float(row.failed) for row in rows])
        log("score/masked_count", float(sum(row.reward is None for row in rows)))
        rewards = [[row.reward for row in group if row.reward is not None] for group in groups]
        record(log, "score/zero_spread_groups", [float(spread(group) == 0) for group in rewards if len(group) > 1])
        # ones and zeros, one per group, so that TRL's average over processes is a share of groups
        record(log, "score/flattened_groups", [float(number < flattened) for number in range(len(groups))])
        self._correlate(log, rows)
        log("score/seconds", seconds)

    def state_dict(self) -> dict[str, Any]:
        return {name: correlation.pairs for name, correlation in self.correlations.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, pairs in state.items():
            self.correlations[name].pairs.extend(pairs)

    def _correlate(self, log: Log, rows: Sequence[Judged]) -> None:
        for name, correlation in self.correlations.items():
            if name == "length":
                pairs = [(row.group, row.score, float(row.length)) for row in rows]
            elif name == "format":
                pairs = [(row.group, row.reward, float(row.well_formed)) for row in rows]
            else:
                pairs = [(row.group, row.score, row.rules[name]) for row in rows]
            correlation.add(pairs)
            record(log, f"score/corr_{name}", [correlation.value()])


def record(log: Log, name: str, values: Sequence[float]) -> None:
    """Log each value, or NaN where there is none and no other process could have one."""
    values = [value for value in values if not math.isnan(value)]
    for value in values or ([math.nan] if processes() == 1 else []):
        log(name, value)


def _by_group(rows: Iterable[Judged]) -> dict[int, list[Judged]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return groups
