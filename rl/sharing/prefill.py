"""The rollout of TRL's GRPOTrainer from one prefill of each prompt (`vlm.prefix.rollout`).

TRL repeats each prompt once for each of its completions and calls `generate` on all rows; around that call
`shared_prefill` prefills what is unique.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlm.prefix import media, rollout

Roll = Callable[..., Tensor]
"""`roll(inputs, **others)`: rows and their pictures, and what else `generate` was given → what it returns."""


@contextmanager
def rolling(model, roll: Roll) -> Iterator[None]:
    """For its duration `model.generate` is `roll`, inside of which it is the model's own."""
    plain = model.generate

    def generate(**given: Any) -> Tensor:
        inputs = {key: given.pop(key) for key in (*rollout.PER_ROW, *media.NAMES) if key in given}
        with rollout.replaced(model, "generate", plain):
            return roll(inputs, **given)

    with rollout.replaced(model, "generate", generate):
        yield


@contextmanager
def shared_prefill(model, prompt_index: Sequence[int]) -> Iterator[None]:
    """For its duration `model.generate` takes repeated rows and prefills each prompt once.

    model: what TRL calls `generate` on, `accelerator.unwrap_model(trainer.model_wrapped)`.
    prompt_index: the unique prompt of each row, numbered by first appearance.
    Pictures may be those of the repeated rows, or already those of the unique prompts alone.
    Raises, from `generate`: ValueError where rows that are said to be one prompt are not, or pictures fit neither.
    """

    def roll(inputs: Mapping[str, Tensor], **given: Any) -> Tensor:
        unique = first_rows(inputs, prompt_index, model.config)
        return rollout.generate(model, unique, torch.tensor(prompt_index), **given)

    with rolling(model, roll):
        yield


def first_rows(inputs: Mapping[str, Tensor], prompt_index: Sequence[int], config) -> dict[str, Tensor]:
    """Inputs of the unique prompts, out of those of the repeated rows. Raises: ValueError, see `shared_prefill`."""
    index = list(prompt_index)
    rows = len(inputs["input_ids"])
    first = rollout.first_places(index)
    if len(index) != rows or first != sorted(first):
        raise ValueError(f"prompt_index: found {index}, expected {rows} numbers, by first appearance")
    unique = {key: inputs[key][first] for key in rollout.PER_ROW if key in inputs}
    for key, value in unique.items():
        if not value[index].equal(inputs[key]):
            raise ValueError(f"{key}: rows that are said to be one prompt differ; prompt_index is {index}")
    shown = media.of(inputs)
    if not shown:
        return unique
    if media.tokens(shown, config) == int((inputs["input_ids"] == config.image_token_id).sum()):
        return rollout.select(inputs, first, config)
    media.counts(unique["input_ids"], shown, config)  # raises where they fit neither
    return unique | shown
