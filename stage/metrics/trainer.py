"""What every training stage logs: transformers' Trainer, the run folder, and the guard of finite steps."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import ALL, Group, Metric, Range

logged = partial(Metric, stages=ALL)
at_the_end = partial(logged, rows=("end",))
evaluated = partial(logged, stages=("sft", "grpo"), rows=("eval",))

EVERY = Group(
    "Every training stage",
    "Logged by transformers' Trainer, by the run folder (`step`, `time`) and by `stage/guards/finite.py`. A log is a "
    "row of metrics.jsonl every `training.logging_steps` steps, written by the main process.",
    (
        logged(
            "step",
            "optimiser steps done when the row was written",
            "steps",
            None,
            "a counter",
            "If it hangs, the watchdog says where (`watchdog.minutes`).",
            rows=("step", "end"),
        ),
        logged(
            "time",
            "when the row was written",
            "Unix seconds",
            None,
            "a clock",
            "Rows that come ever more slowly: see `step_time` and the phases of a step.",
            rows=("step", "end"),
        ),
        logged(
            "epoch",
            "passes over the training rows, as a fraction",
            "passes",
            None,
            "a counter",
            "GRPO draws each prompt once a pass, however large its group is: `training.num_train_epochs`.",
            rows=("step", "end"),
        ),
        logged(
            "grad_norm",
            "L2 norm of the gradient over all trained weights and processes, before it is clipped; of the last step "
            "before the log. Where a step was skipped, what made it be (nan or inf)",
            "",
            None,
            "its size depends on model, batch and loss; look for spikes against the run's own median. 0.18 to 1.1 in "
            "the demo's GRPO (the runs of LOG.md 11 to 14)",
            "Spikes with a falling reward or a rising loss: lower `training.learning_rate`, warm up "
            "(`training.warmup_steps`), clip harder (`training.max_grad_norm`), or average more rows "
            "(`training.gradient_accumulation_steps`).",
            worse="higher",
        ),
        logged(
            "learning_rate",
            "of the first parameter group, in the last step before the log",
            "",
            None,
            "it follows the recipe's schedule",
            "If it is not what you meant: `training.learning_rate`, `training.lr_scheduler_type`, "
            "`training.warmup_steps`. Skipped steps do not move it.",
        ),
        logged(
            "guards/skipped_steps",
            "steps of the run so far whose loss or gradient was not finite, and which therefore changed no weight; all "
            "processes count the same ones",
            "steps",
            Range(0, 0),
            "a finite model on finite data has none (docs/reliability.md); float16's search for its loss scale does "
            "not count",
            "Look at the rows that the run's output names and at what was kept of them (`guards.dumps`), then lower "
            "`training.learning_rate` or use `model.dtype` bfloat16. After `guards.skip` in a row the run ends.",
            worse="higher",
        ),
        at_the_end(
            "train_runtime",
            "duration of the training, evaluations and saving included, and what was done before a resume. With "
            "`training.include_num_input_tokens_seen` it is in every row",
            "s",
            None,
            "depends on the machine",
            "`time/…` and `step_time` say where it went.",
        ),
        at_the_end(
            "train_samples_per_second",
            "rows over `train_runtime`, of all processes. With `training.max_steps` a row of GRPO is a completion; "
            "without, transformers counts rows of the data, which are prompts",
            "rows/s",
            None,
            "depends on the machine",
            "Compare runs on equal recipes only; `throughput/tokens` is comparable over more.",
            worse="lower",
        ),
        at_the_end(
            "train_steps_per_second",
            "optimiser steps over `train_runtime`",
            "steps/s",
            None,
            "depends on the machine",
            "As `train_runtime`.",
            worse="lower",
        ),
        at_the_end(
            "total_flos",
            "transformers' estimate of all FLOPs, 6 × weights × tokens; 0 in GRPO, whose batches hold no `input_ids`, "
            "and blind to pictures and frozen weights",
            "FLOPs",
            None,
            "an estimate that is 0 in GRPO: read `throughput/mfu` there",
            "Nothing follows from it.",
        ),
        at_the_end(
            "train_loss",
            "mean of `loss` over all steps of the run",
            "",
            None,
            "as `loss` of the stage",
            "See `loss`.",
        ),
        evaluated(
            "runtime",
            "duration of one evaluation",
            "s",
            None,
            "depends on the machine and on how much is held out",
            "Evaluate less often (`training.eval_steps`) or on fewer rows (`data.eval`).",
        ),
        evaluated(
            "samples_per_second",
            "rows of the held-out data over `eval_runtime`; in GRPO prompts, not completions",
            "rows/s",
            None,
            "depends on the machine",
            "Larger `training.per_device_eval_batch_size`.",
            worse="lower",
        ),
        evaluated(
            "steps_per_second",
            "evaluation batches over `eval_runtime`; in GRPO as many as there would be without groups",
            "batches/s",
            None,
            "depends on the machine",
            "As `eval_samples_per_second`.",
            worse="lower",
        ),
    ),
)
