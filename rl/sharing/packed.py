"""Log-probabilities of completions with each prompt computed once.

A micro-batch becomes one packed row (`vlm.prefix`): of each unique prompt all tokens but the last, then for each of its
completions a segment of the prompt's last token and the completion's tokens but the last. So the hidden state of each
segment token predicts the completion token of the same number, and nothing but completion tokens reaches the LM head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from rl.sharing.rows import Rows
from vlm.common.processes import processes
from vlm.prefix import Packed, multimodal, pack, rope_positions
from vlm.prefix.pictures import blank_picture
from vlm.rollout import choose


class Found(NamedTuple):
    """Of one micro-batch of B rows and K completion places."""

    logps: torch.Tensor
    """(B, K); 0 where there is no token, as TRL has it."""
    entropies: torch.Tensor | None
    """(B, K) likewise."""
    tokens: int
    """Tokens that went through the language model."""
    grids: torch.Tensor | None
    """(pictures, 3) in patches, of what went through the vision tower."""


def log_probabilities(
    model, rows: Rows, input_ids, attention_mask, logits_to_keep: int, pixel_values=None, image_grid_thw=None
) -> Found:
    """Of (B, P + K) left-padded prompts and right-padded completions; pictures are those that `rows` numbers.

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
    shown = [rows.pictures[group[0]] for group in groups]
    media = choose(pixel_values, image_grid_thw, [number for numbers in shown for number in numbers])
    blank_alone = not media and processes() > 1
    if blank_alone:
        media = {name: value.to(input_ids.device) for name, value in blank_picture(multimodal(model).config).items()}
    packed = packed_groups(model, groups, prompts, completions, shown, image_grid_thw, input_ids.device, blank_alone)
    order = [row for group in groups for row in group]
    outputs = model(
        **packed.inputs,
        **media,
        shift_labels=torch.cat([completions[row] for row in order])[None].to(input_ids.device),
        fused_lm_head=True,
    )
    spread = places([] if blank else completions, order, ids.shape[0], logits_to_keep).to(input_ids.device)
    logps, entropies = (
        None if values is None else pad(values[0], (0, 1))[spread] for values in (outputs.log_probs, outputs.entropy)
    )
    return Found(logps, entropies, packed.layout.tokens, media.get("image_grid_thw"))


def packed_groups(model, groups, prompts, completions, shown, grid, device, blank: bool = False) -> Packed:
    """The packed row of groups (row numbers of each), with the positions that the model gives their prompts.

    blank: behind them the token of `blank_picture`, which nothing continues and nobody sees.
    """
    asked = [prompts[group[0]] for group in groups]
    grid = torch.zeros(0, 3, dtype=torch.long) if grid is None else grid.cpu()
    positions = rope_positions(model, asked, [grid[numbers] for numbers in shown])
    segments = [
        [torch.cat([prompt[-1:], completions[row][:-1]]) for row in group]
        for prompt, group in zip(asked, groups, strict=True)
    ]
    prefixes, positions = [prompt[:-1] for prompt in asked], [place[:, :-1] for place in positions]
    if blank:
        prefixes.append(torch.tensor([multimodal(model).config.image_token_id]))
        segments.append([])
        positions.append(torch.zeros(3, 1, dtype=torch.long))
    return pack(prefixes, segments, positions, device=device)


def places(completions: Sequence[torch.Tensor], order: Sequence[int], rows: int, width: int) -> torch.Tensor:
    """(rows, width): number of each row's each token among all tokens in this order of rows; -1 where there is none."""
    index = torch.full((rows, width), -1)
    start = 0
    for row in order if completions else ():
        length = len(completions[row])
        index[row, :length] = torch.arange(start, start + length)
        start += length
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
