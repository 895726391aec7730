"""The real model classes without storage, and what they say of their parameters: what `vlm.families` is held to."""

from __future__ import annotations

import torch
from transformers import AutoConfig

from vlm import families


def meta_model(raw: dict):
    """The model of a config.json on the meta device, its head tied where the config ties it."""
    config = AutoConfig.for_model(**raw)
    with torch.device("meta"):
        model = families.of(raw).model_class(config)
    model.tie_weights()
    return model


def named_shapes(model) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]


def linears(model) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear layer by its full name."""
    layers = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    return {name: (one.out_features, one.in_features) for name, one in layers.items()}
