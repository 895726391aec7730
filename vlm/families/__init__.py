"""Model families: what differs between architectures, one file each. A new one is a file.

family.py   what a family says, with what most have
sight.py    sizes and visual tokens of pictures
sizes.py    parameters by name and shape, as config.json implies them
grids.py    what the families of Qwen's kind share
other.py    every other model that TRL trains

    family = of(config)                     # of a config.json, or a model's config
    family.sight(config, 262144, 1048576).tokens((2000, 1500))
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from vlm.families.family import Family
from vlm.families.other import Other
from vlm.families.sight import Sight
from vlm.families.sizes import Architecture, Layer, UnknownSizes, named

__all__ = [
    "FAMILIES", "Architecture", "Family", "Layer", "Sight", "UnknownSizes", "alike", "by_name", "known", "of",
    "parameters", "read",
]  # fmt: skip


def _described() -> Iterator[Family]:
    """One of each class in this folder that has a kind."""
    for found in pkgutil.iter_modules(__path__, f"{__name__}."):
        if found.name != f"{__name__}.__main__":
            module = importlib.import_module(found.name)
            for value in vars(module).values():
                if isinstance(value, type) and value.__module__ == found.name and "kind" in vars(value):
                    yield value()


FAMILIES: dict[str, Family] = {one.kind: one for one in _described()}
"""By the config's `model_type`."""
ALL: tuple[Family, ...] = (*FAMILIES.values(), Other(""))
"""And what is taken of any other."""
KNOWN: dict[str, Mapping[str, Any]] = {name: sizes for one in FAMILIES.values() for name, sizes in one.known.items()}
"""Published sizes by name."""


def of(config: Any) -> Family:
    """The family of a model's config, or of a config.json as a dict."""
    kind = _get(config, "model_type")
    family = FAMILIES.get(kind)
    if family is None:
        return _other(str(kind))
    for section, kinds in family.built_of.items():
        if (found := _get(_get(config, section), "model_type")) is not None and found not in kinds:
            return _other(f"{kind} with {found}")
    return family


def _get(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


@lru_cache
def _other(kind: str) -> Family:
    return Other(kind)


def _sized(path: str) -> tuple[Family, str] | None:
    """The family that a hub id or folder name points to, and the size that it says."""
    for family in FAMILIES.values():
        if family.pattern and (found := re.search(family.pattern, path.lower())):
            return family, found["size"].upper()
    return None


def by_name(path: str) -> Family | None:
    """The family that a hub id, folder name or a server's name of a model points to."""
    found = _sized(path)
    return found and found[0]


def alike(path: str) -> dict[str, Any]:
    """A config of the family that a name points to, for what all its sizes have in common; else a Qwen2-VL's."""
    family = by_name(path) or FAMILIES["qwen2_vl"]
    return {"model_type": family.kind, **next(iter(family.known.values()), {})}


def known(path: str) -> str | None:
    """Name in `KNOWN` that a hub id or folder name points to: `PumpkinCat/Qwen2VL-7B-RS` → `Qwen2-VL-7B`, else None."""
    found = _sized(path)
    return next((name for name in found[0].known if name.endswith(f"-{found[1]}")), None) if found else None


def read(config: Mapping[str, Any], where: str) -> Architecture:
    """The sizes in a config.json. where: names it in messages.

    Raises: RecipeError naming the key, for what is no size; UnknownSizes, of what has no file here.
    """
    return of(config).sizes(config, where)


def layers(sizes: Architecture) -> list[Layer]:
    """Every module that holds parameters; `lm_head`, last, also where it is tied to `embed_tokens`."""
    return list(FAMILIES[sizes.kind].layers(sizes))


def parameters(sizes: Architecture) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape), as `named_parameters` of the model gives them: a tied head is left out."""
    return named(layers(sizes), sizes.tied)
