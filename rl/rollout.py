"""The rollout of TRL's GRPOTrainer from one prefill of each prompt (`vlm.rollout`).

TRL repeats each prompt once for each of its completions and calls `generate` on all rows. In a trainer:

    def _generate_single_turn(self, prompt_ids, images, *rest, **named):
        if self.use_vllm or self.use_transformers_continuous_batching:
            return super()._generate_single_turn(prompt_ids, images, *rest, **named)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        with shared_prefill(model, same_prompts(prompt_ids, images)):
            return super()._generate_single_turn(prompt_ids, images, *rest, **named)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlm import rollout


def same_prompts(prompts: Sequence[Any], images: Sequence[Sequence[Any] | None] | None = None) -> list[int]:
    """Which unique prompt each row is: 0, 1, … in order of first appearance.

    prompts: text, token ids or conversations, one for each row. images: the pictures of each row, or None.
    Two rows are one prompt where the prompts are equal and the pictures are, one by one, the same object or equal in
    mode, size and every pixel.
    """
    digests: dict[int, Any] = {}  # by identity: the rows of a group share their pictures, each is read once
    numbers: dict[Any, int] = {}
    pictures = [None] * len(prompts) if images is None else images
    keys = (_frozen([prompt, own], digests) for prompt, own in zip(prompts, pictures, strict=True))
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _frozen(value: Any, digests: dict[int, Any]) -> Any:
    """Something hashable that is equal where the values are."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(value[key], digests)) for key in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, digests) for item in value)
    if isinstance(value, Image.Image):
        if id(value) not in digests:
            pixels = hashlib.blake2b(value.tobytes(), digest_size=32).digest()
            palette = tuple(value.getpalette() or ())
            digests[id(value)] = ("picture", value.mode, value.size, palette, pixels)
        return digests[id(value)]
    hash(value)  # raises TypeError for what could not be compared
    return value


@contextmanager
def shared_prefill(model, prompt_index: Sequence[int], prefill_batch: int | None = None) -> Iterator[None]:
    """For its duration `model.generate` takes repeated rows and prefills each prompt once.

    model: what TRL calls `generate` on, `accelerator.unwrap_model(trainer.model_wrapped)`.
    prompt_index: the unique prompt of each row, numbered by first appearance, as `same_prompts` gives it.
    Pictures may be those of the repeated rows, or already those of the unique prompts alone.
    Raises, from `generate`: ValueError where rows that are said to be one prompt are not, or pictures fit neither.
    """
    plain = model.generate

    def generate(**given: Any) -> Tensor:
        known = (*rollout.PER_ROW, *rollout.PICTURES)
        inputs = {key: given.pop(key) for key in known if key in given}
        config = model.config
        with rollout.replaced(model, "generate", plain):
            return rollout.generate(
                model,
                first_rows(inputs, prompt_index, config),
                torch.tensor(prompt_index),
                prefill_batch=prefill_batch,
                **given,
            )

    with rollout.replaced(model, "generate", generate):
        yield


def first_rows(inputs: Mapping[str, Tensor], prompt_index: Sequence[int], config) -> dict[str, Tensor]:
    """Inputs of the unique prompts, out of those of the repeated rows. Raises: ValueError, see `shared_prefill`."""
    index = list(prompt_index)
    rows = len(inputs["input_ids"])
    first = [index.index(number) for number in range(max(index) + 1)]
    if len(index) != rows or first != sorted(first):
        raise ValueError(f"prompt_index: found {index}, expected {rows} numbers, by first appearance")
    unique = {key: inputs[key][first] for key in rollout.PER_ROW if key in inputs}
    for key, value in unique.items():
        if not value[index].equal(inputs[key]):
            raise ValueError(f"{key}: rows that are said to be one prompt differ; prompt_index is {index}")
    grids = inputs.get("image_grid_thw")
    if grids is None:
        return unique
    tokens = int(grids.prod(-1).sum()) // config.vision_config.spatial_merge_size**2
    if tokens == int((inputs["input_ids"] == config.image_token_id).sum()):
        return rollout.select(inputs, first, config)
    rollout.picture_counts(unique["input_ids"], grids, config)  # raises where they fit neither
    return unique | {key: inputs[key] for key in rollout.PICTURES}
