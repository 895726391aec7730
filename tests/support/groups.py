"""Batches of groups as TRL makes them, and TRL's own log-probabilities of them."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from types import SimpleNamespace

import torch
import trl
from trl.trainer.utils import add_fused_lm_head

from rl.sharing.rows import Rows
from vlm.loading import load_model
from vlm.prefix import enable, media
from vlm.sections import ModelSection

GRIDS = ((1, 4, 4), (1, 4, 8), (1, 8, 4))
"""Patches of the pictures: 4, 8 and 8 visual tokens."""


def policy(path, temperature=0.9, share=True):
    """A float32 model with TRL's fused head; it can share prefixes, and does where it is asked to."""
    model = load_model(ModelSection(path=str(path), dtype="float32", attention="sdpa"))
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    if share:
        enable(model)
    return model


class Batch(SimpleNamespace):
    """ids, mask (B, P + K); keep = K; rows; pixels, grid of each picture once; there (B, K) completion tokens."""

    def full(self) -> dict[str, torch.Tensor]:
        """Pictures of every row."""
        return media.choose(
            {"pixel_values": self.pixels, "image_grid_thw": self.grid},
            [n for shown in self.rows.pictures for n in shown],
        )


def batch(image_token: int, groups, seed=0) -> Batch:
    """groups: (words of the prompt, grids by number of GRIDS, lengths of the completions) for each prompt.

    Words stand before, between and after the pictures; rows are those of one prompt after the other's.
    """
    torch.manual_seed(seed)
    prompts, completions, owners, pictures, grids = [], [], [], [], []
    for number, (words, shown, lengths) in enumerate(groups):
        tokens = torch.randint(20, 300, (words,)).tolist()
        parts = [tokens[:1]]
        for n in shown:
            t, h, w = GRIDS[n]
            parts += [[image_token] * (t * h * w // 4), tokens[1:2]]
        prompt = torch.tensor(sum(parts, []) + tokens[2:])
        numbers = list(range(len(grids), len(grids) + len(shown)))
        grids += [GRIDS[n] for n in shown]
        for length in lengths:
            prompts.append(prompt)
            completions.append(torch.randint(20, 300, (length,)))
            owners.append(number)
            pictures.append(numbers)
    wide, keep = max(map(len, prompts)), max(map(len, completions))
    ids, mask = torch.zeros(len(prompts), wide + keep, dtype=torch.long), torch.zeros(len(prompts), wide + keep).long()
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, stop = wide - len(prompt), wide + len(completion)
        ids[row, start:stop], mask[row, start:stop] = torch.cat([prompt, completion]), 1
    grid = torch.tensor(grids).reshape(-1, 3)
    pixels = torch.randn(int(grid.prod(-1).sum()), 3 * 2 * 14 * 14) if grids else None
    return Batch(
        ids=ids, mask=mask, keep=keep, rows=Rows(owners, pictures), pixels=pixels, grid=grid if grids else None,
        there=mask[:, -keep:].bool(), image_token=image_token,
    )  # fmt: skip


def plain(model, given: Batch):
    """TRL's (logps, entropies), every row with its own prompt and pictures."""
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    media = given.full()
    if media:
        media |= {"mm_token_type_ids": (given.ids == given.image_token).int(), "num_images": list(given.rows)}
    found = inspect.unwrap(trl.GRPOTrainer._get_per_token_logps_and_entropies)(
        trainer, model, given.ids, given.mask, given.keep, compute_entropy=True, **media
    )
    return found[:2]


def gradients(model, logps, entropies, there) -> dict[str, torch.Tensor]:
    """Of a fixed weighing of all log-probabilities and entropies, by parameter."""
    model.zero_grad()
    weights = torch.randn(2, *logps.shape, generator=torch.Generator().manual_seed(7)) * there
    ((weights[0] * logps).sum() + 0.3 * (weights[1] * entropies).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
