"""What a recipe may say otherwise without another result: for resumes, and to tell whether two runs are the same."""

from __future__ import annotations

NEUTRAL = (
    "output", "overwrite", "resume", "gpus", "tracking", "tracking.*", "check_sharing", "dump", "dump.*",
    "guards", "guards.*", "watchdog", "watchdog.*", "rewards.*.timeout", "rewards.*.slow", "rewards.*.retries",
    "rewards.*.max_failures", "rewards.*.failure_window",
    "training.logging_*", "training.log_*", "training.num_completions_to_print", "training.save_*",
    "training.dataloader_num_workers", "training.dataloader_prefetch_factor", "training.dataloader_pin_memory",
    "training.dataloader_persistent_workers", "training.torch_empty_cache_steps", "training.ddp_timeout",
    "training.skip_memory_metrics",
)  # fmt: skip
"""Keys (patterns)."""
