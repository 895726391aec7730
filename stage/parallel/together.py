"""What the processes of a run tell each other. A process that runs alone hears itself.

Every function here but `size` and `rank` is collective: all processes call it, in the same order, or all wait for ever.
torch is imported inside, so that naming a reward in a recipe stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vlm.common.errors import UserError

T = TypeVar("T")


def size() -> int:
    """Processes that can talk to each other now; 1 before torch.distributed is initialised."""
    import torch

    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def rank() -> int:
    """This process's place in what `gather` returns."""
    import torch

    return torch.distributed.get_rank() if size() > 1 else 0


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
    only: nobody goes on to a collective call in which that one would be missing. doing: for that message.
    """
    result, error = None, None
    try:
        result = work()
    except Exception as cause:  # whatever it is, the others must hear of it before it ends this process
        error = cause
    told = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for number, message in enumerate(told):
        if message is not None:
            raise UserError(f"process {number} of this run failed at {doing}, and the others end with it: {message}")
    return result
