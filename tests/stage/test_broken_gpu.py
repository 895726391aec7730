"""Errors after which a GPU computes no more, and what tries no row again then."""

from __future__ import annotations

import pytest
import torch

from rewards.guarded import Guarded, Limits
from rewards.score import Exchange
from rewards.score.reward.faults import attempt
from stage.guards import broken_gpu, out_of_memory
from stage.guards.progress import here

ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.fixture(autouse=True)
def nowhere():
    yield
    here.at("start", 0)  # there is one for the process


def coded(text, code):
    error = torch.AcceleratorError(text)
    error.error_code = code
    return error


def raised_from(cause):
    try:
        raise ValueError("no score") from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (coded("CUDA error: device-side assert triggered\nCUDA kernel errors might be", 710), True),
        (coded("CUDA error: unrecognized error code", 719), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError(ILLEGAL), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("CUDA error: the launch timed out and was terminated"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle)`"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("HIP error: unspecified launch failure"), True),
        (raised_from(coded(ILLEGAL, 700)), True),
        # the next call can go well
        (coded("CUDA error: invalid configuration argument", 9), False),
        (coded("CUDA error: out of memory", 2), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (ValueError(ILLEGAL), False),
        (RuntimeError(f"the judge answered 500: {ILLEGAL}"), False),  # a GPU elsewhere
    ],
)
def test_which_errors_last(error, broken):
    assert broken_gpu.is_broken(error) is broken


class Breaks:
    """A reward and a scorer whose GPU broke in the first call."""

    __name__ = "breaks"

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, completions, **columns):
        self.calls += 1
        raise self.error

    score = __call__


def test_no_row_is_tried_again(caplog):
    here.at("update", 7)
    reward = Breaks(coded("CUDA error: device-side assert triggered\nMore", 710))
    rows = {"completions": [[{"role": "assistant", "content": "a"}]] * 4, "id": list("aabb"), "source": ["x"] * 4}
    told = (
        r"^the GPU of rank 0 computes no more: CUDA error: device-side assert triggered, in rewards \(breaks\), step 7"
        r"\. .*CUDA_LAUNCH_BLOCKING=1 before it.*resume=auto$"
    )
    with pytest.raises(broken_gpu.BrokenGPU, match=told):
        Guarded(reward, "breaks", Limits(retries=3))(**rows)
    assert reward.calls == 1 and caplog.records[-1].exc_info[1] is reward.error  # the traceback is shown
    scorer = Breaks(RuntimeError(ILLEGAL))
    with pytest.raises(broken_gpu.BrokenGPU, match="nvidia-smi"):
        attempt(scorer, [Exchange.of("?", "a"), Exchange.of("?", "b")])
    assert scorer.calls == 1


def test_a_lost_communicator_ends_the_call():
    error = torch.distributed.DistBackendError("NCCL communicator was aborted on rank 0. ")
    reward = Breaks(error)
    with pytest.raises(torch.distributed.DistBackendError):
        Guarded(reward, "breaks", Limits())(completions=[[{"role": "assistant", "content": "a"}]] * 2)
    assert reward.calls == 1


def test_training_says_it_too():
    def train(recipe):
        with here.within("update"):
            raise coded("CUDA error: unspecified launch failure", 719)

    with pytest.raises(broken_gpu.BrokenGPU, match="unspecified launch failure, in update"):
        out_of_memory.advised(lambda recipe: None)(train)(None)
