"""A stand-in for flash-attn 2.8 in plain torch, on any device: the calls that transformers 5.23 and Nadir make.

It computes what is documented, in float32, with gradients, and checks what the real one checks, and what it reads over
without a word: bounds that do not end with the rows, a `max_seqlen` below the longest row. Arguments that nobody here
gives are refused. `calls` counts.

Read for it, of github.com/Dao-AILab/flash-attention: csrc/flash_attn/flash_api.cpp at 765fbd9 (mha_fwd: its checks) and
src/block_info.h; of later versions, which only forks gave whole, the checks of mha_varlen_fwd and mha_fwd_kvcache, the
docstring and wrapper of flash_attn_with_kvcache (its mask ends at the bottom right; `cache_leftpad`: "the
index that the KV cache starts"), and tests/test_flash_attn.py: a key counts where cache_leftpad ≤ its place <
cache_seqlens. Not run against the real one. Offsets of elements are 64 bits there (index_t), so only rows are bound by
int32.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

__version__ = "2.8.3"

calls: Counter[str] = Counter()
"""Of each function, and of the dtypes given; `unpadded decoding`: the variable-length one with one query a row."""


def flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """(B, Lq, H, D), (B, Lk, H_kv, D) twice → (B, Lq, H, D)."""
    calls["flash_attn_func"] += 1
    _unused(softcap=softcap, alibi_slopes=alibi_slopes, return_attn_probs=return_attn_probs)
    _check(q, k, v)
    _expect(q.ndim == k.ndim == 4 and len(q) == len(k), f"shapes {tuple(q.shape)} and {tuple(k.shape)}")
    rows = [_row(*states, softmax_scale, causal, window_size, dropout_p) for states in zip(q, k, v, strict=True)]
    return torch.stack(rows)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):  # fmt: skip
    """(Σ Lq, H, D), (Σ Lk, H_kv, D) twice → (Σ Lq, H, D)."""
    calls["flash_attn_varlen_func"] += 1
    calls["unpadded decoding"] += int(max_seqlen_q) == 1 and causal
    _unused(softcap=softcap, alibi_slopes=alibi_slopes, return_attn_probs=return_attn_probs, block_table=block_table)
    _check(q, k, v)
    _expect(q.ndim == k.ndim == 3, f"shapes {tuple(q.shape)} and {tuple(k.shape)}")
    bounds = [_bounds(*given) for given in ((q, cu_seqlens_q, max_seqlen_q), (k, cu_seqlens_k, max_seqlen_k))]
    _expect(len(bounds[0]) == len(bounds[1]), "cu_seqlens_q and cu_seqlens_k have different lengths")
    rows = []
    for (q0, q1), (k0, k1) in zip(*(zip(b, b[1:], strict=False) for b in bounds), strict=True):
        rows.append(_row(q[q0:q1], k[k0:k1], v[k0:k1], softmax_scale, causal, window_size, dropout_p))
    return torch.cat(rows)


def flash_attn_with_kvcache(
    q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, cache_batch_idx=None,
    cache_leftpad=None, block_table=None, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False,
):  # fmt: skip
    """(B, Lq, H, D), (B, L, H_kv, D) twice → (B, Lq, H, D), without gradients."""
    calls["flash_attn_with_kvcache"] += 1
    _unused(
        k=k, v=v, rotary_cos=rotary_cos, rotary_sin=rotary_sin, cache_batch_idx=cache_batch_idx, softcap=softcap,
        block_table=block_table, alibi_slopes=alibi_slopes, return_softmax_lse=return_softmax_lse,
    )  # fmt: skip
    _expect(k_cache.stride(-1) == v_cache.stride(-1) == 1, "k_cache and v_cache must have contiguous last dimension")
    _expect(not any(state.requires_grad for state in (q, k_cache, v_cache)), "it has no backward pass")
    _check(q, k_cache, v_cache)
    places = []
    for name, given, default in (("leftpad", cache_leftpad, 0), ("seqlens", cache_seqlens, k_cache.shape[1])):
        if not isinstance(given, Tensor):
            given = torch.full((len(q),), default if given is None else given, dtype=torch.int32)
        _expect(given.dtype == torch.int32 and given.shape == (len(q),), f"{name}: {given.dtype} {tuple(given.shape)}")
        _expect(given.is_contiguous(), f"{name} must be contiguous")
        places.append(_hidden(given))
    rows = []
    for query, keys, values, start, stop in zip(q, k_cache, v_cache, *places, strict=True):
        _expect(0 <= start <= stop <= len(keys), f"a cache of {len(keys)} from {start} to {stop}")
        rows.append(_row(query, keys[start:stop], values[start:stop], softmax_scale, causal, window_size, 0.0))
    return torch.stack(rows)


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(f"flash_attn: {message}")


def _unused(**given) -> None:
    for name, value in given.items():
        _expect(value is None or not value, f"the stand-in does not know {name}")


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    calls[str(q.dtype)] += 1
    _expect(q.dtype in (torch.float16, torch.bfloat16), f"only fp16 and bf16 are supported, not {q.dtype}")
    _expect(q.dtype == k.dtype == v.dtype, f"query, key and value are {q.dtype}, {k.dtype} and {v.dtype}")
    _expect(q.device == k.device == v.device, "query, key and value must be on one device")
    _expect(k.shape == v.shape, f"key and value differ: {tuple(k.shape)} and {tuple(v.shape)}")
    _expect(q.shape[-1] == k.shape[-1] <= 256, f"head sizes {q.shape[-1]} and {k.shape[-1]}; at most 256")
    _expect(q.shape[-2] % k.shape[-2] == 0, f"{k.shape[-2]} heads of keys do not divide {q.shape[-2]} of queries")
    _expect(len(q) > 0, "batch size must be positive")
    _expect(max(len(q), len(k)) < 2**31, "rows are counted in int32")


def _hidden(numbers: Tensor) -> list[int]:
    """A copy for the host that no counter of waits sees: the real kernel reads them on the GPU."""
    with torch.utils._python_dispatch._disable_current_modes():
        return numbers.tolist()


def _bounds(states: Tensor, cu_seqlens: Tensor, longest: int) -> list[int]:
    _expect(cu_seqlens.dtype == torch.int32, f"cu_seqlens must have dtype int32, not {cu_seqlens.dtype}")
    _expect(cu_seqlens.is_contiguous() and cu_seqlens.ndim == 1, "cu_seqlens must be contiguous, with one dimension")
    found = _hidden(cu_seqlens)
    lengths = [b - a for a, b in zip(found, found[1:], strict=False)]
    _expect(found[0] == 0 and found[-1] == len(states), f"bounds {found} of {len(states)} rows")
    _expect(min(lengths) >= 0, f"bounds {found} do not rise")
    _expect(max(lengths) <= int(longest), f"max_seqlen is {int(longest)}, the longest row {max(lengths)}")
    return found


def _row(q, k, v, scale, causal, window, dropout):
    """(Lq, H, D), (Lk, H_kv, D) twice → (Lq, H, D): one sequence, written out."""
    queries, keys = len(q), len(k)
    left, right = window
    right = 0 if causal else right
    # the last query stands at the last key
    behind = torch.arange(queries, device=q.device)[:, None] + keys - queries - torch.arange(keys, device=q.device)
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
    seen = seen if left < 0 else seen & (behind <= left)
    seen = seen if right < 0 else seen & (behind >= -right)
    group, kind = q.shape[1] // k.shape[1], q.dtype
    q, k, v = (
        state.float().transpose(0, 1) for state in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
    )
    scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).masked_fill(~seen, 0)  # 0 for a query that sees nothing
    weights = torch.nn.functional.dropout(weights, dropout)
    return (weights @ v).transpose(0, 1).to(kind)
