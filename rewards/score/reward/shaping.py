"""From scores to rewards, one group at a time: the four variants of the reward `score`.

`scores` holds one raw score per completion of the group, None where the completion fails the format (it was not
scored). Scores of a Bradley-Terry model have no zero and no scale of their own: only differences mean something, so
`reference` and `rank` are the variants to train with; `raw` and `sigmoid` are for comparison.

    reference   1 - exp(-beta · max(0, s(y) - s(y_ref)))   ScoreRS (arXiv 2503.00743); in [0, 1)
    sigmoid     1 / (1 + exp(-s(y)))                       in (0, 1)
    rank        share of the group's other completions that it beats, a tie counting half; in [0, 1]
    raw         s(y)                                       unbounded

TRL deals the completions of a generation out in order, per_device_train_batch_size · steps_per_generation to each
process. Where that is no multiple of num_generations, a group begins in one process and ends in the next, and TRL
normalises over all of it. So do ranks, the smallest spread, and the mask of a failed row: with several processes each
judges the rows of all of them, and keeps its own (`whole_groups`).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from stage.parallel import agreement

Variant = Literal["reference", "raw", "sigmoid", "rank"]


@dataclass(slots=True)
class Judged:
    """One row as the reward left it."""

    group: int = 0
    "Number of its group in the call, over all processes."
    length: int = 0
    "Characters of the answer."
    well_formed: bool = False
    failed: bool = False
    "It should have been scored and could not be."
    score: float | None = None
    reference: float | None = None
    reward: float | None = None
    "None where its group is masked."
    rules: dict[str, float | None] = field(default_factory=dict)


def shape(
    variant: Variant, scores: Sequence[float | None], reference: float | None = None, beta: float = 0.2
) -> list[float]:
    """Rewards of one group, in order.

    A completion that fails the format gets 0; under `raw`, where 0 may be a good score, the group's lowest score if
    that is below 0. reference: the score of the reference answer, for the variant of that name.
    """
    if variant == "rank":
        return _ranks(scores)
    if variant == "raw":
        floor = min([0.0, *(score for score in scores if score is not None)])
        return [floor if score is None else score for score in scores]
    if variant == "sigmoid":
        return [0.0 if score is None else math.exp(-np.logaddexp(0.0, -score)) for score in scores]
    return [0.0 if score is None else gain(score, reference, beta) for score in scores]


def gain(score: float, reference: float, beta: float = 0.2) -> float:
    """1 - exp(-beta · max(0, score - reference)): nothing for an answer no better than the reference, at most 1."""
    return -math.expm1(-beta * max(0.0, score - reference))


def _ranks(scores: Sequence[float | None]) -> list[float]:
    """What fails the format is below everything, and itself gets 0. A group of one has nobody to beat: 1/2."""
    levels = [-math.inf if score is None else score for score in scores]
    ranks = []
    for level in levels:
        beaten = sum(other < level for other in levels) + (levels.count(level) - 1) / 2
        ranks.append(0.0 if level == -math.inf else beaten / (len(levels) - 1) if len(levels) > 1 else 0.5)
    return ranks


def spread(rewards: Sequence[float]) -> float:
    """Standard deviation of a group's rewards as TRL computes it (divisor n - 1); 0 for fewer than two."""
    return statistics.stdev(rewards) if len(rewards) > 1 else 0.0


def flatten(rewards: Sequence[float], scored: Sequence[bool], minimum: float) -> tuple[list[float], bool]:
    """(rewards, whether they were changed): where the scored rewards of a group spread less than `minimum`, they
    become their mean.

    TRL divides a group's rewards by their standard deviation, so that differences of 1e-3 push as hard as differences
    of 1; where they are the score model's noise, the group should not push at all. Completions that fail the format
    keep their reward: their distance from the others is no noise.
    """
    those = [reward for reward, there in zip(rewards, scored, strict=True) if there]
    if len(those) < 2 or not 0 < spread(those) < minimum:
        return list(rewards), False
    mean = statistics.fmean(those)
    return [mean if there else reward for reward, there in zip(rewards, scored, strict=True)], True


def whole_groups(own: Sequence[tuple[str, Judged]], judge: Callable[[list[Judged]], bool]) -> tuple[list[Judged], int]:
    """(this process's rows, in order, with the number of their group; how many of their groups were flattened).

    own: (digest of its group, the row); a group is a run of neighbours with the same digest (`Candidate.group`), within
    a process and across the border between two. judge: sets the rewards of one group, says whether it was flattened.
    Collective: every process calls it, also without rows.
    """
    parts = agreement.gather(list(own))
    everyone = [pair for part in parts for pair in part]
    flattened = set()
    for number, (_, run) in enumerate(itertools.groupby(everyone, key=lambda pair: pair[0])):
        rows = [row for _, row in run]
        if judge(rows):
            flattened.add(number)
        for row in rows:
            row.group = number
    begin = sum(map(len, parts[: agreement.rank()]))
    rows = [row for _, row in everyone[begin : begin + len(own)]]
    return rows, len({row.group for row in rows} & flattened)
