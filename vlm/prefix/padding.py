"""Padded rows under FlashAttention-2: what their padding costs is paid once a forward pass, and in decoding not at all.

transformers 5.23 unpads in every layer: it waits for the GPU twice and copies queries, keys and values. In a rollout of
prompts of unequal length it does so for every new token. Here the mask function, which runs once a pass, gives the
layers a `Padding`. A layer that decodes tells flash-attn where each row's cache begins (`cache_leftpad`, flash-attn
2.6), which needs no copy and nothing from the host. All other passes unpad by indices that are found once.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.flash_attention import flash_attention_forward, get_target_dtype
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_flash_attention_utils import _get_unpad_data

logger = logging.getLogger(__name__)

TOLERANCE = 0.03
"""Of `deviation`. Half precision rounds values of about 1 by 2^-9, and those checked are below 4; a key too many or too
few in the short rows changes them by about 1."""


class Padding:
    """What the mask of a pass says to its layers, each thing found once."""

    def __init__(self, mask: Tensor, decode: Callable | None = None):
        self.mask = mask
        """(B, L) bool, of all keys; it ends with the queries' own."""
        self.decode = decode
        """flash-attn's kernel where the pass decodes: one query a row."""

    def contiguous(self) -> Padding:
        """transformers asks for it before the first pass over a static cache."""
        return self

    @cached_property
    def left(self) -> Tensor:
        """(B,) int32, empty places before each row. An empty place behind a token ends the run; on a GPU by an
        assertion in a kernel, since nothing waits for it."""
        holes = (self.mask[:, :-1] & ~self.mask[:, 1:]).any()
        torch._assert_async(~holes, "rows to be continued must be padded on the left, and there is padding elsewhere")
        return self.mask.shape[1] - self.mask.sum(-1, dtype=torch.int32)

    @cached_property
    def ends(self) -> Tensor:
        """(B,) int32, where each row's cache ends: with the mask, as transformers adds a place to each row with each
        token, also behind a row's end."""
        return torch.full((len(self.mask),), self.mask.shape[1], dtype=torch.int32, device=self.mask.device)

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor, int]:
        """Places of the tokens among (B · L); (B + 1,) int32 bounds of the rows among the tokens; the longest row."""
        return _get_unpad_data(self.mask)


def mask(batch_size: int, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **given: Any):
    """transformers' mask function for FlashAttention, once a forward pass; a `Padding` where `attend` can use one.

    Where a static cache decodes, transformers' own: it may be compiled, which no skipping tells.
    """
    skips = given.get("allow_is_causal_skip", True)
    if attention_mask is not None and q_length == 1 and skips and (kernel := decoder_of(**given)):
        return Padding(attention_mask[:, -kv_length:], kernel)
    found = flash_attention_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, **given)
    return Padding(found) if found is not None and found.shape[1] == q_length == kv_length else found


def attend(module, query, key, value, attention_mask, **options) -> tuple[Tensor, None]:
    """`flash_attention_2`: query (B, H, T, D), key and value (B, H_kv, L, D) → (B, T, H, D)."""
    if not isinstance(attention_mask, Padding):
        return plain(module, query, key, value, attention_mask, **options)
    if attention_mask.decode is None:
        return unpadded(module, query, key, value, attention_mask, **options)
    if query.requires_grad or options.get("dropout"):  # the kernel has neither
        return plain(module, query, key, value, attention_mask.mask, **options)
    states = [state.transpose(1, 2) for state in (query, key, value)]
    if (dtype := get_target_dtype(query, module)) is not None:  # PEFT can leave float32 states
        states = [state.to(dtype) for state in states]
    where = {"cache_seqlens": attention_mask.ends, "cache_leftpad": attention_mask.left}
    return attention_mask.decode(*states, **where, softmax_scale=options.get("scaling")), None


def plain(module, query, key, value, attention_mask, **options) -> tuple[Tensor, None]:
    """transformers' own, which chooses its kernel by the name in the config."""
    own = module.config._attn_implementation_internal
    module.config._attn_implementation_internal = "flash_attention_2"
    try:
        return flash_attention_forward(module, query, key, value, attention_mask, **options)
    finally:
        module.config._attn_implementation_internal = own


def unpadded(module, query, key, value, padding: Padding, **options) -> tuple[Tensor, None]:
    """transformers' own on the tokens alone; 0 where there is none."""
    places, bounds, longest = padding.tokens
    states = (state.transpose(1, 2).flatten(0, 1)[places].transpose(0, 1)[None] for state in (query, key, value))
    lengths = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
    found = plain(module, *states, None, **lengths, **options)[0][0]
    whole = found.new_zeros(padding.mask.numel(), *found.shape[1:])
    whole[places] = found
    return whole.unflatten(0, padding.mask.shape), None


def decoder_of(config, dtype: torch.dtype, device: torch.device, **_: Any) -> Callable | None:
    """`decoder` of a language model; the rest is what transformers tells a mask function."""
    heads = config.num_attention_heads
    half = dtype if dtype in (torch.float16, torch.bfloat16) else torch.bfloat16  # float32 states are cast
    return decoder(heads, config.num_key_value_heads, config.hidden_size // heads, half, device)


@functools.cache
def decoder(heads: int, key_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> Callable | None:
    """flash-attn's kernel for one query a row over a cache that begins where its row does. None, said once, where there
    is none, or where it computes something else here."""
    try:
        from flash_attn import __version__
        from flash_attn import flash_attn_with_kvcache as kernel
    except ImportError as error:
        fault = f"flash_attn has no flash_attn_with_kvcache ({error})"
    else:
        fault = f"flash-attn {__version__} has no cache_leftpad, 2.6 has"
        if "cache_leftpad" in inspect.signature(kernel).parameters:
            found = deviation(kernel, heads, key_heads, size, dtype, device)
            if found <= TOLERANCE:
                return kernel
            fault = (
                f"flash_attn_with_kvcache of flash-attn {__version__} is {found:.3g} from the same attention by SDPA, "
                f"and at most {TOLERANCE:g} was expected; please report this with the GPU's name"
            )
    logger.warning("rollout: slower than need be, as transformers unpads in every layer for every token: %s", fault)
    return None


def deviation(kernel, heads: int, key_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> float:
    """How far the kernel is from SDPA in float32: the largest difference, with numbers that are normally distributed.

    Over 300 keys, which are several blocks of the kernel, in one piece and split, which are two kernels; of some rows 1
    and 3 keys are left, where one too many shows.
    """
    left = torch.tensor([0, 1, 150, 297, 299], dtype=torch.int32, device=device)
    draw = torch.Generator().manual_seed(0)  # a rollout's own numbers stay as they are
    shapes = (len(left), heads, 1, size), (len(left), key_heads, 300, size), (len(left), key_heads, 300, size)
    states = [torch.randn(shape, generator=draw, device="cpu").to(device, dtype) for shape in shapes]
    seen = torch.arange(300, device=device) >= left[:, None]
    expected = scaled_dot_product_attention(
        *(state.float() for state in states), attn_mask=seen[:, None, None], enable_gqa=True
    )
    given = [state.transpose(1, 2) for state in states]  # strided, as the cache is
    where = {"cache_seqlens": torch.full_like(left, 300), "cache_leftpad": left, "softmax_scale": size**-0.5}
    found = torch.stack([kernel(*given, **where, num_splits=splits) for splits in (1, 2)])
    return (found.transpose(2, 3).float() - expected).abs().max().item()
