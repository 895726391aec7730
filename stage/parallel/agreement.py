"""What the processes of a run tell each other and decide together. A process that runs alone hears, and agrees with,
itself.

Every function here but `joined`, `size`, `rank`, `begun` and `limit` is collective: all processes call it, in the same
order, or all wait for ever. torch is imported inside, so that naming a reward in a recipe stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from vlm.common.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def joined() -> bool:
    """Whether this process can talk to others now; not before torch.distributed is initialised."""
    import torch

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def size() -> int:
    """Processes that can talk to each other now."""
    import torch

    return torch.distributed.get_world_size() if joined() else 1


def rank() -> int:
    """This process's place in what `gather` returns."""
    import torch

    return torch.distributed.get_rank() if size() > 1 else 0


def anywhere(here: bool, device: torch.device) -> bool:
    """Whether `here` holds in any process."""
    import torch

    if not joined():
        return here
    flag = torch.tensor(float(here), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


COUNTED = ("gloo", "nccl")
"""Backends that number their collective calls."""


def begun() -> int | None:
    """Collective calls that this process has begun, in groups of all processes; None where nobody counts them. Where
    processes differ, those with fewest are whom the others wait for. A microsecond; any thread may ask.

    torch's own numbers: gloo's and NCCL's count a call where it is made, not where the GPU comes to it.
    """
    import torch

    if not joined():
        return None
    groups = list(torch.distributed.distributed_c10d._world.pg_map.items())
    counts = [
        group._get_sequence_number_for_group()
        for group, (backend, _) in groups
        if backend in COUNTED and group.size() == size()
    ]
    return sum(counts) if counts else None


def limit(seconds: float) -> None:
    """How long a process waits for another from now on, in groups that are made later, too.

    transformers tells `ddp_timeout` to GPUs' first group only, and DeepSpeed communicates in one that it makes
    itself, with torch's 10 minutes.
    """
    import torch

    if joined():
        c10d, span = torch.distributed.distributed_c10d, timedelta(seconds=seconds)
        c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = span
        for group in list(c10d._world.pg_map):
            c10d._set_pg_timeout(span, group)


def everyone_is_here() -> None:
    """Return once every process has called this."""
    import torch

    if joined():
        torch.distributed.barrier()


def gather(value: T) -> list[T]:
    """What each process gave, by rank; it is pickled on the way."""
    import torch

    if size() == 1:
        return [value]
    found: list = [None] * size()
    torch.distributed.all_gather_object(found, value)
    return found


def settled(work: Callable[[], T], doing: str) -> T:
    """`work()` of this process, once it is known that it went well in all of them.

    work must not be collective itself. Raises what it raised here, and UserError where it failed in another process
    only: nobody continues to a collective call in which that one would be missing. doing: for that message.
    """
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as cause:  # whatever it is, the others must hear of it before it ends this process
        error = cause
    reported = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, message in enumerate(reported):
        if message is not None:
            raise UserError(f"process {number} of this run failed at {doing}, and the others end with it: {message}")
    return cast(T, result)
