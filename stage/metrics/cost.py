"""What GRPO logs of its cost (`rl/counters.py`, TRL), and what transformers counts when it is asked to."""

from __future__ import annotations

from functools import partial

from stage.metrics.metric import ALL, GRPO, Group, Metric

logged = partial(Metric, stages=GRPO)
everywhere = partial(Metric, stages=ALL)
MACHINE = "depends on machine, model and data; what counts is its share of `step_time`"
OWN = "A step of the main process, mean over the steps since the log before"


def phase(name: str, meaning: str, advice: str) -> Metric:
    return logged(f"time/{name}", meaning, "s", None, MACHINE, advice, worse="higher")


PHASES = Group(
    "Where the time of a step goes",
    f"Logged by `rl/counters.py` (`step_time` by TRL). {OWN}; evaluations do not count. Generation happens once in a "
    "generation batch, so where a step uses it again its phases are means over steps with and without. The GPU is "
    "waited for at both ends of a phase.",
    (
        logged(
            "step_time",
            "duration of the forward and backward passes of a step with the generation before them; without the "
            "optimiser's own step and the reading of rows",
            "s",
            None,
            "depends on machine, model and data",
            "The phases below say where it went, their sum is it. Growing with `completions/mean_length` is expected.",
            worse="higher",
        ),
        phase(
            "rollout",
            "sampling of the completions",
            "`training.use_vllm`; a shorter `training.max_completion_length`, for all wait for the longest (see "
            "`padding/<phase>`).",
        ),
        phase(
            "rewards",
            "computing the rewards, with the wait for the slowest process",
            "`score/seconds` is the learned reward's part; for a reward of yours see `rewards.slow`.",
        ),
        phase(
            "reference",
            "log-probabilities without gradient: of the reference model, and of the policy before the update where "
            "batches are used again",
            "Not needed at all with `training.beta` 0 and each batch used once.",
        ),
        phase(
            "preparation",
            "the rest of generation: reading, decoding and preparing pictures, tokenising, gathering",
            "Smaller pictures (`images.max_pixels`), a faster disk.",
        ),
        phase(
            "update",
            "forward and backward passes of the policy: `step_time` less generation",
            "Larger `training.per_device_train_batch_size`, `share_prefix`, no `training.gradient_checkpointing` where "
            "memory allows it.",
        ),
    ),
)

WORK = Group(
    "What was computed, against the least possible",
    f"Logged by `rl/counters.py`. {OWN}. Phases are `rollout`, `reference` and `update`. Not counted where vLLM "
    "generates: it has its own counters.",
    (
        logged(
            "tokens/<phase>",
            "places of the language model's input, padding included",
            "tokens",
            None,
            "compare with `tokens/<phase>_ideal`",
            "Well above the ideal: groups are cut (`training.per_device_train_batch_size` no multiple of "
            "`training.num_generations`), or `share_prefix` is off; a line in the run's output says why.",
            worse="higher",
        ),
        logged(
            "tokens/<phase>_ideal",
            "the same if each prompt came once, for all its completions, and nothing were padded",
            "tokens",
            None,
            "follows the data",
            "See `tokens/<phase>`.",
            when="`share_prefix`, and nothing in its way",
        ),
        logged(
            "padding/<phase>",
            "share of the places that hold no token",
            "share",
            None,
            "0 in update and reference where prompts are shared (rows are packed); in rollout it is what shorter "
            "completions wait for the longest",
            "In rollout: a shorter `training.max_completion_length`. Elsewhere: `share_prefix`.",
            worse="higher",
        ),
        logged(
            "images/encoded",
            "pictures through the policy's and the reference's vision tower, in all phases",
            "pictures",
            None,
            "compare with `images/ideal`",
            "As `tokens/<phase>`.",
            worse="higher",
        ),
        logged(
            "images/ideal",
            "the same if each picture of a generation batch were encoded once a phase",
            "pictures",
            None,
            "follows the data",
            "See `images/encoded`.",
            when="`share_prefix`, and nothing in its way",
        ),
    ),
)

SPEED = Group(
    "Throughput",
    "Logged by `rl/counters.py` and, with `training.include_num_input_tokens_seen`, by transformers.",
    (
        logged(
            "throughput/tokens",
            "tokens of prompts and completions (`num_tokens`) of all processes in a second of `step_time`",
            "tokens/s",
            None,
            "depends on machine, model and data; comparable between settings of one machine, shared prompts or not",
            "See `time/…`.",
            worse="lower",
        ),
        logged(
            "throughput/mfu",
            "model FLOPs of the tokens and pictures computed, over this GPU's dense bfloat16 peak and `step_time`; "
            "what is recomputed by checkpointing does not count, nor does attention (PaLM, arXiv 2204.02311, appendix "
            "B)",
            "share",
            None,
            "0.46 is PaLM's in pre-training; sampling is bound by memory and not by FLOPs, so a step of GRPO is far "
            "below that, by how much depends on lengths",
            "See which phase of `time/…` is long.",
            worse="lower",
            when="a GPU whose peak is known (`stage/planning/gpus.py`)",
            needs="cuda",
        ),
        everywhere(
            "num_input_tokens_seen",
            "tokens since the start of the run, all processes: transformers' count in SFT and for score models, "
            "`num_tokens` in GRPO",
            "tokens",
            None,
            "a counter",
            "See `num_tokens`.",
            rows=("step", "end"),
            when="`training.include_num_input_tokens_seen`",
        ),
        everywhere(
            "train_tokens_per_second",
            "those since this process started, over the time since then, evaluations included",
            "tokens/s",
            None,
            "depends on the machine",
            "In GRPO read `throughput/tokens`, which leaves evaluations out.",
            worse="lower",
            when="`training.include_num_input_tokens_seen`",
        ),
    ),
)

MEMORY = Group(
    "Memory and dashboards",
    "Logged by `stage/guards/gpu_memory.py`, by transformers when `training.skip_memory_metrics` is false, and by TRL "
    "to dashboards (`tracking.report_to`) in addition to what is in metrics.jsonl.",
    (
        everywhere(
            "memory/peak_gib",
            "most memory that torch's allocator held for tensors on this GPU since the log before",
            "GiB",
            None,
            "depends on the card; `--dry-run` prints the plan to compare it with",
            "Near the card's size: the plan's three best savings are printed when it is full; first "
            "`training.gradient_checkpointing`, `training.per_device_train_batch_size`, `sharding.zero`, "
            "`images.max_pixels`.",
            worse="higher",
            needs="cuda",
        ),
        everywhere(
            "memory/reserved_gib",
            "most memory that torch's allocator had taken from this GPU since the log before, with what it holds free; "
            "CUDA and NCCL allocate beside it",
            "GiB",
            None,
            "little above `memory/peak_gib`",
            "Far above `memory/peak_gib`: fragmentation. Expandable segments avoid most of it "
            "(`stage/guards/allocator.py`); whether they were on is among the variables in environment.json.",
            worse="higher",
            needs="cuda",
        ),
        everywhere(
            "<span>_mem_<device>_<what>_delta",
            "transformers' memory tracker over the span init or train: memory held at its end less that at its start "
            "(alloc), and the most in between less that at its end (peaked), on cpu or gpu, main process",
            "bytes",
            None,
            "depends on everything",
            "As `memory/peak_gib`.",
            rows=("end",),
            when="`training.skip_memory_metrics` false",
        ),
        everywhere(
            "before_init_mem_<device>",
            "memory that the process held before the trainer was made",
            "bytes",
            None,
            "depends on everything",
            "Nothing follows from it.",
            rows=("end",),
            when="`training.skip_memory_metrics` false",
        ),
        logged(
            "profiling/Time taken: <method>",
            "duration of one call of a method of TRL's trainer or of one reward, main process",
            "s",
            None,
            "depends on the machine",
            "`time/…` says the same by phase.",
            needs="dashboard",
        ),
        everywhere(
            "global_step",
            "`step` under the name that transformers gives it",
            "steps",
            None,
            "a counter",
            "See `step`.",
            needs="dashboard",
        ),
    ),
)
