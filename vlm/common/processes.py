"""The processes that were launched together, told apart before torch is imported."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's place among `processes()`, as accelerate and torchrun announce it in RANK."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Rank 0; a process that nobody launched is rank 0."""
    return rank() == 0


def processes() -> int:
    """How many processes were launched together, as accelerate and torchrun announce it in WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_processes() -> int:
    """How many of them are on this machine (LOCAL_WORLD_SIZE); all where that is not announced."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes()))
