"""Rows that are generated turn by turn, each token computed once: a further turn goes on from its row's cache.

    session = Session(model, inputs, index, ends, **options)     # as `rollout.generate` takes them
    said = session.begin()                                       # new tokens of each row
    said = session.go_on({2: Added(ids, media), 5: …})           # what was put behind rows 2 and 5, and what they say

What is put behind a row (the tool's turn, perhaps with pictures) goes through the model once, over the row's cache;
then transformers' own `generate` goes on from there, so that sampling, logits processors and stopping are its own.
Between turns the caches of the rows that go on are selected, and what a row has behind its prompt is moved to the right
(`vlm.prefix.cache.compact`), so that all rows end at the same place:

    with P a prompt's tokens, C what a row has said, + what is added, . empty:
    .PPPCC...      .PPP.CC+++      .PPP.CC+++
    .PPPCCC.    →  .PPPCCC++.   →  .PPP.CCC++   →   generate

Where a model cannot share prompts (`Family.unshared`), or `whole` is asked for, each turn is computed from its first
token again: the plain twin, with the same tokens.

Positions are those that the model itself gives to the whole row (`_prepare_position_ids_for_generation`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlm import families
from vlm.prefix import attention, cache, media, rollout


class Added(NamedTuple):
    """What is put behind a row: ids, and the keywords of their pictures (`vlm.prefix.media`)."""

    ids: Sequence[int]
    media: media.Media = {}


class Passed(NamedTuple):
    """What one pass of a session computed, for counters."""

    places: int
    "Of the language model's input."
    tokens: int
    "Of these, those that hold one."
    shown: media.Media
    "What went through the vision tower."


class Session:
    """The rows of one batch."""

    def __init__(
        self,
        model,
        inputs: Mapping[str, Tensor],
        prompt_index: Sequence[int],
        ends: Collection[int],
        limit: int,
        whole: bool = False,
        **options: Any,
    ):
        """model, inputs, prompt_index: as `rollout.generate` takes them, prompts padded on the left. ends: tokens
        that end a turn. limit: of new tokens that a row may have in all its turns. whole: compute each turn from its
        first token. options: of `generate`, the same in each turn."""
        self.model, self.base = model, rollout.unwrapped(model)
        self.config, self.device = self.base.config, inputs["input_ids"].device
        self.inputs, self.index, self.options = dict(inputs), list(prompt_index), dict(options)
        self.ends, self.limit = torch.tensor(sorted(ends), device=self.device), limit
        self.whole = whole or families.of(self.config).unshared is not None
        pad = self.base.generation_config.pad_token_id
        self.pad = int(self.ends[0]) if pad is None else pad
        prompts = [ids[there.bool()] for ids, there in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
        self.rows = [prompts[number] for number in self.index]
        "(tokens,) of each row so far."
        # of a family without a file nobody knows which pictures are whose: it has one turn (`Toolbox.of` refuses more)
        units = media.of(inputs) if families.of(self.config).units else {}
        counts = media.counts(inputs["input_ids"], units, self.config) if units else [0] * len(prompts)
        bounds = [0, *torch.tensor(counts).cumsum(0).tolist()]
        first = [media.choose(units, list(range(*bounds[number : number + 2]))) for number in range(len(prompts))]
        self.shown = [[first[number]] if first[number] else [] for number in self.index]
        "Pictures of each row so far, in order."
        self.used = [0] * len(self.rows)
        "New tokens of each row."
        self._cache: Cache | None = None
        self._there: Tensor | None = None
        "(rows, length) bool, of the cache."
        self._place: dict[int, tuple[int, int]] = {}
        "Row → its row in the cache, and the place in it behind its last token but one."

    def begin(self) -> list[list[int]]:
        """The first turn of each row: its tokens, the one that ends it included."""
        numbers, options = list(range(len(self.rows))), self._until(range(len(self.rows)))
        if self.whole:
            tokens = self.model.generate(**rollout.select(self.inputs, self.index, self.config), **options)
        else:
            found: dict[str, Cache] = {}
            tokens = rollout.generate(self.model, self.inputs, torch.tensor(self.index), found=found, **options)
            self._cache = found.get("cache")
        mask = self.inputs["attention_mask"][self.index].bool()
        return list(self._said(numbers, tokens, mask).values())

    @torch.no_grad()
    def go_on(self, added: Mapping[int, Added]) -> dict[int, list[int]]:
        """The next turn of these rows, which have room for one token or more (`room`).

        Raises: ValueError naming the row whose placeholders and pictures do not add up.
        """
        numbers = list(added)
        for number, more in added.items():
            self._put(number, more)
        if self._cache is None or type(self._cache.layers[0]) not in cache.COMPACTED:
            return self._anew(numbers)
        deltas = getattr(self.base.model, "rope_deltas", None)
        try:
            with attention.switched(self.base):
                return self._over_cache(numbers, added)
        finally:
            if hasattr(self.base.model, "rope_deltas"):
                self.base.model.rope_deltas = deltas

    def _put(self, number: int, more: Added) -> None:
        ids, units = torch.tensor(more.ids, device=self.device), media.of(more.media)
        meant, there = int((ids == self.config.image_token_id).sum()), media.tokens(units, self.config)
        if meant != there:
            raise ValueError(f"row {number}: {meant} image tokens are put behind it, and pictures of {there} tokens")
        self.rows[number] = torch.cat([self.rows[number], ids])
        if units:
            self.shown[number].append({name: value.to(self.device) for name, value in units.items()})

    def _anew(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """The next turn from each row's first token."""
        width = max(len(self.rows[number]) for number in numbers)
        place = torch.arange(width, device=self.device)
        mask = (
            place >= width - torch.tensor([len(self.rows[number]) for number in numbers], device=self.device)[:, None]
        )
        given = {"input_ids": self._laid_out(numbers, mask), "attention_mask": mask.long()}
        if units := together([one for number in numbers for one in self.shown[number]]):
            given |= units
            if self._typed:
                given["mm_token_type_ids"] = (given["input_ids"] == self.config.image_token_id).int()
        return self._said(numbers, self.model.generate(**given, **self._until(numbers)), mask)

    def _over_cache(self, numbers: Sequence[int], added: Mapping[int, Added]) -> dict[int, list[int]]:
        """The next turn from the rows' caches."""
        held = self._cache
        places, ends = torch.tensor([self._place[number] for number in numbers], device=self.device).T
        kept = self._there[places] & (torch.arange(self._there.shape[1], device=self.device) < ends[:, None])
        before = cache.compact(held, places, kept)
        # the last token of a turn went through no model yet
        lengths = torch.tensor([len(added[number].ids) + 1 for number in numbers], device=self.device)
        behind = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
        there = torch.cat([before, behind], 1)
        ids = self._laid_out(numbers, there)
        positions = self._positions(numbers, ids, there)
        last, cut = (lengths - 1).unique(), before.shape[1]
        found = self.base(
            input_ids=ids[:, cut:],
            attention_mask=there.long(),
            position_ids=positions[..., cut:],
            past_key_values=held,
            use_cache=True,
            logits_to_keep=last,
            return_dict=True,
            **together([one.media for one in added.values() if media.of(one.media)], self.device),
            **cache.told(held),
        )
        rows = torch.arange(len(numbers), device=self.device)
        logits = found.logits[rows, torch.searchsorted(last, lengths - 1)]
        mask = there if bool(behind.all()) else cache.compact(held, rows, there)
        ids = self._laid_out(numbers, mask)
        moved = positions.new_zeros(*positions.shape[:-2], *mask.shape)
        moved[..., mask] = positions.expand(*positions.shape[:-2], *there.shape)[..., there]

        def prefilled(input_ids: Tensor, generation_config, model_kwargs: dict, is_first_iteration: bool = True):
            target = model_kwargs["past_key_values"]
            target.layers = held.layers
            model_kwargs |= {"position_ids": moved, **cache.told(held)}
            self._cache = target
            return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=target)

        with rollout.replaced(self.base, "_prefill", prefilled):
            tokens = self.model.generate(input_ids=ids, attention_mask=mask.long(), **self._until(numbers))
        assert self._cache is not held
        return self._said(numbers, tokens, mask)

    def _laid_out(self, numbers: Sequence[int], mask: Tensor) -> Tensor:
        """(N, L) ids of rows whose tokens stand where `mask` is True."""
        ids = torch.full(mask.shape, self.pad, device=self.device)
        ids[mask] = torch.cat([self.rows[number] for number in numbers])
        return ids

    def _positions(self, numbers: Sequence[int], ids: Tensor, mask: Tensor) -> Tensor:
        """(N, L) or (axes, N, L), as the model gives them to whole rows."""
        told = {"attention_mask": mask.long()}
        if self._typed:
            grids = [one[media.GRID] for number in numbers for one in self.shown[number] if media.GRID in one]
            if grids:
                types = (ids == self.config.image_token_id).int()
                told |= {media.GRID: torch.cat(grids), "mm_token_type_ids": types}
        return self.base._prepare_position_ids_for_generation(ids, told)

    @property
    def _typed(self) -> bool:
        return families.of(self.config).positions != "1-D"

    def room(self, number: int) -> int:
        """How many new tokens a row may still have."""
        return self.limit - self.used[number]

    def _until(self, numbers: Sequence[int]) -> dict[str, Any]:
        return {**self.options, "max_new_tokens": max(self.room(number) for number in numbers)}

    def _said(self, numbers: Sequence[int], tokens: Tensor, mask: Tensor) -> dict[int, list[int]]:
        """The new tokens of each row, cut behind what ends it, or where it has no room left.

        mask: (N, L) bool, where the rows' tokens stood before.
        """
        start, said = mask.shape[1], {}
        new = tokens[:, start:]
        self._there = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)], 1)[:, :-1]
        over = torch.isin(new, self.ends)
        lengths = torch.where(over.any(1), over.int().argmax(1) + 1, new.shape[1]).tolist()
        self._place = {}
        for place, number in enumerate(numbers):
            own = new[place, : min(lengths[place], self.room(number))]
            self.rows[number] = torch.cat([self.rows[number], own])
            self.used[number] += len(own)
            said[number] = own.tolist()
            self._place[number] = place, start + len(own) - 1
        return said

    def sequences(self, said: Sequence[Sequence[int]]) -> Tensor:
        """(B, P + longest) prompts and first turns, as `generate` returns them."""
        prompts = self.inputs["input_ids"][self.index]
        width = max(map(len, said))
        new = torch.full((len(said), width), self.pad, device=self.device)
        for row, ids in zip(new, said, strict=True):
            row[: len(ids)] = torch.tensor(ids, device=self.device)
        return torch.cat([prompts, new], 1)

    def ended(self, said: Sequence[int]) -> bool:
        """Whether a turn came to its end."""
        return bool(said) and said[-1] in self.ends


def together(shown: Sequence[media.Media], device: Any = None) -> dict[str, Tensor]:
    """The units of several, in order."""
    if not shown:
        return {}
    return {name: torch.cat([one[name].to(device) for one in shown]) for name in media.of(shown[0])}
