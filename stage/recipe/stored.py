"""Write `arguments.json` from the installed argument classes: `python -m stage.recipe.stored`.

Run it when TRL's or transformers' pinned version changes, and read the difference.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stage.recipe.arguments import STORED

CLASSES = ("SFTConfig", "RewardConfig", "GRPOConfig")
NAMES = {int: "integer", float: "number", bool: "boolean", str: "string", types.NoneType: "null"}


def installed() -> dict[str, dict[str, dict[str, Any]]]:
    """What `arguments.json` is to hold: class name (or `shared`) → key → JSON schema."""
    import trl

    found = {name: _keys(getattr(trl, name)) for name in CLASSES}
    own, *others = found.values()
    shared = {key: own[key] for key in own if all(other.get(key) == own[key] for other in others)}
    rest = {name: {key: schema for key, schema in keys.items() if key not in shared} for name, keys in found.items()}
    return {"shared": shared, **rest}


def _keys(cls: type) -> dict[str, dict[str, Any]]:
    hints = get_type_hints(cls)
    return {field.name: _schema(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _schema(field: dataclasses.Field, hint: Any) -> dict[str, Any]:
    members = list(_members(hint))
    choices = [*(field.metadata.get("choices") or ())]
    for member in members:
        if isinstance(member, type) and issubclass(member, enum.Enum):
            choices += [choice.value for choice in member]
        elif get_origin(member) is Literal:
            choices += get_args(member)
    kinds = {_kind(member) for member in members} - {""}
    if any(isinstance(choice, str) for choice in choices):
        kinds -= {"string"}  # a text is one of these: the classes turn it into the enumeration, or fail
    default = None if field.default is dataclasses.MISSING else field.default
    default = default.value if isinstance(default, enum.Enum) else default
    schema = {"type": sorted(kinds), "enum": choices, "default": default}
    help_text = " ".join(str(field.metadata.get("help", "")).split()).replace("%%", "%")  # argparse's way to write it
    return {key: value for key, value in schema.items() if value != [] or key == "default"} | {"description": help_text}


def _members(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            yield from _members(member)
    else:
        yield hint


def _kind(member: Any) -> str:
    """The name in JSON schema; none for an enumeration, and for objects that a recipe cannot state."""
    origin = get_origin(member) or member
    if origin in (list, dict):
        return "array" if origin is list else "object"
    return NAMES.get(member, "")


def main() -> None:
    STORED.write_text(json.dumps(installed(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
