"""Every quantity that a training run logs: name, meaning, unit, healthy range, and what to do outside of it.

    from stage.metrics import find

    metric = find("eval_reward_raw/vqa/count")
    metric.healthy is None or metric.healthy.holds(0.4)

docs/metrics.md is this registry as a page: `python -m stage.metrics > docs/metrics.md`. A test compares the two, finds
every name that small runs of all stages log, and has every entry logged by one of them. What a reward of yours logs
under a name of its own (`log_metric`) is not here; `find` returns None for it.

    metric           what an entry holds
    finding          from a logged name to its entry
    trainer          what transformers' Trainer and the run folder log in every stage, and the guards
    supervised       SFT (TRL)
    policy           GRPO (TRL)
    turns            GRPO with tools
    rewards          TRL's rewards, `rewards.gated`, `rewards.guarded`
    learned          the reward `score` and its probes
    preferences      training of the score model
    cost             time, tokens, pictures, memory
    page             the page
"""

from __future__ import annotations

from stage.metrics import cost, finding, learned, policy, preferences, rewards, supervised, trainer, turns
from stage.metrics.metric import Group, Metric, Range, Row, Stage

__all__ = ["GROUPS", "METRICS", "Group", "Metric", "Range", "Row", "Stage", "find"]

GROUPS: tuple[Group, ...] = (
    rewards.REWARDS,
    rewards.GATED,
    rewards.READ,
    rewards.FAULTS,
    policy.COMPLETIONS,
    turns.TURNS,
    policy.POLICY,
    policy.SAMPLER,
    learned.SCORES,
    learned.PROBES,
    supervised.SUPERVISED,
    preferences.TRAINED,
    preferences.HELD_OUT,
    trainer.EVERY,
    cost.PHASES,
    cost.WORK,
    cost.SPEED,
    cost.MEMORY,
)
"""In the order of the page."""
METRICS: tuple[Metric, ...] = tuple(metric for group in GROUPS for metric in group.metrics)


def find(name: str, stage: Stage | None = None) -> Metric | None:
    """The entry of a logged name; see `stage.metrics.finding.match`."""
    return finding.match(METRICS, name, stage)
