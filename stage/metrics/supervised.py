"""What SFT logs beside what every stage does (TRL's SFTTrainer)."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import BOTH, SFT, Group, Metric

logged = partial(Metric, stages=SFT, rows=BOTH)

SUPERVISED = Group(
    "SFT",
    "Logged by TRL's SFTTrainer. Targets are the assistant's tokens alone (`sft/stage.py`). Over several micro-batches "
    "since the log before, each counts the same; each is gathered from all processes first.",
    (
        logged(
            "loss",
            "mean negative log-likelihood of the target tokens, each token of an optimiser step weighing the same over "
            "micro-batches and processes; mean over the steps since the log before. As `eval_loss`: mean over held-out "
            "batches, weighed by their rows, of each batch's mean over its tokens",
            "nats/token",
            None,
            "depends on the data: what cannot be foreseen in the answers stays. The least possible is unknown",
            "Rising, or jumping: lower `training.learning_rate`. `eval_loss` rising while `loss` falls: fewer "
            "`training.num_train_epochs`, more data, or adapters (`model.lora`).",
            worse="higher",
        ),
        logged(
            "mean_token_accuracy",
            "share of the target tokens that are the model's most likely one, given the true tokens before them",
            "share",
            None,
            "depends on the data, as the loss does; it says nothing about answers that the model writes by itself",
            "Flat from the start: too small a `training.learning_rate`, or chats in another layout than the model's "
            "own (`prompt.style`). Near 1 on few traces: the model knows them by heart, take fewer "
            "`training.num_train_epochs`.",
            worse="lower",
        ),
        logged(
            "entropy",
            "entropy of the model's next-token distribution at the target tokens, over the whole vocabulary, mean over "
            "tokens",
            "nats/token",
            None,
            "depends on data and model. GRPO samples from what is left of it, so a cold start should not use it up",
            "Near 0 before GRPO: groups will be alike (`frac_reward_zero_std`); take fewer "
            "`training.num_train_epochs` or a lower `training.learning_rate`.",
        ),
        logged(
            "num_tokens",
            "tokens trained on since the start of the run, all processes: prompts, pictures' placeholders and answers, "
            "without padding",
            "tokens",
            None,
            "a counter",
            "Far from what `--dry-run` says: rows are longer than its sample; see `launch/data.py`.",
        ),
    ),
)
