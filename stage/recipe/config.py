"""Recipes: YAML files → `vlm.common.section` models (`stage.recipe.schema` says how), and back.

    launch/grpo.py recipes/r1.yaml model.path=runs/sft/final rewards.0.weight=0.5

A file may name another in `base:` (relative to itself, recursively) and then states only its changes (`layers`). A
field that cannot be null returns to its default by `null`. Overrides from the command line lie on top; their values are
YAML (`yaml_nodes`), and a number in the key is a list index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from stage.recipe.keys import describe
from stage.recipe.layers import COMMAND_LINE, override, read
from stage.recipe.schema import explain, fit, join
from stage.recipe.yaml_nodes import Node, dump, nodes
from vlm.common.errors import RecipeError
from vlm.common.redaction import holds_secret
from vlm.common.section import Section, locate

T = TypeVar("T", bound=Section)
ABSENT = "<absent>"
"""In `difference`, for a key that only the other recipe has."""


def load(path: str | Path, cls: type[T], overrides: Iterable[str] = ()) -> T:
    """The recipe in `path` as a `cls`, with overrides such as `"model.lora.r=8"`, paths located and checked.

    Raises: RecipeError naming the file and line (or the command line), the key, what was found and expected.
    """
    return _built(read(Path(path)), cls, list(overrides), str(path), partial(locate, recipe=path))


def build(values: dict[str, Any], cls: type[T], overrides: Iterable[str] = (), where: str = COMMAND_LINE) -> T:
    """As `load`, from nested plain values instead of a file; paths are seen from the current directory.

    where: names the values in messages.
    """
    return _built(nodes(values, where), cls, list(overrides), where, partial(locate, recipe="recipe.yaml"))


def _built(tree: Node, cls: type[T], overrides: list[str], name: str, located: Callable[[str], str]) -> T:
    fit(tree, cls)
    for words in overrides:
        tree = override(tree, words)
        fit(tree, cls)
    _refuse_secrets(tree)
    name += " with the command line's overrides" if overrides else ""
    try:
        return cls.model_validate(tree.plain(), context={"locate": located})
    except ValidationError as error:
        raise RecipeError(explain(error, cls, tree, name, [row.key for row in describe(cls)])) from error


def _refuse_secrets(node: Node, key: str = "") -> None:
    """A recipe is saved with the run, logged and handed to colleagues. The message does not repeat the value."""
    for name, child in node.parts():
        _refuse_secrets(child, join(key, name))
    if isinstance(node.value, str) and holds_secret(key, node.value):
        where = COMMAND_LINE if node.where.startswith(COMMAND_LINE) else node.where
        raise RecipeError(
            f"{where}: `{key}` holds a secret, or what looks like one, and a recipe is saved with the run; put it "
            "into an environment variable (HF_TOKEN, WANDB_API_KEY, or the one that `token_variable` or `key` names)"
        )


def load_any(path: str | Path, classes: Iterable[type[Section]], overrides: Iterable[str] = ()) -> Any:
    """The same for whichever class has the default `stage` that the file (or its base) states.

    Raises: RecipeError, also where none has.
    """
    by_stage = {str(cls.model_fields["stage"].default): cls for cls in classes if "stage" in cls.model_fields}
    tree = read(Path(path)).value
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
    return _difference(to_dict(a), to_dict(b), "")


def _difference(a: Any, b: Any, key: str) -> dict[str, tuple[Any, Any]]:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return {key: (a, b)} if a != b else {}
    inner = [_difference(a.get(name, ABSENT), b.get(name, ABSENT), join(key, name)) for name in {**a, **b}]
    return {name: values for part in inner for name, values in part.items()}
