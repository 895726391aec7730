"""What the annotation of a field says: which values it may have, what lies inside them, and how people call it."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from vlm.common.section import Section

BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "of a length ≥"}


def is_section(tp: Any) -> TypeGuard[type[Section]]:
    return isinstance(tp, type) and issubclass(tp, Section)


def members(tp: Any) -> list[Any]:
    """What a value of this annotation may be: the union's members; the section of a mapping that a library defines."""
    if isinstance(tp, FieldInfo):
        tp = tp.rebuild_annotation()
    if get_origin(tp) is Annotated:
        keys = [extra for extra in tp.__metadata__ if is_section(extra)]
        return keys or members(tp.__origin__)
    return [m for arg in get_args(tp) for m in members(arg)] if get_origin(tp) in (Union, types.UnionType) else [tp]


def inside(tp: Any, slot: str | int) -> Any:
    """The annotation of what lies at a key or index of a value."""
    for member in members(tp):
        if is_section(member) and slot in member.model_fields:
            return member.model_fields[str(slot)]
        if get_origin(member) in (list, dict) and (get_origin(member) is list) == isinstance(slot, int):
            return get_args(member)[-1]
    return Any


def type_name(tp: Any) -> str:
    """`list[str] | None` → "list of str or null": how messages and the reference name a type."""
    if isinstance(tp, FieldInfo):
        tp = tp.rebuild_annotation()
    origin, args = get_origin(tp) or tp, get_args(tp)
    if origin is Annotated:
        limits = [f"{sign} {getattr(m, name)}" for m in args[1:] for name, sign in BOUNDS.items() if hasattr(m, name)]
        return " ".join([type_name(args[0]), " and ".join(limits)]).strip()
    if origin in (Union, types.UnionType):
        named = [type_name(arg) for arg in args if arg is not types.NoneType]
        return " or ".join(named + ["null"] * (types.NoneType in args))
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    if origin is list:
        return f"list of {type_name(args[0])}" if args else "list"
    if origin is dict:
        return f"mapping of {type_name(args[1])}" if args and args[1] is not Any else "mapping"
    return "anything" if tp is Any else "null" if tp is types.NoneType else tp.__name__
