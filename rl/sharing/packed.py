"""Log-probabilities of completions with each prompt computed once.

A micro-batch becomes one packed row (`vlm.prefix`): of each unique prompt all tokens but the last, then for each of its
completions a segment of the prompt's last token and the completion's tokens but the last. So the hidden state of each
segment token predicts the completion token of the same number, and nothing but completion tokens reaches the LM head;
of these, none that a tool has said. Completions may show pictures of their own, where tools have put some.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from rl.sharing.rows import Rows
from vlm import families
from vlm.common.processes import processes
from vlm.prefix import Packed, axes_of, media, multimodal, pack, rope_positions


class Found(NamedTuple):
    """Of one micro-batch of B rows and K completion places."""

    logps: torch.Tensor
    """(B, K); 0 where there is no token, as TRL has it, and where a tool speaks."""
    entropies: torch.Tensor | None
    """(B, K) likewise."""
    tokens: int
    """Tokens that went through the language model."""
    shown: dict[str, torch.Tensor]
    """What went through the vision tower (`vlm.prefix.media`)."""


def log_probabilities(
    model, rows: Rows, input_ids, attention_mask, logits_to_keep: int, pictures: media.Media
) -> Found:
    """Of (B, P + K) left-padded prompts and right-padded completions; `pictures` are those that `rows` numbers.

    The model has a fused LM head (`trl.trainer.utils.add_fused_lm_head`), which applies the temperature, and
    `vlm.prefix.enable` was called on it.
    """
    ids, there = input_ids.cpu(), attention_mask.cpu().bool()
    blank = not there[:, -logits_to_keep:].any()
    if blank:  # all truncated completions masked: one token keeps the result connected to the model
        there[0, -logits_to_keep] = True
    cut = ids.shape[1] - logits_to_keep
    prompts = [row[:cut][seen[:cut]] for row, seen in zip(ids, there, strict=True)]
    completions = [row[cut:][seen[cut:]] for row, seen in zip(ids, there, strict=True)]
    # of one data row, and yet not of one text where a rollout function writes its own prompts
    members: dict[Any, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if len(completions[row]):
            members.setdefault((rows.prompts[row], tuple(prompt.tolist())), []).append(row)
    groups = list(members.values())
    numbers = [rows.pictures[group[0]] + [n for row in group for n in rows.crops[row]] for group in groups]
    shown, blanks = media.choose(pictures, [number for some in numbers for number in some]), 0
    if not shown and processes() > 1:
        config = multimodal(model).config
        made, blanks = families.of(config).blank(config)
        shown = {name: value.to(input_ids.device) for name, value in made.items()}
    packed = packed_groups(
        model, groups, prompts, completions, rows, pictures.get(media.GRID), input_ids.device, blanks
    )
    order = [row for group in groups for row in group]
    learned = rows.learned(logits_to_keep)
    wanted = [completions[row][learned[row, : len(completions[row])]] for row in order]
    outputs = model(
        **packed.inputs, **shown, shift_labels=torch.cat(wanted)[None].to(input_ids.device), fused_lm_head=True
    )
    spread = places([] if blank else completions, order, learned).to(input_ids.device)
    logps, entropies = (
        None if values is None else pad(values[0], (0, 1))[spread] for values in (outputs.log_probs, outputs.entropy)
    )
    return Found(logps, entropies, packed.layout.tokens, shown)


def packed_groups(
    model, groups, prompts, completions, rows: Rows, grid: torch.Tensor | None, device, blanks: int = 0
) -> Packed:
    """The packed row of groups (row numbers of each), with the positions that the model gives each prompt, and each
    completion with pictures.

    grid: of the units that `rows` numbers. blanks: tokens of a blank picture behind all, which nothing continues and
    nobody sees.
    """
    asked, axes = [prompts[group[0]] for group in groups], axes_of(model)
    grid = None if grid is None else grid.cpu()

    def placed(texts: Sequence[torch.Tensor], shown: Sequence[list[int]]) -> list[torch.Tensor] | None:
        return rope_positions(model, texts, [None if grid is None else grid[numbers] for numbers in shown])

    positions = placed(asked, [rows.pictures[group[0]] for group in groups])
    segments, behind, kept, start = [], [], [], 0
    learned = rows.learned(max(map(len, completions)))
    for prompt, group in zip(asked, groups, strict=True):
        start += len(prompt) - 1
        segments.append([torch.cat([prompt[-1:], completions[row][:-1]]) for row in group])
        stated: list[torch.Tensor | None] = [None] * len(group)
        for place, row in enumerate(group):
            if rows.crops[row] and positions:
                (whole,) = placed([torch.cat([prompt, completions[row][:-1]])], [rows.shown[row]])
                stated[place] = whole[:, len(prompt) - 1 :]
            kept.append(start + learned[row, : len(completions[row])].nonzero()[:, 0])
            start += len(completions[row])
        behind.append(stated)
    prefixes = [prompt[:-1] for prompt in asked]
    positions = positions and [place[:, :-1] for place in positions]
    if blanks:
        prefixes.append(torch.full((blanks,), multimodal(model).config.image_token_id))
        segments.append([])
        behind.append([])
        if positions:
            positions.append(torch.zeros(axes, blanks, dtype=torch.long))
    return pack(prefixes, segments, positions, torch.cat(kept), device=device, axes=axes, behind=behind)


def places(completions: Sequence[torch.Tensor], order: Sequence[int], learned: torch.Tensor) -> torch.Tensor:
    """(rows, width): number of each row's each learned token among all of these in this order of rows; -1 elsewhere.

    learned: (rows, width) bool.
    """
    index = torch.full(learned.shape, -1)
    start = 0
    for row in order if completions else ():
        own = learned[row].clone()
        own[len(completions[row]) :] = False
        count = int(own.sum())
        index[row, own] = torch.arange(start, start + count)
        start += count
    return index


def least(rows: Rows, mask: torch.Tensor, keep: int) -> tuple[float, float]:
    """Tokens and pictures that rows of (B, P + keep) need if each prompt and each picture of their whole generation
    batch is computed once. The parts of a batch add up to it."""
    lengths = torch.stack([mask[:, :-keep].sum(1), mask[:, -keep:].sum(1)], 1).tolist()
    # of a prompt all tokens but the last, which is before each completion instead of that one's own last
    tokens = sum(
        share * (prompt - 1) + completion for (share, _), (prompt, completion) in zip(rows.shares, lengths, strict=True)
    )
    return tokens, sum(share for _, share in rows.shares)
