"""What CUDA refuses under deterministic algorithms, refused on the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ALWAYS = (
    "kthvalue histc nll_loss2d_forward nll_loss2d_backward put avg_pool3d_backward _adaptive_avg_pool2d_backward "
    "_adaptive_avg_pool3d_backward adaptive_max_pool2d_backward fractional_max_pool2d_backward "
    "fractional_max_pool3d_backward max_unpool2d max_unpool3d upsample_linear1d_backward upsample_bilinear2d_backward "
    "upsample_bicubic2d_backward upsample_trilinear3d_backward _upsample_bilinear2d_aa_backward "
    "_upsample_bicubic2d_aa_backward reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward "
    "_ctc_loss_backward grid_sampler_2d_backward grid_sampler_3d_backward"
)
"""ATen's names, with `cumsum` of floats, `bincount` with weights, `median` with places and products in `scatter_reduce`
the list of `torch.use_deterministic_algorithms` in torch 2.13 (without quantised tensors and `EmbeddingBag`)."""


def refused(name: str, args: tuple, kwargs: dict) -> bool:
    """name: of ATen, without the underscore of what works in place."""
    if name == "cumsum":
        return args[0].is_floating_point() and kwargs.get("dtype") in (None, torch.float32, torch.float64)
    if name == "bincount":
        return len(args) > 1 or kwargs.get("weights") is not None
    if name in ("median", "nanmedian"):
        return len(args) > 1
    return name in ALWAYS.split() or (name == "scatter_reduce" and "prod" in args)


class AsOnCUDA(TorchDispatchMode):
    """Raises what CUDA raises; counts what was called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__.removesuffix("_"), kwargs or {}
        self.calls[name] = self.calls.get(name, 0) + 1
        if torch.are_deterministic_algorithms_enabled() and refused(name, args, kwargs):
            raise RuntimeError(f"{name}_cuda_kernel does not have a deterministic implementation")
        return func(*args, **kwargs)


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards the switches of `transformers.enable_full_determinism` are as they were."""
    before, cudnn = dict(os.environ), (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
