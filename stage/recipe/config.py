"""Recipes: YAML files → `vlm.common.section` models (`stage.recipe.schema` says how), and back.

    launch/grpo.py recipes/r1.yaml model.path=runs/sft/final rewards.0.weight=0.5

A file may name another in `base:` (relative to itself, recursively) and then states only its changes:
mappings merge key by key, everything else replaces, and `null` takes back what the base said (a field that
cannot be null returns to its default). Overrides from the command line lie on top; their values are YAML, and
a number in the key is a list index. `stage.recipe.yaml_nodes` says what YAML means here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from stage.recipe.schema import explain, fit, join
from stage.recipe.yaml_nodes import Node, dump, nodes, parse
from vlm.common.errors import RecipeError
from vlm.common.redaction import holds_secret, redact_command
from vlm.common.section import Section

T = TypeVar("T", bound=Section)
ABSENT = "<absent>"
"""In `difference`, for a key that only the other recipe has."""
COMMAND_LINE = "command line"
LONGEST = 2**20
"""Bytes of a recipe; ours have a few thousand."""


def load(path: str | Path, cls: type[T], overrides: Iterable[str] = ()) -> T:
    """The recipe in `path` as a `cls`, with overrides such as `"model.lora.r=8"`, paths located and checked.

    Raises: RecipeError naming the file and line (or the command line), the key, what was found and expected.
    """
    return _built(_read(Path(path), ()), cls, list(overrides), str(path), partial(locate, recipe=path))


def build(values: dict[str, Any], cls: type[T], overrides: Iterable[str] = (), where: str = COMMAND_LINE) -> T:
    """As `load`, from nested plain values instead of a file; paths are seen from the current directory.

    where: names the values in messages.
    """
    return _built(nodes(values, where), cls, list(overrides), where, partial(locate, recipe="recipe.yaml"))


def _built(tree: Node, cls: type[T], overrides: list[str], name: str, located: Callable[[str], str]) -> T:
    fit(tree, cls)
    for override in overrides:
        _override(tree, override)
        fit(tree, cls)
    _refuse_secrets(tree)
    name += " with the command line's overrides" if overrides else ""
    try:
        return cls.model_validate(tree.plain(), context={"locate": located})
    except ValidationError as error:
        raise RecipeError(explain(error, cls, tree, name)) from error


def load_any(path: str | Path, classes: Iterable[type[Section]], overrides: Iterable[str] = ()) -> Any:
    """The same for whichever class has the default `stage` that the file (or its base) states.

    Raises: RecipeError, also where none has.
    """
    by_stage = {str(cls.model_fields["stage"].default): cls for cls in classes if "stage" in cls.model_fields}
    tree = _read(Path(path), ()).value
    stage = tree["stage"].plain() if isinstance(tree, dict) and "stage" in tree else None
    if not isinstance(stage, str) or stage not in by_stage:
        raise RecipeError(f"{path}: `stage` is {stage!r}; expected one of {', '.join(by_stage)}")
    return load(path, by_stage[stage], overrides)


def to_dict(recipe: Section) -> dict[str, Any]:
    """The recipe as nested plain dicts and lists, every key present."""
    return recipe.model_dump()


def save(recipe: Section, path: str | Path) -> None:
    """Write the whole recipe (no `base`) so that `load` gives an equal one. Makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(to_dict(recipe)), encoding="utf-8")


def difference(a: Section, b: Section) -> dict[str, tuple[Any, Any]]:
    """Dotted key → (value in a, value in b) wherever two recipes differ.

    Lists of unequal length are given whole; a key that one side lacks is `ABSENT` there.
    """
    return dict(_differences(to_dict(a), to_dict(b), ""))


def _differences(a: Any, b: Any, key: str) -> Iterable[tuple[str, tuple[Any, Any]]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(name for name in b if name not in a)]:
            yield from _differences(a.get(name, ABSENT), b.get(name, ABSENT), join(key, name))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from _differences(left, right, join(key, index))
    elif a != b:
        yield key, (a, b)


def locate(path: str, recipe: str | Path) -> str:
    """Where a path stated in a recipe lies, absolute.

    Seen from the current directory; if nothing is there, from the repository root of the recipe's file (the
    nearest folder above it with a `pyproject.toml` or `.git`; without one, the file's folder). What lies in
    neither place comes back as it is, for it may be a hub id; whoever opens it reports it missing.
    """
    expanded = os.path.expanduser(path)
    folder = Path(recipe).resolve().parent
    marks = ("pyproject.toml", ".git")
    root = next((f for f in (folder, *folder.parents) if any((f / mark).exists() for mark in marks)), folder)
    for candidate in (Path(expanded), root / expanded):
        if path and candidate.exists():
            return os.path.abspath(candidate)
    return expanded


# --- layers: base files and overrides ---


def _read(path: Path, above: tuple[Path, ...], named_in: str = "") -> Node:
    """The tree of a file merged over its bases. `above`: the files whose `base` chain led here."""
    path = Path(os.path.normpath(path))
    named = f"{named_in}: base: " if named_in else ""
    if path.resolve() in [p.resolve() for p in above]:
        raise RecipeError(f"{named}the bases form a circle: {' → '.join(map(str, (*above, path)))}")
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise RecipeError(f"{named}{path}: found more than {LONGEST} bytes, expected a recipe of a few thousand")
        text = content.decode()
    except OSError as error:
        raise RecipeError(f"{named}cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from error
    tree = parse(text, str(path))
    if tree.value is None:
        tree.value = {}
    if not isinstance(tree.value, dict):
        raise RecipeError(f"{path}: found {tree}, expected a mapping of recipe keys")
    base = tree.value.pop("base", None)
    if base is None or base.value is None:
        return tree
    if not isinstance(base.value, str):
        raise RecipeError(f"{base.where}: `base`: found {base}, expected the path of one recipe, relative to this one")
    return _merge(_read(path.parent / base.value, (*above, path), base.where), tree)


def _refuse_secrets(node: Node, key: str = "") -> None:
    """A recipe is saved with the run, logged and handed to colleagues. The message does not repeat the value."""
    if isinstance(node.value, dict | list):
        for name, child in node.value.items() if isinstance(node.value, dict) else enumerate(node.value):
            _refuse_secrets(child, join(key, name))
    elif isinstance(node.value, str) and holds_secret(key, node.value):
        where = COMMAND_LINE if node.where.startswith(COMMAND_LINE) else node.where
        raise RecipeError(
            f"{where}: `{key}` holds a secret, or what looks like one, and a recipe is saved with the run; put it "
            "into an environment variable (HF_TOKEN, WANDB_API_KEY, or the one that `token_variable` or `key` names)"
        )


def _merge(under: Node, over: Node) -> Node:
    if over.value is None:
        return dataclasses.replace(over, over=True)
    if not (isinstance(under.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(under.value)
    for key, child in over.value.items():
        merged[key] = _merge(merged[key], child) if key in merged else child
    return dataclasses.replace(over, value=merged)


def _override(tree: Node, override: str) -> None:
    """Put `a.b.0.c=value` into the tree, making what is not there."""
    key, equals, text = override.partition("=")
    where = f"{COMMAND_LINE}, {redact_command([override])[0]}"
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{COMMAND_LINE}: found {override!r}, expected key.sub=value")
    node: Node = tree
    slot: Any = None
    for depth, part in enumerate(parts):
        holder = node
        if holder.value is None:
            holder.value = [] if part.isdigit() else {}
        if isinstance(holder.value, list):
            slot = _index(part, holder.value, ".".join(parts[:depth]), where)
            holder.value[slot:] = holder.value[slot:] or [Node(None, where)]
        elif isinstance(holder.value, dict):
            slot = part
            holder.value.setdefault(slot, Node(None, where))
        else:
            raise RecipeError(f"{where}: `{'.'.join(parts[:depth])}` is {node}, which has no keys inside")
        node = holder.value[slot]
    holder.value[slot] = _merge(node, parse(text, where, lines=False))


def _index(part: str, items: list, key: str, where: str) -> int:
    if not part.isdigit() or int(part) > len(items):
        raise RecipeError(
            f"{where}: `{key}` is a list of {len(items)}; found {part!r}, expected an index from 0 to "
            f"{len(items)} (the last appends)"
        )
    return int(part)
