"""What a batch of conversations did, in numbers (`stage.metrics.turns` says what each name means)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vlm.tools.dialogue import Dialogue
from vlm.tools.zoom import holds


class Row(NamedTuple):
    """One conversation."""

    calls: int
    "Tool turns."
    crops: int
    faults: int
    over: bool
    holds: bool | None
    "Whether a crop holds a true region; None where none is known, or nothing was shown."


def of_batch(dialogues: Sequence[Dialogue], inputs: Sequence[Mapping[str, Any]]) -> list[Row]:
    found = []
    for dialogue, row in zip(dialogues, inputs, strict=True):
        regions = row.get("regions") or []
        known = bool(regions) and any(crop["image"] == 0 for crop in dialogue.crops)
        held = holds(dialogue.crops, regions) if known else None
        found.append(Row(dialogue.calls, len(dialogue.crops), len(dialogue.faults), dialogue.over, held))
    return found


def means(rows: Sequence[Row], rewards: Sequence[float], group: int) -> dict[str, float]:
    """Over the rows of all processes. rewards: of each, NaN where none applies. group: completions of a prompt."""
    count, called = len(rows), [row for row in rows if row.calls]
    found = {
        "turns/mean": sum(row.calls for row in rows) / count + 1,
        "turns/calls": len(called) / count,
        "turns/over": sum(row.over for row in rows) / count,
        "turns/depth_entropy": entropy([row.calls for row in rows]),
        "zoom/share": sum(row.crops > 0 for row in rows) / count,
    }
    if calls := sum(row.calls for row in rows):
        found["turns/failed"] = sum(row.faults for row in rows) / calls
    if known := [row.holds for row in rows if row.holds is not None]:
        found["zoom/holds"] = sum(known) / len(known)
    if gains := list(_gains(rows, rewards, group)):
        found["zoom/gain"] = sum(gains) / len(gains)
    return found


def _gains(rows: Sequence[Row], rewards: Sequence[float], group: int) -> Iterator[float]:
    """Of each group in which some zoom and some do not: by how much the reward of the former is higher."""
    for start in range(0, len(rows), group):
        members = range(start, start + group)
        known = [(rows[number].crops > 0, rewards[number]) for number in members if not math.isnan(rewards[number])]
        with_crop, without = ([value for zoomed, value in known if zoomed is asked] for asked in (True, False))
        if with_crop and without:
            yield sum(with_crop) / len(with_crop) - sum(without) / len(without)


def entropy(values: Sequence[int]) -> float:
    """Of their distribution, in nats."""
    counts = Counter(values).values()
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts) + 0.0
