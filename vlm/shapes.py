"""Sizes without weights: the parameters of a recipe's model by part, and what it sees of pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm import families
from vlm.adapters import HEAD, PARTS, chosen, left_to_train, part_of
from vlm.common.errors import RecipeError
from vlm.loading import at_hand, check_stored, family_of, looks_local, raw_config, read_json
from vlm.pictures.budget import shared


def read_config(path: str, revision: str | None = None) -> tuple[dict[str, Any], str]:
    """Config of a checkpoint and where it was read from; a known shape serves where it cannot be reached.

    Returns (config, source), `source` a sentence for the plan. Raises `RecipeError` when neither is there.
    """
    try:
        family_of(path, revision)
        return raw_config(path, revision), f"config.json of {path}"
    except RecipeError:
        name, to_come = families.known(path), path.startswith("runs/")  # what an earlier stage will write
        if name is None or (looks_local(path) and not to_come):
            raise
        said = f"{path} cannot be reached here: the published shape of {name} is used instead"
        return dict(families.KNOWN[name]), said


@dataclass(frozen=True, kw_only=True)
class Shape(families.Architecture):
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


def absent(path: str) -> bool:
    """Whether it is meant as a folder that is not there, which whoever loads it says."""
    return looks_local(path) and not Path(path).expanduser().exists()


def family_here(paths: Sequence[str], revision: str | None = None, fetch: bool = False) -> families.Family | None:
    """The family of a model by its config.json, in its folder or the hub cache; else by a name; None where neither says
    it. paths: by which it goes, the checkpoint's first. fetch: then by the config.json of one on the hub.
    """
    config, called = None, next(filter(None, map(families.by_name, paths)), None)
    try:
        if (file := at_hand(paths[0], "config.json", revision)) is not None:
            config = read_json(file)
        elif called is None and fetch and not looks_local(paths[0]):
            config = raw_config(paths[0], revision)
    except RecipeError:  # who loads it says what is wrong
        pass
    return called if config is None else families.of(config)


def shape(section) -> Shape:
    """Shape of a recipe's `model:` section, with its freezing and LoRA."""
    config, source = read_config(section.path, section.revision)
    check_stored(config, section)
    sizes = families.read(config, f"model.path: {source}")
    parameters = {name: math.prod(shape) for name, shape in families.parameters(sizes)}
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
        quantized=sum(math.prod(layer.weight) for layer in families.layers(sizes) if is_quantized(section, layer)),
    )


def is_quantized(section, layer: families.Layer) -> bool:
    """Whether a layer's weight is held in 4 bits: all but those of `vlm.loading.kept`."""
    if section.quantization is None or not layer.linear:
        return False
    return part_of(layer.name) == "language_model" and layer.name != HEAD


def _count(named: Iterable[tuple[str, int]]) -> dict[str, int]:
    counts = dict.fromkeys(PARTS, 0)
    for name, size in named:
        counts[part_of(name)] += size
    return counts


def _adapters(sizes: families.Architecture, lora, frozen: set[str]) -> tuple[dict[str, int], int]:
    """LoRA's parameters by part, and the summed input widths of its layers: A is (r, in), B is (out, r)."""
    linears = {layer.name: layer.weight for layer in families.layers(sizes) if layer.linear}
    named = lora.target_modules or families.FAMILIES[sizes.kind].linears
    targets = chosen({name: part_of(name) not in frozen for name in linears}, named)
    return _count((name, lora.r * sum(linears[name])) for name in targets), sum(linears[name][1] for name in targets)


def sight(section, images) -> families.Sight:
    """What the model of a recipe's section sees of pictures under the limits of `images`. Where nothing but a name is
    known, as of a model behind an address, the name decides, and where it says nothing, Qwen2-VL's arithmetic.

    Raises: RecipeError for limits that the model cannot have.
    """
    try:
        config, _ = read_config(section.path, section.revision)
    except RecipeError:
        config = families.alike(section.path or "")
    return shared(families.of(config).sight(config, images.min_pixels, images.max_pixels), images.row_pixels)


def sight_of(recipe: Any) -> families.Sight:
    return sight(recipe.model, recipe.images)
