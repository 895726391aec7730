"""Rewards: what a completion earned, as callables of TRL's signature.

``f(prompts, completions, **columns) -> list[float | None]``; the columns are the Sample's fields, one value
per row, and None says "this reward does not apply to this row".

Built in: ``format``, ``exact_match``, ``choice``, ``label_set``, ``numeric``, ``count``, ``iou``, ``union``,
``detect``, ``mask``, ``caption``, ``zoom`` (rewards/rules/) and ``gated``, the composition of the ScoreRS paper
(rewards/gated.py). ``resolve`` also takes plugins by "pkg.module:function", "path/file.py:function", the name given to
``register``, or an entry point of the group "nadir.rewards".
"""

from rewards.columns import check_data
from rewards.gated import Gated, check_tasks
from rewards.registry import names, options_of, register, resolve
from rewards.rules import (
    Caption,
    choice,
    count,
    detect,
    exact_match,
    format,
    iou,
    label_set,
    mask,
    numeric,
    union,
    zoom,
)
from rewards.score.reward.score import Score

__all__ = [
    "Caption",
    "Gated",
    "Score",
    "check_data",
    "check_tasks",
    "choice",
    "count",
    "detect",
    "exact_match",
    "format",
    "iou",
    "label_set",
    "mask",
    "names",
    "numeric",
    "options_of",
    "register",
    "resolve",
    "union",
    "zoom",
]
