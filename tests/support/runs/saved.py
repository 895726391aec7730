"""What autograd keeps, measured."""

from __future__ import annotations

import weakref

import torch


class Kept:
    """What the graph holds of a tensor: detached, or an operation that keeps its output would hold itself."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()


def saved_bytes(model, inputs):
    """Bytes of distinct storages that autograd keeps for the backward pass of the backbone, parameters aside, when its
    forward pass is through: what was computed and not used is gone by then."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held = weakref.WeakSet()

    def pack(tensor):
        kept = Kept(tensor)
        held.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        out = inner.model(**inputs, use_cache=False).last_hidden_state
    assert out.requires_grad
    storages = {}
    for kept in held:
        storage = kept.tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(size for place, size in storages.items() if place not in own)
