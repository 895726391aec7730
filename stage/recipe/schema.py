"""What a recipe may hold: plain nested dataclasses, each field documented by a string literal under itself.

    @dataclass
    class LoraSection:
        r: int = 64
        "Rank of the adapters."

Field types: int, float, bool, str, Any, Literal, `X | None` and other unions, list[X], dict[str, X],
dataclasses and lists or dicts of them. Field metadata that means something here:

    {"path": True}                       a path (or list of paths): `stage.recipe.config.load` runs `locate` on it
    {"keys_of": "trl:GRPOConfig"}        a dict whose keys must be fields of that dataclass, which is imported
                                         only when keys are given
    {"owned": {"output_dir": "output"}}  beside keys_of: keys that Nadir sets → the recipe key for each

A section may have a method `check() -> None` that raises RecipeError for values that cannot go together; its
message names keys relative to the section.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import textwrap
import types
from dataclasses import MISSING, dataclass
from typing import Any, Literal, NamedTuple, NoReturn, TypeGuard, Union, get_args, get_origin, get_type_hints

from stage.recipe.yaml_nodes import FLOAT, Node, to_float
from vlm.common.errors import RecipeError


class Entry(NamedTuple):
    """One row of a recipe reference."""

    key: str
    type: str
    default: Any
    "`dataclasses.MISSING` where the key is required."
    doc: str


field_types = functools.cache(get_type_hints)


def join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def is_section(tp: Any) -> TypeGuard[type]:
    return isinstance(tp, type) and dataclasses.is_dataclass(tp)


def default_of(field: dataclasses.Field) -> Any:
    """The field's default (a fresh one from its factory), or MISSING."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def type_name(tp: Any) -> str:
    """`list[str] | None` → "list of str or null": how messages and the reference name a type."""
    origin, args = get_origin(tp) or tp, get_args(tp)
    if origin in (Union, types.UnionType):
        members = [type_name(arg) for arg in args if arg is not types.NoneType]
        return " or ".join(members + ["null"] * (types.NoneType in args))
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is list:
        return f"list of {type_name(args[0])}" if args else "list"
    if origin is dict:
        return f"mapping of {type_name(args[1])}" if args and args[1] is not Any else "mapping"
    return "anything" if tp is Any else tp.__name__


def field_docs(cls: type) -> dict[str, str]:
    """Field name → the string literal under it in the source, inherited fields included."""
    docs: dict[str, str] = {}
    for owner in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        source = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        body = next(node for node in source.body if isinstance(node, ast.ClassDef)).body
        for statement, below in zip(body, body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[statement.target.id] = inspect.cleandoc(below.value.value)
    return docs


def describe(cls: type, key: str = "") -> list[Entry]:
    """Every key of a recipe with its type, default and doc, sections before their fields.

    Fields inside a list are shown as `rewards.<n>.weight`, inside a dict as `sets.<name>.path`.
    """
    docs, rows = field_docs(cls), []
    for field in dataclasses.fields(cls):
        tp, dotted = field_types(cls)[field.name], join(key, field.name)
        rows.append(Entry(dotted, type_name(tp), default_of(field), docs.get(field.name, "")))
        rows += _describe_inside(tp, dotted)
    return rows


def _describe_inside(tp: Any, key: str) -> list[Entry]:
    origin, args = get_origin(tp), get_args(tp)
    if is_section(tp):
        return describe(tp, key)
    if origin in (Union, types.UnionType):
        return [row for arg in args for row in _describe_inside(arg, key)]
    if origin is list:
        return _describe_inside(args[0], join(key, "<n>"))
    return _describe_inside(args[1], join(key, "<name>")) if origin is dict else []


def defaults(cls: type) -> dict[str, Any]:
    """The recipe that an empty file would give, as plain nested dicts; required keys are absent."""
    out = {}
    for field in dataclasses.fields(cls):
        value, tp = default_of(field), field_types(cls)[field.name]
        if is_section(tp):
            out[field.name] = defaults(tp) if value is MISSING else dataclasses.asdict(value)
        elif value is not MISSING:
            # asdict reaches dataclasses inside lists and dicts too
            out[field.name] = dataclasses.asdict(_Holder(value))["value"]
    return out


def inside(tp: Any, default: Any, slot: str | int, given: bool) -> tuple[Any, Any]:
    """Type and plain default (None: none) of what lies at `slot` in a value of type `tp` with that default.

    `given`: the value itself is in the recipe, where a list or dict replaces its default.
    """
    members = get_args(tp) if get_origin(tp) in (Union, types.UnionType) else [tp]
    tp = next((m for m in members if is_section(m) or get_origin(m) in (list, dict)), None)
    if is_section(tp):
        held = default if isinstance(default, dict) else defaults(tp)
        inner, value = field_types(tp).get(str(slot), Any), held.get(str(slot))
    else:
        inner, value = get_args(tp)[-1] if tp else Any, None
        if not given and isinstance(default, dict):
            value = default.get(slot)
        elif not given and isinstance(default, list) and isinstance(slot, int) and slot < len(default):
            value = default[slot]
    return inner, defaults(inner) if value is None and is_section(inner) else value


@dataclass
class _Holder:
    value: Any


@dataclass
class Builder:
    """Turns a tree of `Node` into an instance of `root`, refusing whatever does not fit its types."""

    root: type
    where: str
    "What a missing key is missing from: the recipe file as the user named it."

    def build(self, node: Node) -> Any:
        return self.section(self.root, node, "", MISSING)

    def section(self, cls: type, node: Node, key: str, default: Any) -> Any:
        """`default`: the parent's default for this section, whose values stand for the keys not given."""
        if not isinstance(node.value, dict):
            self.wrong(node, key, f"a section with the keys {', '.join(f.name for f in dataclasses.fields(cls))}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, child in node.value.items():
            if name not in fields:
                self.unknown(child, join(key, name), name, key, list(fields))
        values = {}
        for name, field in fields.items():
            tp, dotted = field_types(cls)[name], join(key, name)
            fallback = getattr(default, name) if isinstance(default, cls) else default_of(field)
            child = node.value.get(name)
            if child is None or (child.takes_back and not accepts_null(tp)):
                values[name] = self.absent(tp, dotted, fallback)
                continue
            values[name] = self.convert(tp, child, dotted, fallback)
            if "keys_of" in field.metadata:
                self.foreign_keys(field, child, dotted)
        return cls(**values)

    def absent(self, tp: Any, key: str, fallback: Any) -> Any:
        if fallback is not MISSING:
            return fallback
        if is_section(tp):  # names the first required key inside
            return self.section(tp, Node({}, self.where), key, MISSING)
        raise RecipeError(f"{self.where}: missing required key `{key}`; expected {type_name(tp)}")

    def convert(self, tp: Any, node: Node, key: str, default: Any = MISSING) -> Any:
        origin, args, value = get_origin(tp) or tp, get_args(tp), node.value
        if tp is Any:
            return node.plain()
        if origin in (Union, types.UnionType):
            return self.union(args, node, key, default)
        if is_section(tp):
            return self.section(tp, node, key, default)
        if origin is Literal:
            return self.literal(args, node, key)
        if origin is list:
            if not isinstance(value, list):
                self.wrong(node, key, f"a {type_name(tp)}, e.g. [a, b]")
            return [self.convert(args[0] if args else Any, item, join(key, i)) for i, item in enumerate(value)]
        if origin is dict:
            if not isinstance(value, dict):
                self.wrong(node, key, f"a {type_name(tp)}, e.g. {{a: b}}")
            inner = args[1] if args else Any
            kept = {k: v for k, v in value.items() if not v.takes_back or accepts_null(inner)}
            return {k: self.convert(inner, v, join(key, k)) for k, v in kept.items()}
        return self.scalar(tp, node, key)

    def scalar(self, tp: type, node: Node, key: str) -> Any:
        value = node.value
        if type(value) is tp:
            return value
        if tp is float and type(value) is int:
            return float(value)
        if tp is float and isinstance(value, str) and FLOAT.fullmatch(value):
            return to_float(value)
        if tp is str and node.text is not None and not isinstance(value, bool):
            return node.text
        if tp not in (int, float, bool, str):
            raise TypeError(f"{key}: recipes have no fields of type {tp!r}")
        hints = {bool: "; write true or false", str: "; put it in quotes if a text is meant"}
        self.wrong(node, key, tp.__name__, hints.get(tp, "") if value is not None else "")

    def literal(self, allowed: tuple, node: Node, key: str) -> Any:
        for choice in allowed:
            if type(choice) is type(node.value) and choice == node.value:
                return choice
            if isinstance(choice, str) and node.text == choice:
                return choice
        near = difflib.get_close_matches(str(node.value), [str(choice) for choice in allowed], n=1)
        self.wrong(node, key, type_name(Literal[allowed]), f"; did you mean {near[0]}?" if near else "")

    def union(self, members: tuple, node: Node, key: str, default: Any) -> Any:
        if node.value is None and types.NoneType in members:
            return None
        rest = [member for member in members if member is not types.NoneType]
        if len(rest) == 1:
            return self.convert(rest[0], node, key, default)
        for member in sorted(rest, key=lambda member: type(node.value) is not member):  # the exact type first
            try:
                return self.convert(member, node, key, default)
            except RecipeError:
                continue
        self.wrong(node, key, " or ".join(map(type_name, rest)))

    def foreign_keys(self, field: dataclasses.Field, node: Node, key: str) -> None:
        if not node.value:
            return
        module, _, name = field.metadata["keys_of"].partition(":")
        owned = field.metadata.get("owned", {})
        known = [f.name for f in dataclasses.fields(getattr(importlib.import_module(module), name)) if f.init]
        for given, child in node.value.items():
            if given in owned:
                raise RecipeError(f"{child.where}: `{key}.{given}` is set by Nadir; write `{owned[given]}` instead")
            if given not in known:
                raise RecipeError(
                    f"{child.where}: unknown key `{key}.{given}`; `{key}` holds fields of {module}.{name}"
                    + did_you_mean(given, [k for k in known if k not in owned], key)
                )

    def unknown(self, node: Node, dotted: str, name: str, key: str, known: list[str]) -> NoReturn:
        elsewhere = [row.key for row in describe(self.root) if row.key.rpartition(".")[2] == name]
        if elsewhere:  # the right name in the wrong section
            hint = f"; did you mean `{elsewhere[0]}`?"
        else:
            hint = did_you_mean(name, known, key) or f"; known keys here: {', '.join(known)}"
        raise RecipeError(f"{node.where}: unknown key `{dotted}`{hint}")

    def wrong(self, node: Node, key: str, expected: str, hint: str = "") -> NoReturn:
        raise RecipeError(f"{node.where}: `{key or 'the recipe'}`: found {node}, expected {expected}{hint}")


def accepts_null(tp: Any) -> bool:
    return tp is Any or types.NoneType in get_args(tp)


def did_you_mean(name: str, known: list[str], key: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{join(key, near[0])}`?" if near else ""
