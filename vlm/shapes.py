"""Sizes without weights: parameters by part, known checkpoints, visual-token arithmetic.

Units: an image is (width, height) in pixels; a patch is 14 × 14 pixels; a visual token is 2 × 2 patches, so
28 × 28 pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlm import inventory
from vlm.adapters import HEAD, PARTS, chosen, left_to_train, part_of
from vlm.common.errors import RecipeError
from vlm.loading import architecture, check_stored, looks_local, raw_config

_QWEN2_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064,
}  # fmt: skip
_QWEN2_2B = {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
_QWEN2_5_3B = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip

KNOWN: dict[str, dict] = {
    "Qwen2-VL-2B": {
        "model_type": "qwen2_vl", "tie_word_embeddings": True, "text_config": _QWEN2_2B,
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16,
                          "mlp_ratio": 4},
    },
    "Qwen2-VL-7B": {
        "model_type": "qwen2_vl", "tie_word_embeddings": False, "text_config": _QWEN2_7B,
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16,
                          "mlp_ratio": 4},
    },
    "Qwen2.5-VL-3B": {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": True, "text_config": _QWEN2_5_3B,
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 2048,
        },
    },
    "Qwen2.5-VL-7B": {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": False, "text_config": _QWEN2_7B,
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 3584,
        },
    },
}  # fmt: skip
"""Sizes from the `config.json` files that Qwen published; what counts no parameters is left out."""


def known(path: str) -> str | None:
    """Name in `KNOWN` that a hub id or folder name points to: `PumpkinCat/Qwen2VL-7B-RS` → `Qwen2-VL-7B`,
    else None."""
    match = re.search(r"qwen[-_]?(2\.5|2_5|25|2)[-_]?vl.*?(?<![\d.])(\d+)b(?![a-z0-9])", path.lower())
    if match is None:
        return None
    family = "Qwen2-VL" if match[1] == "2" else "Qwen2.5-VL"
    name = f"{family}-{match[2]}B"
    return name if name in KNOWN else None


def read_config(path: str, revision: str | None = None) -> tuple[dict[str, Any], str]:
    """Config of a checkpoint and where it was read from; a known shape serves where it cannot be reached.

    Returns (config, source), `source` a sentence for the plan. Raises `RecipeError` when neither is there.
    """
    try:
        architecture(path, revision)
        return raw_config(path, revision), f"config.json of {path}"
    except RecipeError:
        name, to_come = known(path), path.startswith("runs/")  # what an earlier stage will write
        if name is None or (looks_local(path) and not to_come):
            raise
        return KNOWN[name], f"{path} cannot be reached here: the published shape of {name} is used instead"


@dataclass(frozen=True)
class Shape(inventory.Architecture):
    """What the memory arithmetic reads off an architecture and the recipe's `model:` section."""

    source: str
    parameters: dict[str, int]
    """Parameters by part; a tied head is counted once."""
    trainable: dict[str, int]
    """Trainable parameters by part; under LoRA those of the adapters."""
    lora_inputs: int
    """Sum of the input widths of the adapted layers (0 without LoRA)."""
    head_trainable: bool
    quantized: int
    """Parameters in 4 bits."""

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def total_trainable(self) -> int:
        return sum(self.trainable.values())


def shape(section) -> Shape:
    """Shape of a recipe's `model:` section, with its freezing and LoRA."""
    config, source = read_config(section.path, section.revision)
    check_stored(config, section)
    sizes = inventory.read(config, f"model.path: {source}")
    parameters = {name: math.prod(shape) for name, shape in inventory.parameters(sizes)}
    trained = left_to_train(parameters, section.freeze)
    if section.lora is None:
        trainable, lora_inputs = _count((name, parameters[name]) for name in trained), 0
    else:
        trainable, lora_inputs = _adapters(sizes, section.lora, set(section.freeze))
    return Shape(
        **vars(sizes),
        source=source,
        parameters=_count(parameters.items()),
        trainable=trainable,
        lora_inputs=lora_inputs,
        head_trainable=section.lora is None and "language_model" not in section.freeze,
        quantized=sum(math.prod(layer.weight) for layer in inventory.layers(sizes) if is_quantized(section, layer)),
    )


def is_quantized(section, layer: inventory.Layer) -> bool:
    """Whether a layer's weight is held in 4 bits: all but those of `vlm.loading.KEPT`."""
    if section.quantization is None or not layer.linear:
        return False
    return part_of(layer.name) == "language_model" and layer.name != HEAD


def _count(named: Iterable[tuple[str, int]]) -> dict[str, int]:
    counts = dict.fromkeys(PARTS, 0)
    for name, size in named:
        counts[part_of(name)] += size
    return counts


def _adapters(sizes: inventory.Architecture, lora, frozen: set[str]) -> tuple[dict[str, int], int]:
    """LoRA's parameters by part, and the summed input widths of its layers: A is (r, in), B is (out, r)."""
    linears = {layer.name: layer.weight for layer in inventory.layers(sizes) if layer.linear}
    targets = chosen({name: part_of(name) not in frozen for name in linears}, lora.target_modules)
    return _count((name, lora.r * sum(linears[name])) for name in targets), sum(linears[name][1] for name in targets)


STRIP = 200
"""The greatest ratio of sides that `smart_resize` takes."""


def smart_resize(size: tuple[int, int], min_pixels: int, max_pixels: int, factor: int = 28) -> tuple[int, int]:
    """(width, height) that Qwen2-VL resizes an image to: multiples of `factor`, area within the limits.

    Source: the arithmetic of Qwen2-VL's image processor (arXiv 2409.12191), which rounds half to even.
    """
    width, height = size
    if min(size) <= 0 or max(size) / min(size) > STRIP:
        raise ValueError(f"image size {width}×{height}: Qwen2-VL takes aspect ratios up to {STRIP}")
    w, h = round(width / factor) * factor, round(height / factor) * factor
    if w * h > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        w = max(factor, math.floor(width / shrink / factor) * factor)
        h = max(factor, math.floor(height / shrink / factor) * factor)
    elif w * h < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        w = math.ceil(width * grow / factor) * factor
        h = math.ceil(height * grow / factor) * factor
    return w, h


def visual_tokens(size: tuple[int, int], min_pixels: int, max_pixels: int, factor: int = 28) -> int:
    """Tokens of the language model that one image of (width, height) becomes."""
    w, h = smart_resize(size, min_pixels, max_pixels, factor)
    return (w // factor) * (h // factor)


def visual_range(min_pixels: int, max_pixels: int, factor: int = 28) -> tuple[int, int]:
    """Fewest and most tokens an image can become (strips thinner than `factor` after shrinking may exceed the
    most)."""
    return max(1, math.ceil(min_pixels / factor**2)), max(1, max_pixels // factor**2)
