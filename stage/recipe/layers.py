"""The layers of a recipe: a file over the file that its `base:` names, and so on, and the command line over both.

Mappings merge key by key, everything else replaces, and `null` takes back what the layer below said.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from stage.recipe.yaml_nodes import Node, parse
from vlm.common.errors import RecipeError
from vlm.common.redaction import redact_command

COMMAND_LINE = "command line"
LONGEST = 2**20
"""Bytes of a recipe; ours have a few thousand."""


def read(path: Path, above: tuple[Path, ...] = (), named_in: str = "") -> Node:
    """The tree of a file over its bases. above: the files whose `base` led here, named_in: the last one's line."""
    path = Path(os.path.normpath(path))
    named = f"{named_in}: base: " if named_in else ""
    if path.resolve() in [p.resolve() for p in above]:
        raise RecipeError(f"{named}the bases form a circle: {' → '.join(map(str, (*above, path)))}")
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise RecipeError(f"{named}{path}: found more than {LONGEST} bytes, expected a recipe of a few thousand")
        tree = parse(content.decode(), str(path))
    except OSError as error:
        raise RecipeError(f"{named}cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if not isinstance(tree.value, dict | None):
        raise RecipeError(f"{path}: found {tree}, expected a mapping of recipe keys")
    tree.value = tree.value or {}
    base = tree.value.pop("base", Node(None, ""))
    if not isinstance(base.value, str | None):
        raise RecipeError(f"{base.where}: `base`: found {base}, expected the path of one recipe, relative to this one")
    return tree if base.value is None else _merge(read(path.parent / base.value, (*above, path), base.where), tree)


def _merge(under: Node, over: Node) -> Node:
    if over.value is None:
        return replace(over, over=True)
    if not (isinstance(under.value, dict) and isinstance(over.value, dict)):
        return over
    both = {key: _merge(under.value[key], child) for key, child in over.value.items() if key in under.value}
    return replace(over, value=under.value | over.value | both)


def override(tree: Node, words: str) -> Node:
    """The tree with `a.b.0.c=value` in it; what is not there on the way is made."""
    key, equals, text = words.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"{COMMAND_LINE}: found {words!r}, expected key.sub=value")
    where = f"{COMMAND_LINE}, {redact_command([words])[0]}"
    return _put(tree, parts, 0, parse(text, where, lines=False))


def _put(node: Node, path: list[str], depth: int, value: Node) -> Node:
    if depth == len(path):
        return _merge(node, value)
    key, slot, held = ".".join(path[:depth]), path[depth], dict(node.parts())
    empty: Any = [] if node.value is None and slot.isdigit() else {} if node.value is None else node.value
    if isinstance(empty, list):
        if not slot.isdigit() or int(slot) > len(held):
            raise RecipeError(
                f"{value.where}: `{key}` is a list of {len(held)}; found {slot!r}, expected an index from 0 to "
                f"{len(held)} (the last appends)"
            )
        held |= {int(slot): _put(held.get(int(slot), Node(None, value.where)), path, depth + 1, value)}
        return replace(node, value=list(held.values()))
    if not isinstance(empty, dict):
        raise RecipeError(f"{value.where}: `{key}` is {node}, which has no keys inside")
    return replace(node, value=held | {slot: _put(held.get(slot, Node(None, value.where)), path, depth + 1, value)})
