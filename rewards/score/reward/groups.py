"""Whole groups, also where the completions of one prompt lie in several processes.

TRL deals the completions of a generation out in order, per_device_train_batch_size · steps_per_generation to each
process. Where that is no multiple of num_generations, a group begins in one process and ends in the next, and TRL
normalises over all of it. So do ranks, the smallest spread, and the mask of a failed row: with several processes each
judges the rows of all of them, and keeps its own. A group is a run of neighbours with the same digest
(`Candidate.group`), within a process and across the border between two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from rewards.score.reward.health import Judged
from stage.parallel import agreement


def judged(own: Sequence[tuple[str, Judged]], judge: Callable[[list[Judged]], bool]) -> tuple[list[Judged], int]:
    """(this process's rows, in order, with the number of their group; how many of their groups were flattened).

    own: (digest of its group, the row). judge: sets the rewards of one group and says whether it was flattened.
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
