"""`pad_input` and `unpad_input` of flash-attn 2.8, as transformers 5.23 calls them."""

from __future__ import annotations

import torch

from flash_attn import calls


def unpad_input(hidden_states, attention_mask, unused_mask=None):
    """(B, L, …) and (B, L) of 0 and 1 → the tokens' states, their places, bounds, the longest row, rows' lengths."""
    calls["unpad_input"] += 1
    if unused_mask is not None:
        raise RuntimeError("flash_attn: the stand-in does not know unused_mask")
    lengths = attention_mask.sum(-1, dtype=torch.int32)
    places = attention_mask.flatten().nonzero().flatten()
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden_states.flatten(0, 1)[places], places, bounds, lengths.max().item(), lengths


def pad_input(hidden_states, indices, batch, seqlen):
    """The way back; 0 where there is no token."""
    calls["pad_input"] += 1
    whole = hidden_states.new_zeros(batch * seqlen, *hidden_states.shape[1:])
    whole[indices] = hidden_states
    return whole.unflatten(0, (batch, seqlen))
