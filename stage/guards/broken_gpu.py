"""A CUDA error after which a process computes nothing more on its GPU: it ends at once, and no row is to blame.

CUDA calls them sticky: "this leaves the process in an inconsistent state, and any further CUDA work will return the
same error". Whoever tries something again after an error asks `check` first; memory that is full is none of them
(`stage.guards.out_of_memory`).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator

from stage.guards.progress import here
from vlm.common.errors import UserError
from vlm.common.processes import rank

logger = logging.getLogger(__name__)

CODES = (214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 999)
"""Of `cudaError_t` (driver_types.h of CUDA 12.9): uncorrectable ECC and NVLink errors, contained and illegal accesses,
a launch that timed out, asserts, illegal instructions, addresses and counters, launch failures, and unknown ones."""
TEXTS = re.compile(
    r"^(?:(?:CUDA|HIP) error: |Triton Error \[(?:CUDA|HIP)\]: ).*?(?:device-side assert|illegal (?:memory access|"
    r"instruction)|(?:unspecified|unknown) (?:launch failure|error)|uncorrectable (?:ECC|NVLink)|misaligned address|"
    r"hardware stack error|invalid program counter|not supported on global/shared address space|launch timed out|"
    r"(?:CU|ROC|HIP)BLAS_STATUS_EXECUTION_FAILED)",
    re.IGNORECASE,
)
"""How torch and Triton say them (`cudaGetErrorString`), where an error has no code. At the start of a RuntimeError: a
judge that is asked over a network may quote the same of its own GPU."""
ASSERT = re.compile("assert", re.IGNORECASE)


class BrokenGPU(UserError):
    """This process can compute nothing more on its GPU."""


def is_broken(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is a sticky one. Imports no torch: without, there is none."""
    return any(_sticky(one) for one in _chain(error))


def check(error: BaseException) -> None:
    """Return where the next call can go well. error: of a call that failed.

    Raises: BrokenGPU; and the error itself where it is NCCL's, whose communicator is lost (`stage.guards.peers`).
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and isinstance(error, distributed.DistBackendError):
        raise error
    if not is_broken(error) or isinstance(error, BrokenGPU):
        return
    logger.error("the GPU of rank %d computes no more", rank(), exc_info=error)  # it may be a fault of ours
    said = next(str(one) for one in _chain(error) if _sticky(one)).strip().splitlines()[0][:200]
    where = f"in {here.broken}, step {here.step}" if here.step else f"in {here.broken}"
    advice = (
        "An index is out of range, or a kernel checks what does not hold: start the same command with "
        "CUDA_LAUNCH_BLOCKING=1 before it, and the traceback ends where it happens"
        if ASSERT.search(said)
        else "Start the same command with CUDA_LAUNCH_BLOCKING=1 before it: where the traceback then ends at the same "
        "line, it is the program; where it does not, it is the GPU or its driver (nvidia-smi -q -d ECC; dmesg | grep "
        "Xid): take another one"
    )
    raise BrokenGPU(
        f"the GPU of rank {rank()} computes no more: {said}, {where}. Each further call of this process would fail, so "
        f"it ends. {advice}{'. What was written stays; to resume: the same command with resume=auto' * bool(here.step)}"
    ) from error


def _sticky(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) in CODES or bool(TEXTS.search(str(error)))
    return type(error) is RuntimeError and bool(TEXTS.search(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
