"""The parity check: shared against plain log-probabilities, in the measure of each precision."""

from __future__ import annotations

import torch

from vlm.common.errors import UserError

TOLERANCE = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}
"""Of the parity check, in nats. float32: of the largest difference of any token; summing in another order gives some
1e-6. Half precision: of the mean over tokens, because rounding alone moves single tokens by tenths. On the demo's base,
mean over tokens: shared against plain 0.010 in bfloat16 and 0.0019 in float16 (plain bfloat16 is 0.05 from its own
float32), and with wrong pixels 0.28."""


def precision(args, model) -> str:
    """The dtype that the forward pass computes in, as a key of `TOLERANCE`; TF32 has float16's mantissa."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    dtype = str(model.dtype).removeprefix("torch.")
    tf32 = model.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "float16" if dtype == "float32" and tf32 else dtype


def deviation(shared: torch.Tensor, plain: torch.Tensor, there: torch.Tensor, dtype: str) -> torch.Tensor:
    """How far two sets of (B, K) log-probabilities are apart, in the measure of `TOLERANCE`; nats. 0 of no token."""
    delta = (shared - plain).abs().float()[there.bool()]
    if not delta.numel():
        return delta.new_zeros(())
    return delta.max() if dtype == "float32" else delta.mean()


def judge(figure: float, dtype: str) -> None:
    """Raises: UserError when shared and plain log-probabilities are further apart than rounding explains."""
    if not figure <= TOLERANCE[dtype]:  # NaN too
        measure = "the largest difference of a token" if dtype == "float32" else "the mean difference of a token"
        raise UserError(
            f"shared prefixes give other log-probabilities than TRL's plain path: on the first batch {measure} is "
            f"{figure:.3g} nats, in {dtype} at most {TOLERANCE[dtype]:g} was expected. Train with share_prefix: false, "
            "and please report the model and the versions; check_sharing: false skips this check"
        )
