"""The parameters of a checkpoint by name and shape, as its config.json implies them: arithmetic, no torch.

Names, shapes, order, and the defaults of keys that a config.json leaves out are those of transformers' classes;
tests/vlm/test_sizes.py compares. Here is what families have in common, the decoder of Llama and Qwen above all; what
one has of its own, its vision tower above all, stands in its file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlm.common.errors import RecipeError

Sizes = Callable[[str, int], int]
"""(key, default) → a size from one section of a config."""


class UnknownSizes(RecipeError):
    """A model can be trained, and its parameters and memory are not known here."""


class Layer(NamedTuple):
    """A module with a weight, and perhaps a bias as long as its first dimension."""

    name: str
    weight: tuple[int, ...]
    "As torch stores it; of a linear layer (outputs, inputs)."
    bias: bool = False
    linear: bool = False
    suffix: bool = True
    "Whether it is a module with a `weight`, and no parameter by itself."


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes that a model is built from."""

    kind: str
    """The config's `model_type`: a key of `vlm.families.FAMILIES`."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    head: int
    """Size of a head of the decoder."""
    query: int
    """Width of all queries of a layer: heads × head size; `hidden` in most."""
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
    text: Text
    unit: int | None = None
    """Places in the tower of a picture, or a tile of one, with its first token; None where pictures have any size."""
    used: int | None = None
    """Blocks of the tower up to the last whose output is used; None for all."""
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What only this family has."""


@dataclass(frozen=True)
class Text:
    """How a decoder of Llama's kind differs from others: defaults of its config, biases, norms of queries and keys."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    groups: int | None
    """Key-value heads; None: as many as heads."""
    vocabulary: int
    head: int | None = None
    """Size of a head; None: hidden / heads."""
    sized: bool = False
    """Whether the config may say another, by `head_dim`."""
    bias: bool = False
    """Of q, k and v, always."""
    stated: bool = False
    """Of q, k, v and o, as the config's `attention_bias` says."""
    normed: bool = False
    """RMSNorm of each head's queries and keys."""
    mlp: bool = False
    """Of gate, up and down projection, as the config's `mlp_bias` says."""
    flat: bool = False
    """Whether its keys may stand at the top level, as Qwen2-VL's were first published."""


def section(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """A part of a config; {} where it is not there. Raises: RecipeError where it is no object."""
    found = config.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise RecipeError(f"{where}: {key} is {found!r}; expected an object")
    return found or {}


def sizes_of(part: Mapping[str, Any], where: str) -> Sizes:
    """A reader of sizes. Raises, from it: RecipeError for what is no whole number above 0."""

    def size(key: str, default: int) -> int:
        found = part.get(key, default)
        if type(found) is not int or found < 1:
            raise RecipeError(f"{where}{key} is {found!r}; expected a whole number above 0")
        return found

    return size


def built_of(config: Mapping[str, Any], part: str, kinds: Iterable[str], where: str) -> str:
    """Which of `kinds`, a tower's or language model's, a part of a config is; the first where it does not say.

    Raises: UnknownSizes for any other.
    """
    known = list(kinds)
    kind = section(config, part, where).get("model_type") or known[0]
    if kind not in known:
        raise UnknownSizes(
            f"{where}: {part}.model_type is {kind!r}, whose sizes are not known here ({', '.join(known)})"
        )
    return kind


def text_sizes(config: Mapping[str, Any], kind: Text, where: str) -> dict[str, Any]:
    """The fields of `Architecture` that a decoder says.

    Raises: RecipeError naming the key, for what is no size and for heads that do not divide.
    """
    nested = not kind.flat or config.get("text_config") is not None
    text = section(config, "text_config", where)
    own = text if nested else config
    size = sizes_of(own, f"{where}: {'text_config.' if nested else ''}")
    # Checkpoints saved by transformers before 5 may say in the text model's section that the head is tied.
    tied = [part.get("tie_word_embeddings", False) for part in (config, text)]
    if wrong := [value for value in tied if not isinstance(value, bool)]:
        raise RecipeError(f"{where}: tie_word_embeddings is {wrong[0]!r}; expected true or false")
    hidden, heads = size("hidden_size", kind.hidden), size("num_attention_heads", kind.heads)
    alone = own.get("num_key_value_heads", kind.groups) is None
    groups = heads if alone else size("num_key_value_heads", kind.groups or heads)
    stated = kind.sized and own.get("head_dim", kind.head) is not None
    divided = [("num_attention_heads", heads, groups, "num_key_value_heads")]
    divided += [] if stated else [("hidden_size", hidden, heads, "num_attention_heads")]
    for name, whole, part, of in divided:
        if whole % part:
            raise RecipeError(f"{where}: {name} {whole} is no multiple of {of} {part}")
    head = size("head_dim", kind.head or 1) if stated else hidden // heads
    return {
        "layers": size("num_hidden_layers", kind.layers),
        "hidden": hidden,
        "intermediate": size("intermediate_size", kind.intermediate),
        "heads": heads,
        "head": head,
        "query": heads * head,
        "key_value": groups * head,
        "vocabulary": size("vocab_size", kind.vocabulary),
        "tied": any(tied),
        "text": dataclasses.replace(
            kind,
            stated=kind.stated and bool(own.get("attention_bias", False)),
            mlp=kind.mlp and bool(own.get("mlp_bias", False)),
        ),
    }


def decoder(
    sizes: Architecture, mlp: Callable[[Architecture, str, int], Iterator[Layer]] | None = None
) -> Iterator[Layer]:
    """The language model and `lm_head`. mlp: of the layer with this number, by its name, where it is not `gated`."""
    hidden, text = sizes.hidden, "model.language_model"
    bias = sizes.text.bias or sizes.text.stated
    yield Layer(f"{text}.embed_tokens", (sizes.vocabulary, hidden))
    for number in range(sizes.layers):
        layer = f"{text}.layers.{number}"
        yield linear(f"{layer}.self_attn.q_proj", sizes.query, hidden, bias)
        yield linear(f"{layer}.self_attn.k_proj", sizes.key_value, hidden, bias)
        yield linear(f"{layer}.self_attn.v_proj", sizes.key_value, hidden, bias)
        yield linear(f"{layer}.self_attn.o_proj", hidden, sizes.query, sizes.text.stated)
        if sizes.text.normed:
            yield Layer(f"{layer}.self_attn.q_norm", (sizes.head,))
            yield Layer(f"{layer}.self_attn.k_norm", (sizes.head,))
        yield from (mlp or gated)(sizes, f"{layer}.mlp", number)
        yield Layer(f"{layer}.input_layernorm", (hidden,))
        yield Layer(f"{layer}.post_attention_layernorm", (hidden,))
    yield Layer(f"{text}.norm", (hidden,))
    yield linear("lm_head", sizes.vocabulary, hidden, bias=False)


def gated(sizes: Architecture, name: str, number: int) -> Iterator[Layer]:
    """The linears of an MLP of SwiGLU's kind (Shazeer 2020, arXiv 2002.05202)."""
    yield linear(f"{name}.gate_proj", sizes.intermediate, sizes.hidden, sizes.text.mlp)
    yield linear(f"{name}.up_proj", sizes.intermediate, sizes.hidden, sizes.text.mlp)
    yield linear(f"{name}.down_proj", sizes.hidden, sizes.intermediate, sizes.text.mlp)


def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Layer:
    return Layer(name, (outputs, inputs), bias, linear=True)


def named(layers: Iterable[Layer], tied: bool) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape), as `named_parameters` of the model gives them: a tied head is left out."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for layer in layers:
        if not (tied and layer.name == "lm_head"):
            found += [(f"{layer.name}.weight", layer.weight)] if layer.suffix else [(layer.name, layer.weight)]
            found += [(f"{layer.name}.bias", layer.weight[:1])] if layer.bias else []
    return found
