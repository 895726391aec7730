"""The processes of one launch, as best-of-N and curation need them: who am I, and wait until all are here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from vlm.common.processes import processes

PATIENCE = timedelta(days=14)
"""How long one process waits for another; the default of torch, 10 minutes, is less than shards differ by."""


@dataclass(frozen=True)
class Team:
    """Process `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> Team:
        """Meet the others that `accelerate launch` started; alone, nothing is set up."""
        if processes() == 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def device() -> str:
    """Where this process computes: its own GPU, or the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
