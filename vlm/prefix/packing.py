"""One row of tokens from prefixes and their continuations, with positions and the layout that attention reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from vlm import families

UNMASKED = torch.ones(1, 1, 1, 1, dtype=torch.bool)
"""As `attention_mask`: what has four dimensions transformers hands down as it is, so that it builds no (T, T) mask; the
layout says who sees whom."""


class Block(NamedTuple):
    """One prefix and the segments behind it, as the padded SDPA path needs them."""

    prefix: int
    """Tokens of the prefix."""
    segments: tuple[int, ...]
    """Tokens of each segment; none of them 0."""
    gather: torch.Tensor | None
    """(G · R,) token of the block's segments at each place of the padded (G, R); None where nothing is padded."""
    valid: torch.Tensor | None
    """(Σ lengths,) places of the padded (G, R) that hold tokens; None where nothing is padded."""
    mask: torch.Tensor | None
    """(1, 1, R, P + R) bool: query i of a segment sees the prefix and its segment up to itself."""


class Sequences(NamedTuple):
    """The same as variable-length attention takes it: queries lie as packed, keys are gathered."""

    queries: torch.Tensor
    """(N + 1,) int32, bounds of the N = prefixes + segments sequences among the queries."""
    keys: torch.Tensor
    """(N + 1,) int32, their bounds among the gathered keys."""
    gather: torch.Tensor
    """Token of each key: a prefix sees itself; a segment its prefix, then itself."""
    longest_query: int
    longest_key: int


@dataclasses.dataclass(eq=False)
class Layout:
    """Who sees whom in a packed row: for each prefix in turn its tokens, then those of its segments."""

    prefixes: tuple[int, ...]
    """Tokens of each prefix; 0 is allowed."""
    segments: tuple[tuple[int, ...], ...]
    """Tokens of each segment, by prefix; a prefix may have none, but no segment is empty."""
    device: torch.device
    kept: torch.Tensor | None = None
    """(N,) tokens whose hidden states are wanted; the others never reach the head. None: all."""

    @property
    def tokens(self) -> int:
        """T, the length of the row."""
        return sum(self.prefixes) + sum(map(sum, self.segments))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        masks: dict[tuple[int, int], torch.Tensor] = {}
        return tuple(self._block(p, s, masks) for p, s in zip(self.prefixes, self.segments, strict=True))

    def _block(self, prefix: int, segments: tuple[int, ...], masks: dict) -> Block:
        if not segments:
            return Block(prefix, segments, None, None, None)
        longest = max(segments)
        if (prefix, longest) not in masks:
            whole = torch.ones(longest, prefix + longest, dtype=torch.bool, device=self.device)
            masks[prefix, longest] = whole.tril(prefix)[None, None]
        mask = masks[prefix, longest]
        if min(segments) == longest:
            return Block(prefix, segments, None, None, mask)
        lengths = torch.tensor(segments)
        places = torch.arange(longest)
        there = places < lengths[:, None]
        # a padded place repeats its segment's first token: behind every query that counts, so no query sees it
        starts = (lengths.cumsum(0) - lengths)[:, None]
        gather = (starts + places.where(there, torch.zeros_like(places))).flatten()
        return Block(prefix, segments, gather.to(self.device), there.flatten().nonzero()[:, 0].to(self.device), mask)

    @cached_property
    def sequences(self) -> Sequences:
        queries, keys, gather, start = [0], [0], [], 0
        for prefix, segments in zip(self.prefixes, self.segments, strict=True):
            shared = torch.arange(start, start + prefix)
            parts = [] if prefix == 0 else [(prefix, shared)]
            start += prefix
            for length in segments:
                parts.append((length, torch.cat([shared, torch.arange(start, start + length)])))
                start += length
            queries += [length for length, _ in parts]
            keys += [len(seen) for _, seen in parts]
            gather += [seen for _, seen in parts]
        bounds = [torch.tensor(list(accumulate(x)), dtype=torch.int32, device=self.device) for x in (queries, keys)]
        return Sequences(*bounds, torch.cat(gather).to(self.device), max(queries), max(keys))


@dataclasses.dataclass
class Packed:
    """A packed row of T tokens, ready for the model."""

    input_ids: torch.Tensor
    """(1, T)"""
    position_ids: torch.Tensor
    """(3, 1, T): time, height, width; (1, T) of a model whose positions count tokens."""
    layout: Layout

    @property
    def inputs(self) -> dict[str, Any]:
        """Keywords of the model's forward pass; pixels come beside them, in the order of the prefixes."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": UNMASKED.to(self.input_ids.device),
            "shared_prefix": self.layout,
        }


def pack(
    prefixes: Sequence[torch.Tensor],
    segments: Sequence[Sequence[torch.Tensor]],
    positions: Sequence[torch.Tensor] | None = None,
    kept: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    axes: int = 3,
    behind: Sequence[Sequence[torch.Tensor | None]] | None = None,
) -> Packed:
    """Pack prefixes (ids, 1-D) and each prefix's segments (ids, 1-D) into one row.

    positions: (axes, P) of each prefix (`rope_positions`); None counts 0, 1, 2, … whatever the token. A segment
    continues where its prefix ends: at the largest position plus 1, as the model itself places text behind an image.
    behind: (axes, S) of each segment of each prefix that holds pictures itself, whose positions are not those; pixels
    come in the order of the row, a prefix's before its segments'.
    kept: tokens of the row whose hidden states are wanted; None means all tokens of segments, in order.
    axes: of positions, `axes_of` the model. The tensors are best on the CPU; what the model needs of them is moved to
    `device`.
    Raises: ValueError for an empty segment, or a prefix whose positions are not as long as itself.
    """
    ids: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    of_segments: list[torch.Tensor] = []
    start = 0
    for number, (prefix, continuations) in enumerate(zip(prefixes, segments, strict=True)):
        place = torch.arange(len(prefix)).expand(axes, -1) if positions is None else positions[number].cpu()
        if place.shape != (axes, len(prefix)):
            raise ValueError(f"prefix {number} has {len(prefix)} tokens and positions {tuple(place.shape)}")
        if any(len(segment) == 0 for segment in continuations):
            raise ValueError(f"prefix {number} has an empty segment")
        begin = int(place.max()) + 1 if len(prefix) else 0
        own = [None] * len(continuations) if behind is None or not behind[number] else behind[number]
        ids += [prefix, *continuations]
        places += [place]
        for segment, stated in zip(continuations, own, strict=True):
            counted = torch.arange(begin, begin + len(segment)).expand(axes, -1)
            places.append(counted if stated is None else stated)
        start += len(prefix)
        stop = start + sum(map(len, continuations))
        of_segments.append(torch.arange(start, stop))
        start = stop
    kept = torch.cat(of_segments) if kept is None else kept
    layout = Layout(
        tuple(map(len, prefixes)), tuple(tuple(map(len, s)) for s in segments), torch.device(device), kept.to(device)
    )
    where = torch.cat(places, 1).to(device)
    return Packed(torch.cat(ids)[None].to(device), where if axes == 1 else where[:, None], layout)


def multimodal(model):
    """Vision tower and language model inside a model, however wrapped; its config is that of both."""
    return next(module for module in model.modules() if "language_model" in module._modules)


def model_config(model):
    """The config of a transformers model, however wrapped."""
    return next(module.config for module in model.modules() if isinstance(module, PreTrainedModel))


def axes_of(model) -> int:
    """Axes of a model's rotary positions: 1, or 3."""
    return 1 if families.of(model_config(model)).positions == "1-D" else 3


def rope_positions(
    model, prompts: Sequence[torch.Tensor], grids: Sequence[torch.Tensor | None]
) -> list[torch.Tensor] | None:
    """(3, P) of each prompt (ids, 1-D), from the model's own `get_rope_index` (M-RoPE, Qwen2-VL §2.1); None where its
    positions count tokens.

    grids: (images, 3) patches in time, height and width of each prompt's images, or None. Fastest on the CPU.
    """
    if axes_of(model) == 1:
        return None
    owner = multimodal(model)
    image = owner.config.image_token_id
    none = torch.zeros(0, 3, dtype=torch.long)
    return [
        owner.get_rope_index(ids[None], mm_token_type_ids=(ids[None] == image).int(), image_grid_thw=grid)[0][:, 0]
        for ids, given in zip(prompts, grids, strict=True)
        for grid in (none if given is None else given,)
    ]
