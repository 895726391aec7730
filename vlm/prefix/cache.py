"""What a rollout remembers: keys and values that are written where they stay, and a prompt's once for all of its rows.

transformers' `DynamicLayer` concatenates the whole cache, in each layer, for each token. `Growing` has room for more
and writes the token behind the others. `Shared` moreover holds the keys of each prompt once; a row has only its own
behind them, and `attend` attends to both: once to the prompt for all of its rows, once to each row's own. Merged by
their log-sum-exps this is the softmax over all keys, to rounding.

    share(prompts' caches, cache, index, seen)      # or `grow(cache)` for what cannot share
    model(…, past_key_values=cache, **told(cache))  # under the attention of `vlm.prefix.attention`
    mask = compact(cache, rows, kept)               # between two turns: some rows, of each some places
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

BLOCK = 64
"""Places by which room grows."""

LEAST = 50_000
"""Numbers in a layer's keys that rows would hold besides their prompts'; with fewer, a second kernel costs more than it
saves (measured for 2 to 64 rows, prompts of 40 to 600 tokens, 32 to 512 numbers a token)."""


class Growing(DynamicLayer):
    """transformers' `DynamicLayer` without a copy of the past for each token.

    `keys` and `values` (B, H, L, D) are views of tensors with room for more. Whatever else sets them (cropping,
    selecting) does as before: the next `update` moves them into new room. Overridden: `update`, `reset`.
    """

    def __init__(self, **given: Any):
        super().__init__(**given)
        self._room: tuple[Tensor, Tensor] | None = None
        self._seen: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **given: Any) -> tuple[Tensor, Tensor]:
        if key_states.requires_grad or value_states.requires_grad:  # what a backward pass needs is not written over
            return super().update(key_states, value_states, *args, **given)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.keys.shape[-2] if self.keys.numel() else 0
        new = key_states.shape[-2]
        if self._room is None or self.keys is not self._seen or past + new > self._room[0].shape[-2]:
            pairs = (self.keys, key_states), (self.values, value_states)
            self._room = tuple(_moved(old, states, past, past + new + BLOCK) for old, states in pairs)
        keys, values = self._room
        keys.narrow(2, past, new).copy_(key_states)
        values.narrow(2, past, new).copy_(value_states)
        self.keys, self.values = self._seen, _ = keys.narrow(2, 0, past + new), values.narrow(2, 0, past + new)
        return self.keys, self.values

    def reset(self) -> None:
        self._room = self._seen = None
        super().reset()


def _moved(old: Tensor, like: Tensor, past: int, size: int) -> Tensor:
    """Room for `size` places, with the first `past` of `old`."""
    room = like.new_empty(*like.shape[:2], size, like.shape[-1])
    if past:
        room[:, :, :past] = old
    return room


class Prompts:
    """Which of B rows continue which of U prompts; one object for all layers of a cache."""

    def __init__(self, index: Tensor, count: int, seen: Tensor | None):
        """index: (B,), the prompt of each row. seen: (U, P) bool, the prompts' tokens; None where none is padded."""
        self.index, self.count, self.seen = index, count, seen
        sizes = torch.bincount(index, minlength=count)
        self.group = int(sizes.max())
        """G, rows of the prompt that has most."""
        self.slots: Tensor | None = None
        """(U · G,), the row in each slot, where rows do not lie there in order: some other one in those left over."""
        self.places: Tensor | None = None
        """(B,), the slot of each row, likewise."""
        order = index.argsort(stable=True)
        first = (sizes.cumsum(0) - sizes)[index[order]]
        places = index[order] * self.group + torch.arange(len(index), device=index.device) - first
        if not (len(index) == count * self.group and order.equal(places)):
            self.slots = index.new_zeros(count * self.group).index_copy(0, places, order)
            self.places = torch.empty_like(index).index_copy(0, order, places)
        self._padding: dict[torch.dtype, Tensor] = {}
        self._asked: Tensor | None = None
        self._own: Tensor | None = None

    def padding(self, dtype: torch.dtype) -> Tensor | None:
        """(U, 1, 1, P), 0 at the prompts' tokens and -inf elsewhere; None where there is no padding."""
        if self.seen is None:
            return None
        if dtype not in self._padding:
            self._padding[dtype] = _additive(self.seen[:, None, None], dtype)
        return self._padding[dtype]

    def own(self, mask: Tensor | None, count: int, packed: int, dtype: torch.dtype) -> Tensor | None:
        """What a pass's mask (B, 1, T, P + S) says of the rows' own keys: (B, 1, packed · T, S); None: nothing."""
        if mask is None:
            return None
        if mask is not self._asked:  # the layers of a pass share their mask
            own = _additive(mask[..., -count:], dtype)
            self._asked, self._own = mask, own.repeat(1, 1, packed, 1) if own.any() else None
        return self._own


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """True → 0, False → -inf; what is no bool is additive already."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)


class Shared(Growing):
    """A layer that holds its prompts' keys (U, H, P, D) once, before each row's own (B, H, S, D) in `keys`.

    It is for attention that is handed the cache (`attend`). Any other would see the rows' own keys alone, so `update`
    raises where nothing attended to the last ones. Rows are selected by `compact` alone.
    """

    def __init__(self, prompts: Prompts, keys: Tensor, values: Tensor):
        super().__init__()
        self.prompts, self.prompt_keys, self.prompt_values = prompts, keys, values
        self.awaited = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **given: Any) -> tuple[Tensor, Tensor]:
        if self.awaited:
            raise RuntimeError("a cache of shared prompts was used under attention that does not know of them")
        self.awaited = True
        return super().update(key_states, value_states, *args, **given)

    def get_seq_length(self) -> int:
        return self.prompt_keys.shape[-2] + (self.keys.shape[-2] if self.is_initialized and self.keys.numel() else 0)

    def _refuse(self, *_: Any) -> None:
        raise NotImplementedError("a cache of shared prompts is neither reset, cropped nor reordered; see `compact`")

    reset = crop = reorder_cache = batch_repeat_interleave = batch_select_indices = offload = _refuse


def attend(
    layer: Shared, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """Attention of query (B, H, T, D) to each row's prompt and its own keys (B, H_kv, S, D) → (B, T, H, D).

    mask: the pass's, (B, 1, T, P + S), bool or additive.
    """
    layer.awaited = False
    prompts, kernel = layer.prompts, torch._scaled_dot_product_flash_attention_for_cpu
    units, shared, _, size = layer.prompt_keys.shape
    rows, heads, new, _ = query.shape
    grouped = (units, prompts.group, shared, heads // shared * new)
    query = query.reshape(rows, shared, grouped[-1], size)
    own = prompts.own(mask, key.shape[2], heads // shared, query.dtype)
    last, last_sum = kernel(query, key, value, attn_mask=own, scale=scale)
    if prompts.slots is not None:
        query = query.index_select(0, prompts.slots)
    together = query.view(*grouped, size).transpose(1, 2).reshape(units, shared, -1, size)
    padding = prompts.padding(query.dtype)
    first, first_sum = kernel(together, layer.prompt_keys, layer.prompt_values, attn_mask=padding, scale=scale)
    by_prompt = (units, shared, prompts.group, grouped[-1])
    first, first_sum = first.view(*by_prompt, size).transpose(1, 2), first_sum.view(by_prompt).transpose(1, 2)
    if prompts.places is not None:
        first, first_sum = (part.flatten(0, 1).index_select(0, prompts.places) for part in (first, first_sum))
    else:
        last, last_sum = last.view(first.shape), last_sum.view(first_sum.shape)
    share = (first_sum - last_sum).sigmoid_().unsqueeze(-1)
    found = last.to(share.dtype).lerp(first.to(share.dtype), share).to(query.dtype)
    return found.view(rows, heads, new, size).transpose(1, 2)


def grow(cache: Cache) -> None:
    """Let the plain layers of an empty cache, as `generate` makes it, write without copying. No others."""
    if type(cache) is not DynamicCache or cache.offloading:
        return
    cache.layers = [Growing() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = Growing


def plain(cache: Cache) -> bool:
    """Whether all layers of an empty cache are, or will be, `DynamicLayer`s that stay on their device."""
    if type(cache) is not DynamicCache or cache.offloading:
        return False
    kinds = {type(layer) for layer in cache.layers} or {cache.layer_class_to_replicate}
    return kinds == {DynamicLayer}


def share(sources: Sequence[Cache], target: Cache, index: Tensor, seen: Tensor) -> None:
    """Fill the empty `target` (`plain`) with the prompts of the sources, one after another, for rows `index` (B,).

    seen: (U, P), 0 where a prompt is padded.
    """
    prompts = Prompts(index, len(seen), None if seen.all() else seen.bool())
    target.layers = []
    for number in range(len(sources[0].layers)):
        layers = [source.layers[number] for source in sources]
        keys, values = (torch.cat(parts) for parts in zip(*((one.keys, one.values) for one in layers), strict=True))
        for layer in layers:
            layer.reset()
        target.layers.append(Shared(prompts, keys, values))


def told(cache: Cache) -> dict[str, Any]:
    """What the model's forward pass has to be told of this cache, as keywords."""
    return {"shared_cache": cache} if any(type(layer) is Shared for layer in cache.layers) else {}


COMPACTED = (DynamicLayer, Growing, Shared)
"""Kinds of layers of which `compact` can select."""


def compact(cache: Cache, rows: Tensor, kept: Tensor) -> Tensor:
    """Leave of the cache rows `rows` (N,), and of these the places `kept` (N, L) bool, in their order.

    Returns (N, L') bool, the places that now hold something: those of each row stand together at the right end. Where
    prompts are shared they stay where they were, all of them kept, and the empty places come between prompt and rest.
    `new[mask] = old[rows][kept]` moves ids, positions and whatever else has a number for each place.

    Raises: ValueError where a place of a shared prompt is to go, or a layer is of another kind than this module's and
    transformers' plain one.
    """
    first = cache.layers[0]
    prompt = first.prompt_keys.shape[-2] if isinstance(first, Shared) else 0
    mask, own = kept[:, :prompt], kept[:, prompt:]
    if prompt:
        seen = first.prompts.seen
        index = first.prompts.index[rows]
        if not (mask.all() if seen is None else mask.equal(seen[index])):
            raise ValueError("kept: the prompts of a shared cache are kept whole")
        prompts = Prompts(index, first.prompts.count, seen)
    length = int(own.sum(-1).max())
    places = own.int().argsort(dim=-1, stable=True)[:, own.shape[1] - length :]
    for layer in cache.layers:
        if type(layer) not in COMPACTED:
            raise ValueError(f"expected plain layers, found {type(layer).__name__}")
        if not layer.is_initialized:
            continue
        where = places[:, None, :, None]
        layer.keys, layer.values = (
            states[rows].gather(2, where.expand(-1, states.shape[1], -1, states.shape[-1]))
            for states in (layer.keys, layer.values)
        )
        if isinstance(layer, Shared):
            layer.prompts = prompts
    return torch.cat([mask, own.gather(1, places)], dim=1)
