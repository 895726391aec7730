"""Which metrics stand together, under what title, and what a reader should see in them (`stage.metrics`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from stage.metrics import Metric, find
from stage.metrics.metric import Stage


@dataclass(frozen=True)
class Panel:
    """Title, a pattern for the whole key (the group `name`, if there is one, names the line), and how to read it."""

    title: str
    pattern: str
    note: str = ""
    unit: str = ""
    noisy: bool = True
    "Whether a smoothed line helps."


@dataclass(frozen=True)
class Section:
    """A chapter of the report."""

    name: str
    title: str
    note: str
    panels: tuple[Panel, ...]


TRAINING = (
    Panel("Reward", r"reward", "Weighted sum of all rewards, mean over completions."),
    Panel("Loss", r"loss", "Of GRPO it hovers about 0 and says little; of SFT it falls."),
    Panel("Token accuracy", r"mean_token_accuracy", "Share of tokens that the model had first."),
    Panel("KL to the reference", r"kl", "How far the policy has gone from where it began.", "nats a token"),
    Panel("Entropy", r"entropy", "Near 0 the policy says one thing only, and groups teach nothing.", "nats a token"),
    Panel(
        "Completion length", r"completions/(?P<name>mean|min|max)_length", "Rising without reward: padding.", "tokens"
    ),
    Panel("Cut completions", r"completions/clipped_ratio", "Share that met max_completion_length before its end."),
    Panel("Groups without spread", r"frac_reward_zero_std", "Share of groups that teach nothing."),
    Panel("Spread of the reward", r"reward_std", "Standard deviation of rewards."),
    Panel("Gradient norm", r"grad_norm", "Before clipping."),
    Panel("Clipped by the trust region", r"clip_ratio/(?P<name>\w+)", "Share of tokens; 0 where a batch is used once."),
    Panel("Learning rate", r"learning_rate", noisy=False),
    Panel("Steps skipped", r"guards/skipped_steps", "Steps whose loss or gradient was not finite."),
)
TURNS = (
    Panel("Turns", r"turns/mean", "Of the model in a completion, mean; 1 where no tool is called.", "turns"),
    Panel("Completions that call", r"turns/calls|zoom/(?P<name>share)", "A tool at all; the share that saw a region."),
    Panel("A crop holds the truth", r"zoom/holds", "Of completions that saw a region, where the true one is known."),
    Panel("Gain of those that zoom", r"zoom/gain", "Reward against completions of the same prompt that do not zoom."),
    Panel("Calls that failed", r"turns/failed", "Share answered by an error."),
    Panel("Over the limit", r"turns/over", "Share that called once more than it may: not learned from."),
    Panel(
        "Entropy of depth", r"turns/depth_entropy", "Of the number of calls; 0 where all call equally often.", "nats"
    ),
)
REWARDS = (
    Panel("Rewards", r"rewards/(?P<name>.+)/mean", "Mean of each reward, before its weight."),
    Panel(
        "Components, raw",
        r"reward_raw/(?P<name>(?!.*_count$).+)",
        "Before gate and weight, over the rows that each applies to.",
    ),
    Panel("Spread of each reward", r"rewards/(?P<name>.+)/std", "Standard deviation over completions."),
    Panel("Rows of a task", r"reward_raw/(?P<name>.+)_count", "Rows that a component's mean is over, a process."),
    Panel("Failed rewards", r"reward_faults/(?P<name>.+)", "Rows whose reward raised or timed out: masked, never 0."),
)
LEARNED = (
    Panel("Learned score", r"score/(?P<name>mean|margin)", "Raw score of the answers: up is what it is trained for."),
    Panel(
        "Shuffled-image control",
        r"score/shuffled_won",
        "Share of answers that score higher with their own picture; near 0.5 the score model does not look.",
    ),
    Panel("Gap to a wrong picture", r"score/shuffled_gap", "Mean score with the own picture less that with another."),
    Panel(
        "Drift on the probe set",
        r"score/probe_drift",
        "Distance of fixed answers from their first scores; above rounding, the model is not what it was.",
    ),
    Panel(
        "Correlation within groups",
        r"score/corr_(?P<name>.+)",
        "Of the score with each rule; with length: near 1, longer answers are what pays.",
    ),
    Panel("Spread of the score", r"score/(?P<name>std|group_std)", "Over a call, and within its groups."),
    Panel(
        "Groups that teach nothing",
        r"score/(?P<name>zero_spread_groups|flattened_groups)",
        "Share of groups whose rewards are all the same, or were made so.",
    ),
    Panel("Scored and failed", r"score/(?P<name>scored|failed|reference_known)", "Shares of rows."),
    Panel("Mean of the probe set", r"score/probe_mean", "Of fixed answers; flat, unless the score model changes."),
    Panel("Other measures of the score", r"score/(?P<name>.+)"),
)
COST = (
    Panel("Seconds of a step", r"(?P<name>step_time)|time/(?P<phase>.+)", "Whole, and by phase.", "s"),
    Panel("Tokens computed", r"tokens/(?P<name>.+)", "Against the least possible, if each prompt came once, unpadded."),
    Panel("Padding", r"padding/(?P<name>.+)", "Share of places that hold no token."),
    Panel("Pictures encoded", r"images/(?P<name>.+)", "Through the vision tower, against the least possible."),
    Panel("Tokens a second", r"throughput/tokens", "Of prompts and completions."),
    Panel("Model FLOPs utilisation", r"throughput/mfu", "Of the ideal tokens, over the GPU's peak."),
    Panel("Peak memory", r"memory/peak_gib", "", "GiB"),
)
SECTIONS = (
    Section("training", "Training", "", TRAINING),
    Section("rewards", "Reward components", "", REWARDS),
    Section(
        "turns", "Turns and zooms", "Does it look closer, does it look at the right place, and does it help?", TURNS
    ),
    Section(
        "score",
        "Health of the learned reward",
        "Is it alive, does it look at the picture, is it being gamed?",
        LEARNED,
    ),
    Section("cost", "Throughput", "A step of one process; over logs of several steps, means.", COST),
)
OTHERS = Section("others", "Everything else that was logged", "", ())
DULL = {"epoch", "num_tokens"}
"""Straight lines."""


def placed(keys: Iterable[str]) -> list[tuple[Section, list[tuple[Panel, dict[str, str]]]]]:
    """Sections → panels → {key: name of its line}, of the metrics that there are. Each key is in the first panel
    that takes it, with that of the held-out rows; what none takes has a panel of its own in the last section."""
    left = [key for key in dict.fromkeys(keys) if key not in DULL]
    found = []
    for section in SECTIONS:
        panels = []
        for panel in section.panels:
            matches = {key: match for key in left if (match := re.fullmatch(panel.pattern, trained(key)))}
            if matches:
                panels.append((panel, {key: _line(key, match) for key, match in matches.items()}))
                left = [key for key in left if key not in matches]
        if panels:
            found.append((section, panels))
    if left:
        found.append((OTHERS, [(Panel(key, re.escape(key)), {key: ""}) for key in sorted(left)]))
    return found


def trained(key: str) -> str:
    """The name of a metric in training; that of held-out rows has `eval_` before it."""
    return key.removeprefix("eval_")


def known(key: str, stage: str) -> Metric | None:
    """The registry's entry of a key; of a stage that has none of its own, the first that there is."""
    trainers: tuple[Stage, ...] = get_args(Stage)
    return find(key, next((one for one in trainers if one == stage), None)) or find(key)


def explained(keys: Iterable[str], stage: str) -> list[dict[str, Any]]:
    """For each key of a panel what is known of it: {"key", "meaning", "advice", "healthy", "low", "high"}."""
    found = []
    for key in keys:
        if (metric := known(key, stage)) is not None:
            one: dict[str, Any] = {"key": key, "meaning": metric.meaning, "advice": metric.advice}
            if (healthy := metric.healthy) is not None:
                one |= {"healthy": str(healthy), "low": healthy.low, "high": healthy.high}
            found.append(one)
    return found


def _line(key: str, match: re.Match) -> str:
    name = next((text for text in match.groupdict().values() if text), "").replace("_", " ")
    return f"{name} (held out)".strip() if key != trained(key) else name
