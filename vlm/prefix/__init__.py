"""Shared prefixes: a prompt is computed once, whatever number of continuations stands on it, with gradients, exactly.

    enable(model)                                           # once: the language model learns the packed attention
    packed = pack([prefix], [[first, second]], positions=rope_positions(model, [prefix], [grid]))
    model(**packed.inputs, pixel_values=…, image_grid_thw=…)

Prefixes and continuations lie in one row without padding, so the linear layers see every token of a prompt once;
attention lets each continuation see its own prefix and itself (`attention.py`). It is one ordinary forward pass:
gradient checkpointing, LoRA, DDP and ZeRO need nothing of their own.
"""

from vlm.prefix.attention import enable, obstacle, pad_once
from vlm.prefix.packing import Layout, Packed, axes_of, model_config, multimodal, pack, rope_positions

__all__ = [
    "Layout", "Packed", "axes_of", "enable", "model_config", "multimodal", "obstacle", "pack", "pad_once",
    "rope_positions",
]  # fmt: skip
