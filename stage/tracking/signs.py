"""Signs that a run collapses, each told from the numbers logged so far by a function of its own.

A sign compares means over `window` logs, the last ones with earlier ones, so that one odd batch is none. Where a fall
could be chance it must exceed SIGMAS standard errors of the difference of the two means (Welch's). Names are TRL's; a
sign whose numbers are not logged never shows.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from stage.tracking.section import AlertSection

SIGMAS = 3.0
LOOKBACK = 500
"""Logs in which the best reward is looked for: a fall is sudden, and a run may have ten thousands of logs."""
LEARNED = "score/mean"
"""The learned reward, before it is shaped."""
WITNESSES = ("rewards/*/mean", "reward_raw/*", "*gold*")
"""What should rise with the learned reward …"""
NO_WITNESSES = ("*score*", "*_count", "eval_*")
"""… and is neither that reward itself nor a number of rows."""


class History:
    """The finite numbers that were logged, by name, in order."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, logs: Mapping[str, Any]) -> None:
        for name, value in logs.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self.values[name].append(float(value))

    def of(self, name: str) -> list[float]:
        return self.values.get(name, [])

    def like(self, patterns: Iterable[str], but: Iterable[str] = ()) -> list[str]:
        """Names that one of the patterns fits, and none of the others."""
        return [
            name
            for name in self.values
            if any(fnmatchcase(name, p) for p in patterns) and not any(fnmatchcase(name, p) for p in but)
        ]


def beyond_chance(before: Sequence[float], now: Sequence[float]) -> float:
    """The difference of the means, now less before, where it exceeds SIGMAS of its standard errors; else 0."""
    difference = statistics.fmean(now) - statistics.fmean(before)
    error = math.sqrt(_variance(before) / len(before) + _variance(now) / len(now))
    return difference if abs(difference) > SIGMAS * error else 0.0


def _variance(values: Sequence[float]) -> float:
    """Unbiased; as statistics.variance, which is exact and twenty times slower."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def reward_fell(history: History, limits: AlertSection) -> str | None:
    """The mean reward has lost the share `reward` of its best window's (above 0) in the last LOOKBACK logs."""
    values, n = history.of("reward")[-LOOKBACK:], limits.window
    if limits.reward is None or len(values) < 2 * n:
        return None
    start = max(range(len(values) - 2 * n + 1), key=lambda start: math.fsum(values[start : start + n]))
    highest, last = values[start : start + n], values[-n:]
    was, is_ = statistics.fmean(highest), statistics.fmean(last)
    if was > 0 and is_ < (1 - limits.reward) * was and beyond_chance(highest, last) < 0:
        return f"the mean reward is {is_:.3g}, after {was:.3g} at its best"
    return None


def entropy_fell(history: History, limits: AlertSection) -> str | None:
    """The policy's entropy is below the share `entropy` of the first window's."""
    values, n = history.of("entropy"), limits.window
    if limits.entropy is None or len(values) < n + 1:
        return None
    was, is_ = statistics.fmean(values[:n]), statistics.fmean(values[-n:])
    return f"the entropy is {is_:.3g}, after {was:.3g} at first" if is_ < limits.entropy * was else None


def length_changed(history: History, limits: AlertSection) -> str | None:
    """Completions are `length` times as long as in the first window, or as short."""
    values, n = history.of("completions/mean_length"), limits.window
    if limits.length is None or len(values) < n + 1:
        return None
    was, is_ = statistics.fmean(values[:n]), statistics.fmean(values[-n:])
    if is_ > limits.length * was or is_ * limits.length < was:
        return f"completions have {is_:.0f} tokens, after {was:.0f} at first"
    return None


def too_many_clipped(history: History, limits: AlertSection) -> str | None:
    """More than the share `clipped` of completions end at the length limit."""
    share = _above(history, "completions/clipped_ratio", limits.clipped, limits.window)
    return None if share is None else f"{share:.0%} of the completions are cut off"


def kl_high(history: History, limits: AlertSection) -> str | None:
    """The KL to the reference is above `kl`."""
    found = _above(history, "kl", limits.kl, limits.window)
    return None if found is None else f"the KL to the reference is {found:.3g} nats a token"


def groups_without_spread(history: History, limits: AlertSection) -> str | None:
    """In more than the share `zero_spread` of groups all rewards are the same."""
    share = _above(history, "frac_reward_zero_std", limits.zero_spread, limits.window)
    return None if share is None else f"in {share:.0%} of the groups all completions have the same reward"


def _above(history: History, name: str, limit: float | None, window: int) -> float | None:
    """The mean of the last window, where it is above the limit."""
    values = history.of(name)[-window:]
    if limit is None or len(values) < window:
        return None
    mean = statistics.fmean(values)
    return mean if mean > limit else None


def learned_and_rules_part(history: History, limits: AlertSection) -> str | None:
    """The learned score rises while a rule reward or gold falls by `divergence`: over-optimisation (Gao et al. 2023,
    arXiv 2210.10760). The last window against those 1, 2, 4, 8 … windows before, for it may go slowly.
    """
    n = limits.window
    if limits.divergence is None:
        return None
    learned, witnesses = history.of(LEARNED), history.like(WITNESSES, NO_WITNESSES)
    lag = n
    while lag + n <= len(learned):
        if _since(learned, lag, n) > 0:
            for name in witnesses:
                values = history.of(name)
                if lag + n <= len(values) and _since(values, lag, n) <= -limits.divergence:
                    return (
                        f"over {lag} logs the learned score went {_moved(learned, lag, n)} while {name} went "
                        f"{_moved(values, lag, n)}"
                    )
        lag *= 2
    return None


def _since(values: Sequence[float], lag: int, n: int) -> float:
    return beyond_chance(values[len(values) - lag - n : len(values) - lag], values[-n:])


def _moved(values: Sequence[float], lag: int, n: int) -> str:
    before = statistics.fmean(values[len(values) - lag - n : len(values) - lag])
    return f"from {before:.3g} to {statistics.fmean(values[-n:]):.3g}"


@dataclass(frozen=True)
class Sign:
    title: str
    "At most 64 characters, as wandb takes."
    shows: Callable[[History, AlertSection], str | None]
    "What is seen, or None."
    advice: str


SIGNS = {
    "reward": Sign(
        "The reward has fallen",
        reward_fell,
        "Look at the samples of these steps; go back to a checkpoint before, with a lower training.learning_rate or a "
        "training.beta above 0.",
    ),
    "entropy": Sign(
        "The policy's entropy has collapsed",
        entropy_fell,
        "Completions of a group are becoming the same and teach nothing. Try a higher training.temperature, a lower "
        "training.learning_rate, or training.epsilon_high above training.epsilon.",
    ),
    "length": Sign(
        "Completions have become much longer or shorter",
        length_changed,
        "See in the samples whether that is what is rewarded (score/corr_length shows it for the learned reward). Try "
        "training.loss_type: dr_grpo, or a rule reward that pays no length.",
    ),
    "clipped": Sign(
        "Completions are cut off at the length limit",
        too_many_clipped,
        "A completion that is cut has no answer to be rewarded. Raise training.max_completion_length, or see in the "
        "samples whether completions repeat themselves.",
    ),
    "kl": Sign(
        "The policy is far from its reference",
        kl_high,
        "Check on held-out data that it is still the better one; otherwise raise training.beta or lower "
        "training.learning_rate.",
    ),
    "zero_spread": Sign(
        "Most groups have no spread of rewards",
        groups_without_spread,
        "These prompts are too easy, too hard, or all answered alike. Try a higher training.temperature, more "
        "training.num_generations, other rows, or a reward with finer steps.",
    ),
    "divergence": Sign(
        "The learned reward rises while rules or gold fall",
        learned_and_rules_part,
        "The policy may be exploiting the score model. Compare samples from before and now; try fewer steps, "
        "training.beta above 0, or more weight on rules.",
    ),
}
"""By the key of the recipe's `tracking.alerts` that switches it."""
