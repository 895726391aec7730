"""Work in batches that become smaller when memory runs out.

`accelerate.utils.find_executable_batch_size` begins its whole function again, and hides the error of the last try; here
the batch alone is done again, so that nothing is lost or doubled, and the size that worked is kept.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from stage.guards.out_of_memory import OutOfMemory, is_out_of_memory

logger = logging.getLogger(__name__)
Row = TypeVar("Row")
Result = TypeVar("Result")


def fitting(
    size: int, work: Callable[[int], Result], what: str, halved: Callable[[int], None] | None = None
) -> tuple[int, Result]:
    """(the size that fitted, `work` of it): `size`, or half of it, and so on, where memory runs out.

    what: names the rows, and the key of the recipe that says how many, in messages. halved: is told each new size.
    Raises: OutOfMemory where one row alone does not fit.
    """
    while True:
        try:
            return size, work(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).strip().splitlines()[0][:300]
            if size == 1:
                raise OutOfMemory(f"out of memory with 1 of {what} at a time: {said}") from error
        before, size = size, (size + 1) // 2  # outside of the handler: its error holds what the batch had in memory
        freed()
        logger.warning("out of memory with %d of %s at a time; going on with %d (%s)", before, what, size, said)
        if halved is not None:
            halved(size)


def in_batches(
    rows: Sequence[Row],
    size: int,
    work: Callable[[Sequence[Row]], Sequence[Result]],
    what: str,
    halved: Callable[[int], None] | None = None,
) -> Iterator[tuple[Row, Result]]:
    """(row, its result) in order, `size` rows at a time. work: results of a batch, in order. Else as `fitting`."""
    start = 0
    while start < len(rows):
        left = rows[start : start + size]
        fitted, found = fitting(len(left), partial(_first, work, left), what, halved)
        yield from zip(left[:fitted], found, strict=True)
        size, start = size if fitted == len(left) else fitted, start + fitted


def _first(work: Callable[[Sequence[Row]], Sequence[Result]], rows: Sequence[Row], count: int) -> Sequence[Result]:
    return work(rows[:count])


def freed() -> None:
    """Give back what nothing holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
