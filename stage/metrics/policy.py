"""What GRPO logs of the policy: its completions, how far an update moves it, and how vLLM's sampler differs from it."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import BOTH, GRPO, Group, Metric, Range

logged = partial(Metric, stages=GRPO, rows=BOTH)
CLIPPING = (
    "no general range: at two or more updates of one generation batch a little is normal, and sequence-level clipping "
    "(GSPO, arXiv 2507.18071) does well with a hundred times more than token-level. 0 where each batch is used "
    "once (`training.num_iterations` 1 and no more `training.steps_per_generation` than accumulation)"
)
DIFFERS = (
    "Moving away from that: is the precision the same on both sides (`model.dtype`), and are weights handed over after "
    "each step? Then training is on another policy's samples; generate without vLLM (`training.use_vllm`) to compare."
)
LENGTHS = "depends on task and model. What counts is its course"
SHORTER = (
    "Running up to `training.max_completion_length`, or down to nothing: a reward pays for length; read completions, "
    "and `score/corr_length` where `score` is used."
)

COMPLETIONS = Group(
    "Completions",
    "Logged by TRL's GRPOTrainer, for each generation batch over the completions of all processes; several since the "
    "log before are averaged, also least and most. Lengths are in tokens, the end token included; `terminated` "
    "completions are those that ended by themselves.",
    (
        *(
            logged(
                f"completions/{which}_length",
                f"{what} length of the completions",
                "tokens",
                None,
                LENGTHS if which == "mean" else "as `completions/mean_length`",
                SHORTER if which == "mean" else "As `completions/mean_length`.",
            )
            for which, what in (("mean", "mean"), ("min", "least"), ("max", "greatest"))
        ),
        logged(
            "completions/clipped_ratio",
            "share of completions cut off at `training.max_completion_length`: their last token is no end token",
            "share",
            Range(0, 0.1),
            "a completion that is cut has no answer, so this is part of what `reward_raw/format` may lack, and its "
            "reward measures length alone (DAPO, arXiv 2503.14476, section 3.4). At most 0.002 in the demo's GRPO "
            "(the runs of LOG.md 11 to 14)",
            "Raise `training.max_completion_length`, or leave cut completions out of the loss "
            "(`training.mask_truncated_completions`). If it grows during the run, see `completions/mean_length`.",
            worse="higher",
        ),
        *(
            logged(
                f"completions/{which}_terminated_length",
                f"{what} length of those that ended by themselves; 0 where none did",
                "tokens",
                None,
                "as `completions/mean_length`",
                "As `completions/mean_length`.",
            )
            for which, what in (("mean", "mean"), ("min", "least"), ("max", "greatest"))
        ),
        logged(
            "num_tokens",
            "tokens of prompts and completions that were generated for since the start of the run, all processes; each "
            "prompt counts with each completion, pictures by their placeholders. Evaluations do not count",
            "tokens",
            None,
            "a counter",
            "Compare runs by it where their lengths differ.",
        ),
    ),
)

POLICY = Group(
    "Policy and update",
    "Logged by TRL's GRPOTrainer for each micro-batch; means are over the completion tokens of all processes, and "
    "micro-batches since the log before count the same.",
    (
        logged(
            "loss",
            "the clipped policy loss, plus `training.beta` × `kl`, less the entropy bonus if there is one, as "
            "`training.loss_type` averages it; mean over processes, sum over the micro-batches of a step, mean over "
            "steps",
            "",
            None,
            "its value says nothing: where a batch is used once every ratio is 1 and advantages cancel within groups, "
            "so it is near 0, whatever its gradient does",
            "Read `reward`, `kl` and `entropy` instead.",
        ),
        logged(
            "kl",
            "KL divergence of the policy from the reference, by the estimator exp(d) - d - 1 with d the "
            "log-probability of a token under the reference less that under the policy (k3, never negative; GRPO, "
            "arXiv 2402.03300, eq. 4), mean over tokens",
            "nats/token",
            None,
            "how much KL a reward tolerates before it is gamed depends on the reward (Gao et al., arXiv 2210.10760), "
            "so no number holds for all",
            "Rising steeply, or the reward rising while held-out answers get worse: raise `training.beta`, lower "
            "`training.learning_rate`, or stop earlier (`training.max_steps`).",
            worse="higher",
            when="`training.beta` above 0",
        ),
        logged(
            "entropy",
            "entropy of the policy's next-token distribution at `training.temperature`, over the whole vocabulary, "
            "mean over tokens",
            "nats/token",
            None,
            "depends on model, task and temperature; it falls in most runs, and reward is bought with it (Cui et al., "
            "arXiv 2505.22617). In the demo's 50 steps it falls from 0.41–0.55 to 0.27–0.45 (the runs of LOG.md "
            "12 to 14)",
            "Falling towards 0: groups become alike (`frac_reward_zero_std`); raise `training.temperature`, "
            "`training.epsilon_high` (DAPO's clip-higher) or `training.entropy_coef`, lower `training.learning_rate`. "
            "Rising without end: the policy dissolves; lower the rate, raise `training.beta`.",
            worse="lower",
        ),
        logged(
            "clip_ratio/low_mean",
            "share of tokens with a negative advantage whose ratio to the sampling policy fell below 1 - "
            "`training.epsilon`, so that their gradient is cut (of completions with "
            "`training.importance_sampling_level` sequence)",
            "share",
            None,
            CLIPPING,
            "High and rising: lower `training.learning_rate` or `training.num_iterations`.",
            worse="higher",
            when="a loss that clips: `training.loss_type` dapo (the default), grpo, bnpo, dr_grpo or luspo",
        ),
        logged(
            "clip_ratio/high_mean",
            "the same with a positive advantage and above 1 + `training.epsilon_high`",
            "share",
            None,
            "as `clip_ratio/low_mean`",
            "As `clip_ratio/low_mean`. If only this side clips while `entropy` falls, raise `training.epsilon_high`.",
            worse="higher",
            when="as `clip_ratio/low_mean`",
        ),
        logged(
            "clip_ratio/region_mean",
            "the sum of the two",
            "share",
            None,
            "as `clip_ratio/low_mean`",
            "As `clip_ratio/low_mean`.",
            worse="higher",
            when="as `clip_ratio/low_mean`",
        ),
        logged(
            "clip_ratio/low_min",
            "the least share clipped low in any one completion of a micro-batch, despite the name no ratio",
            "share",
            None,
            "one untouched completion makes it 0",
            "Read `clip_ratio/low_mean`.",
            when="as `clip_ratio/low_mean`",
        ),
        logged(
            "clip_ratio/high_max",
            "the greatest share clipped high in any one completion of a micro-batch",
            "share",
            None,
            "as `clip_ratio/low_mean`",
            "As `clip_ratio/low_mean`.",
            when="as `clip_ratio/low_mean`",
        ),
        logged(
            "cispo_clip_ratio",
            "share of tokens with a positive advantage whose ratio is above `training.epsilon_high`, where CISPO holds "
            "the weight (their gradient stays)",
            "share",
            None,
            "no general range; 0 where each generation batch is used once",
            "As `clip_ratio/low_mean`.",
            when="`training.loss_type` cispo",
        ),
        logged(
            "vespo/phi_seq_mean",
            "mean over completions of VESPO's weight φ, which is 1 for a completion as likely as when it was sampled",
            "",
            None,
            "1 where each generation batch is used once; how far from it is still well is not known",
            "Leaving 1: lower `training.learning_rate` or `training.num_iterations`.",
            when="`training.loss_type` vespo",
        ),
        logged(
            "policy_loss",
            "the loss without the entropy bonus (but with `training.beta` × `kl`), mean over processes; before it is "
            "divided by the accumulation steps, where `training.loss_type` divides by them",
            "",
            None,
            "as `loss`",
            "As `loss`.",
            when="an entropy bonus (`training.entropy_coef`, `training.use_adaptive_entropy`)",
        ),
        logged(
            "entropy_coef",
            "weight of the entropy bonus at the end of a step",
            "",
            None,
            "yours, or the controller's (`training.use_adaptive_entropy`)",
            "At `training.entropy_coef_max` with `entropy` still below `training.entropy_target`: lower "
            "`training.learning_rate`.",
            when="an entropy bonus, as above",
            rows=("step",),
        ),
    ),
)

SAMPLER = Group(
    "The sampler of vLLM",
    "Logged by TRL's GRPOTrainer (the gaps by `rl/engine.py`) where vLLM generates and the difference is corrected "
    "(`training.vllm_importance_sampling_correction`, on by default). vLLM and the trainer compute log-probabilities "
    "of the same tokens with other kernels; these say by how much they differ, over the completion tokens of a "
    "generation batch (the completions, with a sequence-level `training.vllm_importance_sampling_mode`). `mean` is a "
    "mean over processes of each one's mean.",
    tuple(
        logged(
            f"vllm/logp_gap/{kind}",
            f"mean distance of a token's two log-probabilities, over completions about {what}, of all processes",
            "nats",
            None,
            "0 if both sides computed alike. Those of prompts with pictures are known to be further apart (vLLM issue "
            "47425: .17 to .30 against .055, in bfloat16); in float32 below 1e-3 was seen with both",
            DIFFERS + " Of prompts with pictures alone: pictures reach the engine otherwise than the trainer.",
            when=f"`training.use_vllm`; a batch has rows {rows}",
            needs="vllm",
        )
        for kind, what, rows in (
            ("images", "pictures", "with a picture"),
            ("text", "text alone", "without a picture"),
        )
    )
    + tuple(
        logged(
            f"sampling/{name}/{which}",
            f"{ {'min': 'least', 'mean': 'mean', 'max': 'greatest'}[which] } {what}",
            unit,
            None,
            why,
            DIFFERS if which == "mean" else f"As `sampling/{name}/mean`.",
            when="`training.use_vllm`",
            needs="vllm",
        )
        for name, what, unit, why, kinds in (
            (
                "sampling_logp_difference",
                "distance of a token's two log-probabilities",
                "nats",
                "0 if both sides computed alike; what bfloat16 and other kernels leave depends on the model",
                ("mean", "max"),
            ),
            (
                "importance_sampling_ratio",
                "weight that corrects it, after truncation or masking",
                "",
                "1 if both sides computed alike; no other number is known to be the limit",
                ("min", "mean", "max"),
            ),
        )
        for which in kinds
    ),
)
