"""The most memory that this process took of its GPU, for the log of every training stage."""

from __future__ import annotations

import torch

from stage.planning.memory import GIB


def peaks() -> dict[str, float]:
    """GiB since the last call, by name of the metric (`stage.metrics.cost`); none without a GPU."""
    if not torch.cuda.is_available():
        return {}
    held, taken = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return {"memory/peak_gib": held / GIB, "memory/reserved_gib": taken / GIB}
