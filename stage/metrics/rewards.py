"""What GRPO logs of its rewards: TRL's own, `rewards.gated`'s components, and `rewards.guarded`'s failures."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import BOTH, GRPO, Group, Metric, Range

logged = partial(Metric, stages=GRPO, rows=BOTH)

REWARDS = Group(
    "Rewards",
    "Logged by TRL's GRPOTrainer, once for each generation batch: `training.per_device_train_batch_size` × "
    "`training.steps_per_generation` × processes completions, in groups of `training.num_generations`. Rewards of all "
    "processes are gathered first. Over several generation batches since the log before, each counts the same; a step "
    "that reuses completions (`training.num_iterations`) has none and logs none of these.",
    (
        logged(
            "reward",
            "mean over completions of the sum of all rewards by `rewards.weight`; a completion to which no reward "
            "applies is left out, and so is one whose rewards all failed",
            "reward",
            None,
            "depends on the rewards and the data. With `gated` alone it is in [0, 1]",
            "Falling: lower `training.learning_rate` or raise `training.beta`. Rising while held-out answers get "
            "worse: a reward is being gamed; read the completions in the run folder, and each `rewards/<reward>/mean`.",
            worse="lower",
        ),
        logged(
            "reward_std",
            "standard deviation of that sum over all completions of a generation batch (n - 1), easy and hard "
            "prompts together: not the spread within groups, which is what trains",
            "reward",
            None,
            "depends on the rewards and on how unlike the prompts are",
            "For the spread that trains see `frac_reward_zero_std`.",
        ),
        logged(
            "rewards/<reward>/mean",
            "mean of one reward before its weight, over the completions that it applies to; null where there was none",
            "reward",
            None,
            "depends on the reward. Built-in ones are in [0, 1]",
            "One rising while another falls: they pull apart; change `rewards.weight`, or put one inside of `gated` "
            "(`gated:tasks`).",
            worse="lower",
        ),
        logged(
            "rewards/<reward>/std",
            "its standard deviation over those completions (n - 1)",
            "reward",
            None,
            "depends on the reward",
            "0 over many steps: this reward separates nothing; look at its column in `completions/` or leave it out.",
        ),
        logged(
            "frac_reward_zero_std",
            "share of groups whose summed rewards are all alike (standard deviation below 1e-8), so that their "
            "advantages are 0. A group without any reward is not one of them. With `training.scale_rewards` batch, 0 "
            "or 1 for the whole generation batch",
            "share",
            Range(0, 0.5),
            "a group without spread has no gradient (DAPO, arXiv 2503.14476, section 3.2), so above a half less than "
            "half of the batch teaches: a convention, not a threshold from the literature. At most 0.18 in the demo's "
            "GRPO (the runs of LOG.md 11 to 14)",
            "All wrong: an easier start (SFT first, or a reward with steps in between, such as continuous `iou`). All "
            "right: harder rows (`data.train`). Alike because sampling is: larger `training.num_generations` or "
            "`training.temperature`.",
            worse="higher",
        ),
    ),
)

GATED = Group(
    "Rewards inside of `gated`",
    "Logged by `rewards/gated.py` whatever passes the gate, in generation batches as above. Means are exact over the "
    "rows of all processes.",
    (
        logged(
            "reward_raw/format",
            "share of completions with exactly one trace and one answer that is not empty (`vlm/answers.py`), over all "
            "rows that `gated` is asked for",
            "share",
            Range(0.9, 1),
            "the gate pays 0 below it, whatever was answered. From a cold start the demo's GRPO begins at 0.72 to "
            "0.81 and is at 0.93 or more after 50 steps (the runs of LOG.md 12 to 14): below 0.9 is the beginning, or "
            "a fault",
            "Not rising: more traces in the cold start, a longer `training.max_completion_length` (see "
            "`completions/clipped_ratio`), the prompt that the traces had (`prompt.system`). Falling: lower "
            "`training.learning_rate`.",
            worse="lower",
        ),
        logged(
            "reward_raw/<task>",
            "mean reward of a task, before gate and weight, over its rows to which the reward applies; in a log only "
            "where there was one. An entry `task/kind` of `gated:tasks` is a name of its own",
            "reward",
            None,
            "depends on task and data; in [0, 1]",
            "0 throughout: does the reward read what the model writes (`prompt.notation` for boxes)? One task falling "
            "while others rise: give it more rows (`data.train`).",
            worse="lower",
        ),
        logged(
            "reward_raw/<task>_count",
            "rows that this mean is over: in one process and generation batch, mean over processes",
            "rows",
            None,
            "follows the mixture in `data.train`",
            "0 over many steps: the data has no such rows, or their reward gives None.",
        ),
        logged(
            "reward_raw/none_count",
            "rows of `gated` without a reward, in one process and generation batch, mean over processes: their task's "
            "reward does not apply to them or failed",
            "rows",
            Range(0, 0),
            "tasks without a reward are refused before training, so these are rows that failed, or that a reward of "
            "yours refuses; they teach nothing",
            "See `reward_faults/<reward>` and `score/failed`; or take the rows out (`data.train`).",
            worse="higher",
        ),
    ),
)

READ = Group(
    "Answers that cannot be read",
    "Logged by the rule rewards (`rewards/rules/rows.py`), alone or in `gated`, for the rows that they apply to. "
    "Means are exact over the rows of all processes.",
    (
        logged(
            "reward_unreadable/<reward>",
            "share of answers that a rule reward cannot read, which earn 0 whatever they mean: no number for numeric "
            "and count, no single option for choice, no boxes in `prompt.notation` for iou, no mask in "
            "`prompt.masks` for mask, an unknown label for label_set, nothing between the tags for exact_match",
            "share",
            None,
            "depends on what the model was taught. Rewards are strict: (The answer is B) names no option. An "
            "evaluation says how a lenient reader fares (choice/accuracy:lenient, `docs/benchmarks.md`)",
            "High from the start: teach the form first (SFT), or ask for it (`prompt.wording`, `prompt.notation`). "
            "Rising: answers are cut off (`training.max_completion_length`), or the form is being lost.",
            worse="higher",
        ),
    ),
)

FAULTS = Group(
    "Rewards that fail",
    "Logged by `rewards/guarded.py`, which wraps every reward except `score`.",
    (
        logged(
            "reward_faults/<reward>",
            "rows of a call whose reward failed (an exception, a time-out, NaN) also when tried again, before the rest "
            "of their groups is masked with them; mean over processes. Inside of `gated` the name is the task's",
            "rows",
            Range(0, 0),
            "a failure is never counted as 0, so each costs its group; past `rewards.max_failures` the run ends",
            "The warnings in the run's output name rows and cause. Give a slow reward more `rewards.timeout` or "
            "`rewards.retries`.",
            worse="higher",
        ),
    ),
)
