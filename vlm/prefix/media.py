"""Pictures as the keywords of a model's forward pass hold them.

`pixel_values` holds one unit after another: a picture, or a tile of one. Where the model reads `image_grid_thw`
(units, 3), a unit has as many rows as that has patches; elsewhere one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlm import families
from vlm.common.processes import processes

PIXELS, GRID = "pixel_values", "image_grid_thw"
NAMES = (PIXELS, GRID)

Media = Mapping[str, Any]


def of(fields: Media) -> dict[str, Tensor]:
    """The pictures among keywords; {} where there are none."""
    return {name: fields[name] for name in NAMES if fields.get(name) is not None}


def rows(media: Media) -> list[int]:
    """Rows of `pixel_values` that each unit has."""
    if GRID in media:
        return media[GRID].prod(-1).tolist()
    return [1] * len(media[PIXELS]) if PIXELS in media else []


def choose(media: Media, numbers: Sequence[int]) -> dict[str, Tensor]:
    """The units of these numbers, in this order; {} where there are none."""
    if PIXELS not in media or not numbers:
        return {}
    parts = media[PIXELS].split(rows(media))
    found = {PIXELS: torch.cat([parts[number] for number in numbers])}
    return found | ({GRID: media[GRID][list(numbers)]} if GRID in media else {})


def counts(ids: Tensor, media: Media, config) -> list[int]:
    """How many units each row of `ids` (U, P) shows; `media` holds all of them, in order. config: the whole model's.

    Raises: ValueError where placeholders and units do not add up.
    """
    sizes = families.of(config).unit_tokens(media, config)
    found, used = [], 0
    for row, wanted in enumerate((ids == config.image_token_id).sum(-1).tolist()):
        first = used
        while wanted > 0 and used < len(sizes):
            wanted -= sizes[used]
            used += 1
        if wanted:
            raise ValueError(f"row {row}: image tokens do not fit the pictures' sizes ({sizes[first:used]} tokens)")
        found.append(used - first)
    if used != len(sizes):
        raise ValueError(f"{len(sizes)} pictures, and image tokens for {used}")
    return found


def tokens(media: Media, config) -> int:
    """Visual tokens of all units."""
    return sum(families.of(config).unit_tokens(media, config)) if PIXELS in media else 0


def shown_in_all(batch: Media, config, before: bool = False) -> dict[str, Any]:
    """A padded batch; one of text alone, among several processes, with a blank picture at an end of its first row,
    which nothing attends to and no label follows. Loss and gradients are those without it; the vision tower's are 0.

    The vision tower has to run in each process: ZeRO-3 gathers its weights from all at once, and DDP waits for all of
    its gradients.

    batch: `input_ids`, `attention_mask` and, where there are any, `mm_token_type_ids` and `labels` (B, L).
    before: at the beginning, where places are counted from the end. config: the whole model's.
    """
    if processes() == 1 or PIXELS in batch:
        return dict(batch)
    blank, width = families.of(config).blank(config)
    first = {"input_ids": config.image_token_id, "attention_mask": 0, "mm_token_type_ids": 1, "labels": -100}
    longer = {}
    for name in first.keys() & batch.keys():
        columns = torch.full_like(batch[name][:, :1], -100 if name == "labels" else 0).repeat(1, width)
        columns[0] = first[name]
        longer[name] = torch.cat([columns, batch[name]] if before else [batch[name], columns], 1)
    device = batch["input_ids"].device
    return {**batch, **longer, **{name: value.to(device) for name, value in blank.items()}}
