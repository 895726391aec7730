"""Rows that are generated turn by turn, each token computed once: a further turn goes on from its row's cache.

    session = Session(model, inputs, index, ends, **options)     # as `vlm.rollout.generate` takes them
    said = session.begin()                                       # new tokens of each row
    said = session.go_on({2: Added(ids, media), 5: …})           # what was put behind rows 2 and 5, and what they say

What is put behind a row (the tool's turn, perhaps with pictures) goes through the model once, over the row's cache;
then transformers' own `generate` goes on from there, so that sampling, logits processors and stopping are its own.
Caches of the rows that go on are selected, and moved to the right, so that padding stands on the left, where every kind
of attention takes it.

    with C a row's cached tokens, + what is added, . padding:
    ...CCCCC          ...CCCCC+++          ...CCCCC+++
    .CCCCCCC    →     .CCCCCCC++.    →     ..CCCCCCC++     →    generate

Where a model cannot share prompts (`Family.unshared`), or `whole` is asked for, each turn is computed from its first
token again: the plain twin, with the same tokens.

Positions are those that the model itself gives to the whole row (`_prepare_position_ids_for_generation`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlm import families, rollout
from vlm.prefix import media


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
        """model, inputs, prompt_index: as `vlm.rollout.generate` takes them, prompts padded on the left. ends: tokens
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
        units = media.of(inputs)
        counts = media.counts(inputs["input_ids"], units, self.config) if units else [0] * len(prompts)
        bounds = [0, *torch.tensor(counts).cumsum(0).tolist()]
        first = [media.choose(units, list(range(*bounds[number : number + 2]))) for number in range(len(prompts))]
        self.shown = [[first[number]] if first[number] else [] for number in self.index]
        "Pictures of each row so far, in order."
        self.used = [0] * len(self.rows)
        "New tokens of each row."
        self._cache: Cache | None = None
        self._at: dict[int, tuple[int, int]] = {}
        "Row → its row in the cache, and where in it its last token but one stands."

    def begin(self) -> list[list[int]]:
        """The first turn of each row: its tokens, the one that ends it included."""
        self.options.setdefault("return_dict_in_generate", True)
        if self.whole:
            inputs = rollout.select(self.inputs, self.index, self.config)
            found = self.model.generate(**inputs, **self._until(range(len(self.rows))))
        else:
            found = rollout.generate(
                self.model, self.inputs, torch.tensor(self.index), **self._until(range(len(self.rows)))
            )
        return list(self._said(range(len(self.rows)), found, self.inputs["input_ids"].shape[1]).values())

    def go_on(self, added: Mapping[int, Added]) -> dict[int, list[int]]:
        """The next turn of these rows, which have room for one token or more (`room`).

        Raises: ValueError naming the row whose placeholders and pictures do not add up.
        """
        numbers = list(added)
        for number, more in added.items():
            ids, units = torch.tensor(more.ids, device=self.device), media.of(more.media)
            if (meant := int((ids == self.config.image_token_id).sum())) != media.tokens(units, self.config):
                raise ValueError(
                    f"row {number}: {meant} image tokens are put behind it, and pictures of "
                    f"{media.tokens(units, self.config)} tokens"
                )
            self.rows[number] = torch.cat([self.rows[number], ids])
            if units:
                self.shown[number].append({name: value.to(self.device) for name, value in units.items()})
        ids, mask = padded([self.rows[number] for number in numbers], self.pad)
        given = {"input_ids": ids, "attention_mask": mask}
        if self.whole or self._cache is None:
            units = together([one for number in numbers for one in self.shown[number]])
            if units:
                given |= units | {"mm_token_type_ids": (ids == self.config.image_token_id).int()}
                given = {k: v for k, v in given.items() if k != "mm_token_type_ids" or self._typed}
            found = self.model.generate(**given, **self._until(numbers))
            return self._said(numbers, found, ids.shape[1])
        step = _Continued(self, numbers, added, ids, mask)
        deltas = getattr(self.base.model, "rope_deltas", None)
        try:
            with rollout.replaced(self.base, "_prefill", step):
                found = self.model.generate(**given, **self._until(numbers))
        finally:
            if hasattr(self.base.model, "rope_deltas"):
                self.base.model.rope_deltas = deltas
        assert step.calls == 1
        return self._said(numbers, found, ids.shape[1])

    @property
    def _typed(self) -> bool:
        return families.of(self.config).positions != "1-D"

    def room(self, number: int) -> int:
        """How many new tokens a row may still have."""
        return self.limit - self.used[number]

    def _until(self, numbers: Sequence[int]) -> dict[str, Any]:
        return {**self.options, "max_new_tokens": max(self.room(number) for number in numbers)}

    def _said(self, numbers: Sequence[int], found: Any, start: int) -> dict[int, list[int]]:
        """The new tokens of each row, cut behind what ends it, or where it has no room left."""
        tokens = found.sequences[:, start:]
        self._cache = None if self.whole else getattr(found, "past_key_values", None)
        if type(self._cache) is not DynamicCache:
            self._cache = None
        self._at, said = {}, {}
        over = torch.isin(tokens, self.ends)
        lengths = torch.where(over.any(1), over.int().argmax(1) + 1, tokens.shape[1]).tolist()
        for place, number in enumerate(numbers):
            new = tokens[place, : min(lengths[place], self.room(number))]
            self.rows[number] = torch.cat([self.rows[number], new])
            self.used[number] += len(new)
            said[number] = new.tolist()
            self._at[number] = place, start + len(new) - 1
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


class _Continued:
    """Stands for `base._prefill` in a further turn: what was added goes over the rows' caches."""

    def __init__(self, session: Session, numbers: Sequence[int], added: Mapping[int, Added], ids: Tensor, mask: Tensor):
        self.session, self.numbers, self.added, self.ids, self.mask = session, numbers, added, ids, mask
        self.calls = 0

    def __call__(self, input_ids: Tensor, generation_config, model_kwargs: dict, is_first_iteration: bool = True):
        self.calls += 1
        session, target = self.session, model_kwargs["past_key_values"]
        device, base = session.device, session.base
        # the last token of a turn went through no model yet
        lengths = torch.tensor([len(self.added[number].ids) + 1 for number in self.numbers], device=device)
        totals = self.mask.sum(1)
        places, ends = zip(*(session._at[number] for number in self.numbers), strict=True)
        kept = totals - lengths
        taken(session._cache, target, torch.tensor(places, device=device), torch.tensor(ends, device=device), kept)
        session._cache = None
        longest, width = int(lengths.max()), int(kept.max())
        index = torch.arange(longest, device=device)
        there = index < lengths[:, None]
        # among the whole rows, which end at the right
        columns = (self.ids.shape[1] - lengths[:, None] + index).clamp(max=self.ids.shape[1] - 1)
        positions = self._positions(model_kwargs)
        segment = self.ids.gather(1, columns).masked_fill(~there, session.pad)
        before = torch.arange(width, device=device) >= width - kept[:, None]
        units = together([one.media for one in self.added.values() if media.of(one.media)], device)
        last = (lengths - 1).unique()
        found = base(
            input_ids=segment,
            attention_mask=torch.cat([before, there], 1).long(),
            position_ids=gathered(positions, columns),
            past_key_values=target,
            use_cache=True,
            logits_to_keep=last,
            return_dict=True,
            **units,
        )
        moved(target, longest - lengths, self.ids.shape[1])
        model_kwargs["position_ids"] = positions
        rows = torch.arange(len(lengths), device=device)
        logits = found.logits[rows, torch.searchsorted(last, lengths - 1)]
        return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=target)

    def _positions(self, model_kwargs: dict) -> Tensor:
        """Of the whole rows, as the model gives them: (B, N), or (axes, B, N)."""
        session = self.session
        told = {"attention_mask": self.mask}
        if session._typed:
            grids = [one[media.GRID] for number in self.numbers for one in session.shown[number] if media.GRID in one]
            if grids:
                types = (self.ids == session.config.image_token_id).int()
                told |= {media.GRID: torch.cat(grids), "mm_token_type_ids": types}
        return session.base._prepare_position_ids_for_generation(self.ids, told)


def padded(rows: Sequence[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """(B, N) ids and mask of rows that end at the right."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=pad) for row in rows])
    index = torch.arange(width, device=ids.device)
    mask = index >= width - torch.tensor([len(row) for row in rows], device=ids.device)[:, None]
    return ids, mask.long()


def together(shown: Sequence[media.Media], device: Any = None) -> dict[str, Tensor]:
    """The units of several, in order."""
    if not shown:
        return {}
    return {name: torch.cat([one[name].to(device) for one in shown]) for name in media.of(shown[0])}


def gathered(positions: Tensor, columns: Tensor) -> Tensor:
    """positions: (B, N) or (axes, B, N); columns: (B, S) → (B, S) or (axes, B, S)."""
    if positions.shape[-2] == 1:  # text positions that all rows share
        positions = positions.expand(*positions.shape[:-2], len(columns), -1)
    return positions.gather(-1, columns.expand(*positions.shape[:-2], *columns.shape))


def taken(source: Cache, target: Cache, rows: Tensor, ends: Tensor, kept: Tensor) -> None:
    """Fill the empty `target` with `rows` of the source, of each the last `kept` places before `ends`, at the right."""
    width = int(kept.max())
    columns = (ends[:, None] - width + torch.arange(width, device=ends.device)).clamp(min=0)
    for number, layer in enumerate(source.layers):
        found = [states[rows[:, None], :, columns].transpose(1, 2) for states in (layer.keys, layer.values)]
        layer.reset()  # what is copied is freed
        target.update(*found, number)


def moved(cache: Cache, by: Tensor, width: int) -> None:
    """Move each row to the right by so many places, what is lost there was padding, and keep the last `width` places;
    what enters at the left is padding, of any value."""
    last = cache.layers[0].keys.shape[2]
    if last == width and not int(by.max()):
        return
    columns = (torch.arange(last - width, last, device=by.device) - by[:, None]).clamp(min=0)
    rows = torch.arange(len(by), device=by.device)[:, None]
    for layer in cache.layers:
        layer.keys, layer.values = (
            states[rows, :, columns].transpose(1, 2).contiguous() for states in (layer.keys, layer.values)
        )
