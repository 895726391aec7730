"""The real model classes without storage, and what they say of their parameters: what `vlm.families` is held to."""

from __future__ import annotations

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

CLASSES = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
}


def meta_model(raw: dict):
    """The model of a config.json on the meta device, its head tied where the config ties it."""
    config_class, model_class = CLASSES[raw["model_type"]]
    config = config_class.from_dict({key: value for key, value in raw.items() if key != "model_type"})
    with torch.device("meta"):
        model = model_class(config)
    model.tie_weights()
    return model


def named_shapes(model) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]


def linears(model) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear layer by its full name."""
    layers = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    return {name: (one.out_features, one.in_features) for name, one in layers.items()}
