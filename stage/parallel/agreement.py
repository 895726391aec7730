"""What all processes of a run decide together. A process that runs alone agrees with itself.

Both functions are collective: every process calls them, in the same order, or all wait for ever.
"""

from __future__ import annotations

import torch


def joined() -> bool:
    """Whether this process can talk to others now."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def anywhere(here: bool, device: torch.device) -> bool:
    """Whether `here` holds in any process."""
    if not joined():
        return here
    flag = torch.tensor(float(here), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def everyone_is_here() -> None:
    """Return once every process has called this."""
    if joined():
        torch.distributed.barrier()
