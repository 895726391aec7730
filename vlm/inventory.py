"""The parameters of a checkpoint by name and shape, as its config.json implies them: arithmetic, no torch.

Names, shapes, order, and the defaults of keys that a config.json leaves out are those of transformers' classes
(`Qwen2VLForConditionalGeneration`, `Qwen2_5_VLForConditionalGeneration` and their configs; tests/vlm/test_inventory.py
compares). Both layouts are read: the text model's keys under `text_config`, or, as first published, at the top level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlm.common.errors import RecipeError

Sizes = Callable[[str, int], int]
"""(key, default) → a size from one section of a config."""


class Layer(NamedTuple):
    """A module with a weight, and perhaps a bias as long as its first dimension."""

    name: str
    weight: tuple[int, ...]
    "As torch stores it; of a linear layer (outputs, inputs)."
    bias: bool = False
    linear: bool = False


@dataclass(frozen=True)
class Architecture:
    """The sizes that a model is built from."""

    kind: str
    """`qwen2_vl` or `qwen2_5_vl`."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value: int
    """Width of all keys (or all values) of one layer: key-value heads × head size."""
    vocabulary: int
    tied: bool
    depth: int
    """Blocks of the vision tower."""
    width: int
    """Channels of the vision tower."""
    vision_heads: int
    vision_intermediate: int
    joined: int
    """Width that the merger projects to: the language model's `hidden`, where the two fit together."""
    channels: int
    """Of a picture."""
    patch: int
    merge: int
    temporal: int


@dataclass(frozen=True)
class Family:
    """What one family has of its own; all of it is in the vision tower."""

    sizes: Callable[[Sizes], dict[str, int]]
    """vision_config → width, vision_intermediate and joined of an `Architecture`."""
    norm_bias: bool
    """LayerNorm with a bias, or RMSNorm without."""
    widening: tuple[str, ...]
    """Linear layers of a block's MLP from the tower's width to its intermediate."""
    narrowing: str
    """And the one back."""


def _qwen2_vl(size: Sizes) -> dict[str, int]:
    width = size("embed_dim", 1280)
    return {"width": width, "vision_intermediate": width * size("mlp_ratio", 4), "joined": size("hidden_size", 3584)}


def _qwen2_5_vl(size: Sizes) -> dict[str, int]:
    return {
        "width": size("hidden_size", 3584),
        "vision_intermediate": size("intermediate_size", 3420),
        "joined": size("out_hidden_size", 3584),
    }


FAMILIES = {
    "qwen2_vl": Family(_qwen2_vl, norm_bias=True, widening=("fc1",), narrowing="fc2"),
    "qwen2_5_vl": Family(_qwen2_5_vl, norm_bias=False, widening=("gate_proj", "up_proj"), narrowing="down_proj"),
}
"""By the config's `model_type`."""


def read(config: Mapping[str, Any], where: str) -> Architecture:
    """The sizes in a config of one of `FAMILIES`. where: names it in messages.

    Raises: RecipeError naming the key, for what is no size and for heads that do not divide.
    """
    nested = config.get("text_config") is not None
    text, vision = _section(config, "text_config", where), _section(config, "vision_config", where)
    own = text if nested else config
    size = _sizes(own, f"{where}: {'text_config.' if nested else ''}")
    seen = _sizes(vision, f"{where}: vision_config.")
    # Checkpoints saved by transformers before 5 may say in the text model's section that the head is tied.
    tied = [section.get("tie_word_embeddings", False) for section in (config, text)]
    if wrong := [value for value in tied if not isinstance(value, bool)]:
        raise RecipeError(f"{where}: tie_word_embeddings is {wrong[0]!r}; expected true or false")
    hidden, heads = size("hidden_size", 8192), size("num_attention_heads", 64)
    groups = heads if own.get("num_key_value_heads", 8) is None else size("num_key_value_heads", 8)
    for name, whole, part, of in (
        ("hidden_size", hidden, heads, "num_attention_heads"),
        ("num_attention_heads", heads, groups, "num_key_value_heads"),
    ):
        if whole % part:
            raise RecipeError(f"{where}: {name} {whole} is no multiple of {of} {part}")
    return Architecture(
        kind=config["model_type"],
        layers=size("num_hidden_layers", 80),
        hidden=hidden,
        intermediate=size("intermediate_size", 29568),
        heads=heads,
        key_value=groups * hidden // heads,
        vocabulary=size("vocab_size", 152064),
        tied=any(tied),
        depth=seen("num_hidden_layers" if "num_hidden_layers" in vision else "depth", 32),
        vision_heads=seen("num_attention_heads" if "num_attention_heads" in vision else "num_heads", 16),
        channels=seen("in_channels", 3),
        patch=seen("patch_size", 14),
        merge=seen("spatial_merge_size", 2),
        temporal=seen("temporal_patch_size", 2),
        **FAMILIES[config["model_type"]].sizes(seen),
    )


def _section(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = config.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise RecipeError(f"{where}: {key} is {found!r}; expected an object")
    return found or {}


def _sizes(section: Mapping[str, Any], where: str) -> Sizes:
    def size(key: str, default: int) -> int:
        found = section.get(key, default)
        if type(found) is not int or found < 1:
            raise RecipeError(f"{where}{key} is {found!r}; expected a whole number above 0")
        return found

    return size


def layers(sizes: Architecture) -> Iterator[Layer]:
    """Every module that holds parameters; `lm_head`, last, also where it is tied to `embed_tokens`."""
    yield from _vision(sizes)
    hidden, text = sizes.hidden, "model.language_model"
    yield Layer(f"{text}.embed_tokens", (sizes.vocabulary, hidden))
    for number in range(sizes.layers):
        layer = f"{text}.layers.{number}"
        yield _linear(f"{layer}.self_attn.q_proj", hidden, hidden)
        yield _linear(f"{layer}.self_attn.k_proj", sizes.key_value, hidden)
        yield _linear(f"{layer}.self_attn.v_proj", sizes.key_value, hidden)
        yield _linear(f"{layer}.self_attn.o_proj", hidden, hidden, bias=False)
        yield _linear(f"{layer}.mlp.gate_proj", sizes.intermediate, hidden, bias=False)
        yield _linear(f"{layer}.mlp.up_proj", sizes.intermediate, hidden, bias=False)
        yield _linear(f"{layer}.mlp.down_proj", hidden, sizes.intermediate, bias=False)
        yield Layer(f"{layer}.input_layernorm", (hidden,))
        yield Layer(f"{layer}.post_attention_layernorm", (hidden,))
    yield Layer(f"{text}.norm", (hidden,))
    yield _linear("lm_head", sizes.vocabulary, hidden, bias=False)


def _vision(sizes: Architecture) -> Iterator[Layer]:
    family, width, wide = FAMILIES[sizes.kind], sizes.width, sizes.vision_intermediate
    tower = "model.visual"
    yield Layer(f"{tower}.patch_embed.proj", (width, sizes.channels, sizes.temporal, sizes.patch, sizes.patch))
    for number in range(sizes.depth):
        block = f"{tower}.blocks.{number}"
        yield Layer(f"{block}.norm1", (width,), family.norm_bias)
        yield Layer(f"{block}.norm2", (width,), family.norm_bias)
        yield _linear(f"{block}.attn.qkv", 3 * width, width)
        yield _linear(f"{block}.attn.proj", width, width)
        for name in family.widening:
            yield _linear(f"{block}.mlp.{name}", wide, width)
        yield _linear(f"{block}.mlp.{family.narrowing}", width, wide)
    square = width * sizes.merge**2
    yield Layer(f"{tower}.merger.ln_q", (width,), family.norm_bias)
    yield _linear(f"{tower}.merger.mlp.0", square, square)
    yield _linear(f"{tower}.merger.mlp.2", sizes.joined, square)


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Layer:
    return Layer(name, (outputs, inputs), bias, linear=True)


def parameters(sizes: Architecture) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape), as `named_parameters` of the model gives them: a tied head is left out."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for layer in layers(sizes):
        if not (sizes.tied and layer.name == "lm_head"):
            found += [(f"{layer.name}.weight", layer.weight)]
            found += [(f"{layer.name}.bias", layer.weight[:1])] if layer.bias else []
    return found
