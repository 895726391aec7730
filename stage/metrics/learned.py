"""What the learned reward `score` logs: its scores, what it pays for, and whether it looks
(`rewards/score/reward/health.py`, `rewards/score/reward/probes.py`)."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import BOTH, GRPO, Group, Metric, Range

logged = partial(Metric, stages=GRPO, rows=BOTH)
FAILED = (
    "The warnings in the run's output name the cause: a service that is down or refuses (`score:urls`, "
    "`score:service`), an exchange that cannot be read. Past `score:max_failures` the run ends."
)
ROUNDING = 2**-5
"""One step of bfloat16 (8 bits) between 4 and 8, where scores are at most."""
SCALE = "scores of a Bradley-Terry model have no zero and no scale of their own"
GAMED = (
    "Read the completions. Then retrain the score model on pairs that expose the trick (LOG.md 14), lower "
    "`training.learning_rate`, raise `training.beta`, or stop earlier (`training.max_steps`)."
)


def correlation(name: str, what: str, healthy: Range | None, why: str, advice: str, when: str = "") -> Metric:
    return logged(
        f"score/corr_{name}",
        f"Pearson correlation of {what}, each less its group's mean, over the last 512 rows that a process has "
        "seen, evaluations included, mean over processes; null where either never varies within a group",
        "",
        healthy,
        why,
        advice,
        when=when,
    )


SCORES = Group(
    "The learned reward",
    "Logged by the reward `score` for each generation batch over the rows of its tasks, also inside of `gated`. Means "
    "are exact over the rows, or groups, of all processes; a group split over two processes counts in each by its "
    "part. Null where there is nothing to measure.",
    (
        logged(
            "score/mean",
            "mean raw score of the answers that were scored",
            "score",
            None,
            f"{SCALE}: only its course in a run says something",
            f"Rising while the rule rewards (`reward_raw/<task>`) or held-out answers get worse: the score is gamed. "
            f"{GAMED}",
            worse="lower",
        ),
        logged(
            "score/std",
            "standard deviation of those scores in a process (n - 1), mean over processes",
            "score",
            None,
            SCALE,
            "Near 0: all answers are one to the score model; see `score/shuffled_won`.",
        ),
        logged(
            "score/group_std",
            "standard deviation of the scores within a group (n - 1), mean over groups with two scored answers or more",
            "score",
            None,
            f"{SCALE}. It is what trains: differences at the level of rounding push as hard as real ones (advantages "
            "are divided by their spread)",
            "As small as the score model's noise: set `score:min_group_std` above it, so that such groups do not push.",
            worse="lower",
        ),
        logged(
            "score/margin",
            "mean of s(answer) - s(reference answer) over the scored rows",
            "score",
            None,
            "negative on average is no fault, but what is below 0 is paid nothing: at -1.8 to -4.5 a run of the demo "
            "had rewards of 0.005 to 0.02 and learned nothing (LOG.md 13)",
            "Negative with `score/zero_spread_groups` high: the references are better than the policy can be; use "
            "`score:variant` rank.",
            worse="lower",
            when="`score:variant` reference",
        ),
        logged(
            "score/scored",
            "share of rows whose answer was scored; the others failed the format, or could not be scored",
            "share",
            None,
            "it is the format's share over these rows; for a range see `reward_raw/format`",
            "As `reward_raw/format`, and `score/failed`.",
            worse="lower",
        ),
        logged(
            "score/failed",
            "share of rows that keep the format and could not be scored, or whose reference could not",
            "share",
            Range(0, 0),
            "a missing score is not counted as 0: its whole group is masked",
            FAILED,
            worse="higher",
        ),
        logged(
            "score/masked_count",
            "rows without a reward because a row of their group failed, in one process, mean over processes",
            "rows",
            Range(0, 0),
            "as `score/failed`",
            FAILED,
            worse="higher",
        ),
        logged(
            "score/zero_spread_groups",
            "share of groups (of two rewards or more) whose rewards are all the same, after `score:variant` and "
            "`score:min_group_std`",
            "share",
            Range(0, 0.5),
            "0.61 to 0.91 in the demo's runs that learned nothing from the score, at most 0.37 in all others (the runs "
            "of LOG.md 13 and 14)",
            "With `score:variant` reference: no answer beats its reference, use rank. Else `score:min_group_std` is "
            "too large, or sampling too narrow (`training.temperature`, `training.num_generations`).",
            worse="higher",
        ),
        logged(
            "score/flattened_groups",
            "share of groups whose rewards spread less than `score:min_group_std` and were set to their mean",
            "share",
            None,
            "your choice of `score:min_group_std`; 0 where that is 0, as by default",
            "Near 1: `score:min_group_std` is above what separates answers (`score/group_std`).",
        ),
        correlation(
            "length",
            "score and length of the answer in characters",
            None,
            "no number separates good from bad: in the demo 0.48 to 0.84 where the truth of captions rose, because "
            "there was more to describe, and 0.0 to 0.8 where it fell (the runs of LOG.md 14 and 13). Length is the "
            "first thing that a learned reward is gamed by (Singhal et al., arXiv 2310.03716)",
            "Rising together with `completions/mean_length`, but not with the rule rewards: length is paid for. "
            f"{GAMED}",
        ),
        correlation(
            "format",
            "reward (not score) and keeping the format",
            None,
            "not negative by construction (but with `score:variant` raw). With `score:variant` rank 0.8 to 0.9 when "
            "the demo's runs began and 0.3 to 0.5 when they had learned the format (the runs of LOG.md 13 and 14)",
            "Near 1 for good: the reward pays for nothing but the format; see `score/zero_spread_groups`.",
        ),
        correlation(
            "<rule>",
            "score and a rule reward on the same rows, which pays nothing",
            Range(low=0),
            "below 0 the score prefers what the rule calls wrong. In the demo the correlation with truth went from "
            "0.48 to between -0.2 and 0.4 while the score was gamed (LOG.md 14)",
            f"{GAMED} If the rule is irrelevant to these rows, leave it out of `score:rules`.",
            when="named in `score:rules`",
        ),
        logged(
            "score/reference_known",
            "share of the reference answers needed whose score was remembered from an earlier batch or `score:cache`",
            "share",
            None,
            "0 in the first pass over the data, 1 after it; only speed depends on it",
            "Staying at 0 after a pass: are pictures of another size in each (`images.random_resize`)?",
            when="`score:variant` reference",
        ),
        logged(
            "score/seconds",
            "duration of scoring in a call, in one process, mean over processes; part of `time/rewards`",
            "s",
            None,
            "depends on the machine",
            "A large part of `step_time`: `score:batch_size`, `score:share_prefix`, or more replicas (`score:urls`, "
            "`launch/serve.py`).",
            worse="higher",
        ),
    ),
)

PROBES = Group(
    "Probes of the score model",
    "Logged by the reward `score` in the main process: two experiments repeated every `score:probe_every` calls that "
    "score something, the latest values at each log; null before the first.",
    (
        logged(
            "score/probe_mean",
            "mean score of a fixed set of exchanges (`score:probes`: a file, or an answer of each of the first groups)",
            "score",
            None,
            SCALE,
            "It should not move at all: see `score/probe_drift`.",
        ),
        logged(
            "score/probe_drift",
            "mean distance of those scores from the first ones",
            "score",
            Range(0, ROUNDING),
            "the score model is frozen, so this is rounding: one step of bfloat16 for scores between 4 and 8 is 2⁻⁵. "
            "About 4e-7 in float32 (the runs of LOG.md 13 and 14)",
            "Another model answers: has the service been restarted with other weights (`score:urls`), or are the score "
            "model's weights being trained?",
            worse="higher",
        ),
        logged(
            "score/shuffled_gap",
            "mean of score with the own picture less score with another group's, over the latest answers to up to 8 "
            "different pictures",
            "score",
            Range(low=ROUNDING, open=True),
            "0, but for rounding as above, is a score model that does not see. 3.0 to 6.9 in the demo (the runs of "
            "LOG.md 13 and 14)",
            "The score model does not look: are `score:min_pixels` and `score:max_pixels` as it was trained, is it a "
            "Qwen2-VL score model (`score:model`)? Its own `eval_image_gain` says whether it ever did.",
            worse="lower",
        ),
        logged(
            "score/shuffled_won",
            "share of those answers that score higher with their own picture; a tie counts half",
            "share",
            Range(low=0.5, open=True),
            "1/2 is chance. With 8 answers 7 of them (0.875) is the first share that chance reaches in less than one "
            "of 20 readings (binomial); 0.75 to 1 in the demo (the runs of LOG.md 13 and 14)",
            "As `score/shuffled_gap`.",
            worse="lower",
        ),
    ),
)
