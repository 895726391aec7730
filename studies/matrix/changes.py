"""What is changed in a stage's recipe, as an ordered list of overrides `key=value`: the command line says it all.

A change is a mapping of recipe keys (nested or dotted), or a recipe file whose own lines are meant: an ablation such as
`recipes/r1_no_score.yaml` then lies on top of whatever else the run changes. The file's `base:` is not read again, and
must be what the stage's recipe builds on, or is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage.recipe import config
from stage.recipe.schema import did_you_mean
from stage.recipe.yaml_nodes import Node, dump_line, parse
from vlm.common.errors import RecipeError

PLACE = re.compile(r"\{([A-Za-z]\w*)\}")
START = re.compile(r"\{(\w+)\}/")
"""Nothing else than a stage can be meant at the start of a path; elsewhere braces may be a prompt's."""


@dataclass(frozen=True)
class Change:
    """One override, and who asks for it."""

    key: str
    value: Any
    where: str
    "For messages: `FILE: axis `score`, value `without`, stage `grpo``."

    def text(self, names: Mapping[str, str]) -> str:
        """As on the command line. names: what stands for `{name}`."""
        return f"{self.key}={dump_line(fill(self.value, names))}"


def read(change: Any, recipe: str, file: Path, where: str) -> list[Change]:
    """The changes in one entry of a matrix. recipe: what the stage begins from. file: the matrix.

    Raises: RecipeError.
    """
    if isinstance(change, list):
        return [found for one in change for found in read(one, recipe, file, where)]
    if isinstance(change, str):
        return overlay(Path(config.locate(change, file)), Path(recipe), where)
    if not isinstance(change, dict):
        raise RecipeError(f"{where}: found {change!r}, expected recipe keys, the path of a recipe, or a list of both")
    return [Change(key, value, where) for key, value in leaves(change)]


def leaves(tree: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for all that is no mapping, and for mappings that are empty or whose keys have dots."""
    for name, value in tree.items():
        dotted = f"{key}.{name}" if key else name
        plain = isinstance(value, dict) and value and all("." not in inner and not inner.isdigit() for inner in value)
        yield from leaves(value, dotted) if plain else [(dotted, value)]


def overlay(path: Path, recipe: Path, where: str) -> list[Change]:
    """The own lines of a recipe file, and of those of its bases that `recipe` does not have already."""
    found: list[Change] = []
    below, at = bases(recipe), path
    while at.resolve() not in below:
        tree = _mapping(at)
        base = tree.pop("base", None)
        for name in ("stage", "output"):
            tree.pop(name, None)
        found = [Change(key, value, f"{where}, {at}") for key, value in leaves(tree)] + found
        if base is None:
            if at != path:
                raise RecipeError(
                    f"{where}: {path} changes {at}, which {recipe} is not based on; its lines would mean something else"
                )
            return found
        at = at.parent / base
    return found


def bases(recipe: Path) -> set[Path]:
    """The file and all that it is based on."""
    found: set[Path] = set()
    while recipe.resolve() not in found:
        found.add(recipe.resolve())
        base = _mapping(recipe).get("base")
        if base is None:
            break
        recipe = recipe.parent / base
    return found


def _mapping(path: Path) -> dict[str, Any]:
    try:
        node: Node = parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    if not isinstance(node.value, dict):
        raise RecipeError(f"{path}: found {node}, expected a mapping of recipe keys")
    return node.plain()


def last(changes: Iterable[Change]) -> list[Change]:
    """Without those that a later one overrides: of the same key, or of one above it unless that is merged."""
    kept: list[Change] = []
    for change in changes:
        if not isinstance(change.value, dict):
            kept = [one for one in kept if one.key != change.key and not one.key.startswith(change.key + ".")]
        kept.append(change)
    return kept


def texts(value: Any) -> Iterator[str]:
    """All texts in nested plain values."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def named(value: Any, known: Iterable[str], where: str) -> set[str]:
    """Which of the known names stand in braces. Raises: RecipeError for an unknown one that begins a path."""
    known, found = list(known), set()
    for text in texts(value):
        found |= {name for name in PLACE.findall(text) if name in known}
        start = START.match(text)
        if start and start[1] not in known:
            hint = did_you_mean(start[1], known)
            raise RecipeError(f"{where}: found {text!r}; there is no stage `{start[1]}`{hint}")
    return found


def fill(value: Any, names: Mapping[str, str]) -> Any:
    """With `{name}` replaced in all texts; other braces stay."""
    if isinstance(value, dict):
        return {key: fill(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, names) for inner in value]
    if isinstance(value, str):
        return PLACE.sub(lambda match: names.get(match[1], match[0]), value)
    return value
