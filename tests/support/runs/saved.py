"""What autograd keeps, measured."""

from __future__ import annotations

import torch


def saved_bytes(model, inputs):
    """Bytes of distinct storages that autograd keeps for the backward pass of the backbone, parameters
    aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen, kept = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # keep it alive, or its address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        out = inner.model(**inputs, use_cache=False).last_hidden_state
    assert out.requires_grad
    return sum(seen.values())
