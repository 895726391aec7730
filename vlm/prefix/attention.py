"""Attention over a packed row: each prefix causal in itself, each segment over its prefix and itself.

Registered in transformers' attention interface under own names, one for each implementation beneath. Without a
`shared_prefix` keyword they compute what the implementation beneath does, FlashAttention-2 with less waiting where rows
are padded (`padding.py`), so generation and every other forward pass stay as they were. The keyword is given to the
model's forward pass; transformers hands it down to the attention function, also through PEFT, DDP, DeepSpeed and the
recomputation of gradient checkpointing.

Only the language model is switched; the vision tower keeps its attention.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flash_attention import get_target_dtype
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vlm import families
from vlm.prefix import cache, padding
from vlm.prefix.packing import Block, Layout, model_config, multimodal

logger = logging.getLogger(__name__)

# No "flash" in the second name: transformers takes every name with that word for one of its own kernels.
NAMES = {"sdpa": "shared_prefix_sdpa", "flash_attention_2": "shared_prefix_fa2"}


def padded(states: torch.Tensor, block: Block) -> torch.Tensor:
    """(1, H, Σ lengths, D) of a block's segments → (G, H, R, D), padded on the right."""
    rows = states[0] if block.gather is None else states[0].index_select(1, block.gather)
    return rows.unflatten(1, (len(block.segments), -1)).transpose(0, 1)


def unpadded(states: torch.Tensor, block: Block) -> torch.Tensor:
    """(G, R, H, D) of a block's segments → (1, Σ lengths, H, D)."""
    rows = states.flatten(0, 1)
    return (rows if block.valid is None else rows.index_select(0, block.valid))[None]


def sdpa(module, query, key, value, attention_mask, shared_prefix: Layout | None = None, shared_cache=None, **options):
    """`sdpa`, or packed: query (1, H, T, D), key and value (1, H_kv, T, D) → (1, T, H, D).

    Prefix by prefix, so that no prompt is padded to the longest and all segments of a prefix share one mask.
    shared_cache: the cache of a rollout that holds each prompt once (`vlm.prefix.cache`), before each row's own keys.
    """
    if shared_cache is not None:
        layer = shared_cache.layers[module.layer_idx]
        return cache.attend(layer, query, key, value, attention_mask, options.get("scaling")), None
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    blocks = shared_prefix.blocks
    # one split: its gradient is one concatenation, where that of many slices is many rows of zeros
    sizes = [size for block in blocks for size in (block.prefix, sum(block.segments))]
    parts = zip(*(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    outputs = []
    for block in blocks:
        (q, k, v), own = next(parts), next(parts)
        if block.prefix:
            outputs.append(sdpa_attention_forward(module, q, k, v, None, **{**options, "is_causal": True})[0])
        if block.segments:
            q, *own = (padded(states, block) for states in own)
            count = len(block.segments)
            k, v = (torch.cat([a.expand(count, -1, -1, -1), b], 2) for a, b in zip((k, v), own, strict=True))
            found = sdpa_attention_forward(module, q, k, v, block.mask, **{**options, "is_causal": False})[0]
            outputs.append(unpadded(found, block))
    return torch.cat(outputs, 1), None


def flash_varlen() -> Callable:
    """`flash_attn_varlen_func` of flash-attn 2; its causal mask ends at the bottom right where keys are more."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func


def flash_attention_2(module, query, key, value, attention_mask, shared_prefix: Layout | None = None, **options):
    """`flash_attention_2`, or packed: query (1, H, T, D), key and value (1, H_kv, T, D) → (1, T, H, D), one kernel.

    Queries stay where they are; each segment's keys are its prefix's and its own.
    """
    if shared_prefix is None:
        return padding.attend(module, query, key, value, attention_mask, **options)
    spans = shared_prefix.sequences
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if (dtype := get_target_dtype(query, module)) is not None:  # PEFT can leave float32 states
        query, key, value = (states.to(dtype) for states in (query, key, value))
    output = flash_varlen()(
        query,
        key[spans.gather],
        value[spans.gather],
        cu_seqlens_q=spans.queries,
        cu_seqlens_k=spans.keys,
        max_seqlen_q=spans.longest_query,
        max_seqlen_k=spans.longest_key,
        dropout_p=options.get("dropout", 0.0),
        softmax_scale=options.get("scaling"),
        causal=True,
        deterministic=os.getenv("FLASH_ATTENTION_DETERMINISTIC", "0") == "1",  # full_determinism sets it
    )
    return output[None], None


for _name, _attend, _mask in (
    ("sdpa", sdpa, sdpa_mask),
    ("flash_attention_2", flash_attention_2, padding.mask),
):
    AttentionInterface.register(NAMES[_name], _attend)
    AttentionMaskInterface.register(NAMES[_name], _mask)


def language_model(model) -> PreTrainedModel:
    """The text decoder inside a model, however wrapped."""
    return multimodal(model).language_model


def obstacle(model) -> str | None:
    """Why this model cannot share prefixes, or None where it can."""
    if fault := families.of(model_config(model)).unshared:
        return fault
    config = language_model(model).config
    name = config._attn_implementation
    if name not in NAMES and name not in NAMES.values():
        return f"its attention is {name}, and prefixes are shared under {' and '.join(NAMES)}"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if getattr(config, "layer_types", None) is None and getattr(config, "sliding_window", None):  # as Mistral's says it
        kinds.add("sliding_attention")
    said = " and ".join(sorted(kinds)).replace("sliding_", "sliding-window ").replace("_", " ")
    return f"it has layers of {said}" if kinds else None


def keep_wanted(module, args, kwargs, outputs):
    """Forward hook: pass on only the hidden states that the layout asks for, so that no head sees the others."""
    layout = kwargs.get("shared_prefix")
    if layout is not None and layout.kept is not None:
        outputs.last_hidden_state = outputs.last_hidden_state[:, layout.kept]
    return outputs


def enable(model) -> None:
    """Let the language model of `model` take packed rows; once is enough, twice does no harm.

    Raises: ValueError where `obstacle` finds one.
    """
    if fault := obstacle(model):
        raise ValueError(f"this model cannot share prefixes: {fault}")
    _switch(model)
    text = language_model(model)
    if keep_wanted not in text._forward_hooks.values():
        text.register_forward_hook(keep_wanted, with_kwargs=True)


def obstacle_in_decoding(model) -> str | None:
    """Why rows of a rollout cannot read their prompt's keys where they stand once, or None where they can."""
    if fault := obstacle(model):
        return fault
    text = language_model(model)
    if text.config._attn_implementation not in ("sdpa", NAMES["sdpa"]):
        return f"its attention is {text.config._attn_implementation}"
    if text.training and getattr(text.config, "attention_dropout", 0):
        return "attention drops out"
    device = next(text.parameters()).device
    return None if device.type == "cpu" else f"on {device.type} there is no kernel that tells its log-sum-exps"


@contextmanager
def switched(model) -> Iterator[None]:
    """Within, attention is this module's, unless `obstacle_in_decoding` finds something."""
    if obstacle_in_decoding(model):
        yield
        return
    config = language_model(model).config
    before = config._attn_implementation_internal
    config._attn_implementation_internal = NAMES["sdpa"]
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def pad_once(model) -> None:
    """Under FlashAttention-2, let the language model of `model` see to padding once a pass and not in every layer."""
    if families.of(model.config).unshared or language_model(model).config._attn_implementation != "flash_attention_2":
        return
    if fault := obstacle(model):
        logger.warning("FlashAttention-2 unpads in every layer, and in rollouts for every token: %s", fault)
    else:
        _switch(model)


def _switch(model) -> None:
    config = language_model(model).config
    if config._attn_implementation in NAMES:
        config._attn_implementation_internal = NAMES[config._attn_implementation]
