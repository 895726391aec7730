"""Batches of groups as TRL makes them, and TRL's own log-probabilities of them."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from itertools import accumulate
from types import SimpleNamespace

import torch
import trl
from trl.trainer.utils import add_fused_lm_head

from rl.sharing.rows import Rows
from vlm import families
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
    """ids, mask (B, P + K); keep = K; rows; stored: pictures, each once; there (B, K) completion tokens."""

    def full(self) -> dict[str, torch.Tensor]:
        """Pictures of every row."""
        return media.choose(self.stored, [n for shown in self.rows.shown for n in shown])


def pictures(config, shown) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """Random pictures by number of GRIDS as a model of this config takes them, and the units of each."""
    if families.of(config).positions == "1-D":  # units of one size; a picture with a larger number has more of them
        blank, _ = families.of(config).blank(config)
        ends = list(accumulate(1 + (n if config.model_type == "internvl" else 0) for n in shown))
        units = [list(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]
        return {media.PIXELS: torch.randn(ends[-1], *blank[media.PIXELS].shape[1:])}, units
    vision, grid = config.vision_config, torch.tensor([GRIDS[n] for n in shown])
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    stored = {media.PIXELS: torch.randn(int(grid.prod(-1).sum()), size), media.GRID: grid}
    return stored, [[n] for n in range(len(shown))]


def batch(config, groups, seed=0) -> Batch:
    """groups: (words of the prompt, pictures by number of GRIDS, lengths of the completions) for each prompt.

    Words stand before, between and after the pictures; rows are those of one prompt after the other's. Instead of its
    length a completion may have its turns: a number of the model's tokens, and in turn with it (words, pictures) of a
    tool, which are given, not learned.
    """
    torch.manual_seed(seed)
    prompts, completions, owners, shows, added, spans = [], [], [], [], [], []
    groups = [(words, shown, [[one] if isinstance(one, int) else one for one in rows]) for words, shown, rows in groups]
    every = [n for _, shown, _ in groups for n in shown]
    every += [n for _, _, rows in groups for turns in rows for _, shown in turns[1::2] for n in shown]
    stored, units = pictures(config, every) if every else ({}, [])
    sizes = families.of(config).unit_tokens(stored, config) if stored else []
    left = iter(units[: sum(len(shown) for _, shown, _ in groups)])
    given = iter(units[sum(len(shown) for _, shown, _ in groups) :])

    def placed(own):
        return [config.image_token_id] * sum(sizes[unit] for unit in own)

    for number, (words, shown, lengths) in enumerate(groups):
        tokens = torch.randint(20, 300, (words,)).tolist()
        parts, numbers = [tokens[:1]], []
        for _ in shown:
            own = next(left)
            numbers += own
            parts += [placed(own), tokens[1:2]]
        prompt = torch.tensor(sum(parts, []) + tokens[2:])
        for turns in lengths:
            ids, crops, tools = [], [], []
            for turn in turns:
                if isinstance(turn, int):
                    ids += torch.randint(20, 300, (turn,)).tolist()
                    continue
                begin, (text, seen) = len(ids), turn
                for _ in seen:
                    own = next(given)
                    crops += own
                    ids += [21, *placed(own), 22]
                ids += torch.randint(20, 300, (text,)).tolist()
                tools.append((begin, len(ids)))
            prompts.append(prompt)
            completions.append(torch.tensor(ids))
            owners.append(number)
            shows.append(numbers)
            added.append(crops)
            spans.append(tools)
    wide, keep = max(map(len, prompts)), max(map(len, completions))
    ids, mask = torch.zeros(len(prompts), wide + keep, dtype=torch.long), torch.zeros(len(prompts), wide + keep).long()
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, stop = wide - len(prompt), wide + len(completion)
        ids[row, start:stop], mask[row, start:stop] = torch.cat([prompt, completion]), 1
    rows = Rows(owners, shows, crops=added, tools=spans)
    return Batch(
        ids=ids, mask=mask, keep=keep, rows=rows, stored=stored, there=mask[:, -keep:].bool() & rows.learned(keep),
        image_token=config.image_token_id, axes=families.of(config).positions,
    )  # fmt: skip


def plain(model, given: Batch):
    """TRL's (logps, entropies), every row with its own prompt and pictures."""
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    fields = given.full()
    if fields and given.axes != "1-D":
        fields["mm_token_type_ids"] = (given.ids == given.image_token).int()
    if fields:
        fields["num_images"] = list(given.rows)
    found = inspect.unwrap(trl.GRPOTrainer._get_per_token_logps_and_entropies)(
        trainer, model, given.ids, given.mask, given.keep, compute_entropy=True, **fields
    )
    return found[:2]


def gradients(model, logps, entropies, there) -> dict[str, torch.Tensor]:
    """Of a fixed weighing of all log-probabilities and entropies, by parameter."""
    model.zero_grad()
    weights = torch.randn(2, *logps.shape, generator=torch.Generator().manual_seed(7)) * there
    ((weights[0] * logps).sum() + 0.3 * (weights[1] * entropies).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def furthest(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> tuple[str, float]:
    """The parameter whose two gradients are furthest apart, and how far: relative to the norm that is expected.

    A bias of keys moves all scores alike: its gradient is 0 but for rounding, and is measured by its weight's.
    """
    scales = {name: expected.get(name.replace("k_proj.bias", "k_proj.weight"), g) for name, g in expected.items()}
    worst = {
        name: ((found[name] - g).norm() / scales[name].norm().clamp(min=1e-6)).item() for name, g in expected.items()
    }
    return max(worst.items(), key=lambda item: item[1])
