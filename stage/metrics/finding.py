"""From a name in a log to its entry."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from samples import TASKS
from stage.metrics.metric import Metric, Stage

PHASES = ("rollout", "reference", "update")
"""Of a GRPO step, in which tokens pass through the policy."""
PLACEHOLDERS = {"task": rf"(?:{'|'.join(TASKS)})(?:/.+)?", "phase": "|".join(PHASES)}
"""What may stand for a <placeholder>; for the others anything may. A task is also a task/kind (`rewards.gated`)."""
PREFIX = re.compile(r"(?P<eval>eval[_/])|train/")
"""`eval_` is in metrics.jsonl; to dashboards transformers sends names as `train/…` and `eval/…`."""


@functools.cache
def pattern(name: str) -> re.Pattern[str]:
    """Of the logged names that an entry's name stands for; its groups are the placeholders."""
    parts = re.split(r"<(\w+)>", name)  # text, placeholder, text, placeholder, …, text
    found = (rf"(?P<{p}>{PLACEHOLDERS.get(p, '.+')})" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    return re.compile("".join(found))


def match(metrics: Iterable[Metric], name: str, stage: Stage | None = None) -> Metric | None:
    """The entry among `metrics` that a logged name belongs to; None for a name that nobody has registered.

    An exact name goes before a family's, and a family with more fixed text before one with less: `reward_raw/vqa_count`
    is a count. What is not measured in evaluations is not found with `eval_`, nor
    without it what is measured there alone.
    stage: which meaning is wanted where stages differ; None: the first.
    """
    prefix = PREFIX.match(name)
    rows = {"eval"} if prefix and prefix["eval"] else {"step", "end"}
    rest = name[prefix.end() :] if prefix else name
    found = [
        metric
        for metric in metrics
        if (stage is None or stage in metric.stages) and rows & {*metric.rows} and pattern(metric.name).fullmatch(rest)
    ]
    return max(found, key=lambda metric: (metric.name == rest, _fixed(metric.name)), default=None)


def _fixed(name: str) -> int:
    """Characters of a name outside of its placeholders."""
    return len(re.sub(r"<\w+>", "", name))
