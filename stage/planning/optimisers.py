"""How much an optimiser keeps for a weight: what `training.optim` adds to GPUs' memory and to a checkpoint.

Read in torch 2.13, transformers 5.23 (Adafactor), bitsandbytes 0.48 and torchao 0.14. Quantised states have one float32
scale for each block of 256 values (4-bit: 128).
"""

from __future__ import annotations

_EIGHT, _FOUR = 1 + 4 / 256, 0.5 + 4 / 128
STATES: dict[str, tuple[int, float | None]] = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused"), (2, None)),
    **dict.fromkeys(("stable_adamw", "schedule_free_adamw", "schedule_free_radam"), (2, None)),
    "grokadamw": (3, None), "adamw_anyprecision": (2, None), "paged_adamw_32bit": (2, 4), "ademamix": (3, 4),
    "paged_ademamix_32bit": (3, 4),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), (2, _EIGHT)),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), (3, _EIGHT)),
    "adamw_torch_4bit": (2, _FOUR),
    **dict.fromkeys(("lion_32bit", "paged_lion_32bit", "rmsprop_bnb_32bit", "rmsprop_bnb"), (1, 4)),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), (1, _EIGHT)),
    **dict.fromkeys(("adagrad", "rmsprop", "schedule_free_sgd"), (1, None)),
    "sgd": (0, None),
}  # fmt: skip
"""`training.optim` → (values kept for a weight, bytes of each; None: the weight's own)."""
FACTORED = "adafactor"


def known(optimiser: str) -> bool:
    """Whether it is in the table; any other is planned as AdamW, than which few keep more."""
    return optimiser in STATES or optimiser == FACTORED


def state_bytes(optimiser: str, weight_bytes: int, flat: bool) -> float:
    """Bytes kept for one weight, a float32 master copy aside.

    flat: DeepSpeed hands over one long vector instead of matrices. Adafactor keeps one value a row and one a column of
    a matrix (next to nothing), but one a place of a vector.
    """
    if optimiser == FACTORED:
        return 4 if flat else 0
    count, size = STATES.get(optimiser, (2, None))
    return count * (weight_bytes if size is None else size)
