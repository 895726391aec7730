"""What a recipe may hold: from YAML's nodes to values of `vlm.common.section` models, and what is said of a wrong one.

Pydantic checks types, keys and nesting. Ours is what YAML cannot say (`fit`) and the message (`explain`).
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, PydanticUndefined, core_schema, to_jsonable_python

from stage.recipe.yaml_nodes import FLOAT, Node, nodes, to_float
from vlm.common.section import Section

WORDS = {"on": True, "yes": True, "off": False, "no": False}
"""YAML 1.1's booleans: text here, unless a boolean is asked for."""
LAUNCHERS = {
    **{stage: stage for stage in ("sft", "grpo", "score", "serve", "eval", "bon", "curate", "prefer")},
    "ablation": "ablate",
}
"""Stage of a recipe → its launcher."""
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


class Keys(Section):
    """A mapping whose keys a library defines: `Annotated[dict[str, Any], A_SUBCLASS]` is a dict of the keys given."""

    called: ClassVar[str] = ""
    "The library's class, for messages."
    owned: ClassVar[dict[str, str]] = {}
    "Keys that Nadir sets → the recipe key for each."

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if source is cls:
            return handler(source)
        return core_schema.no_info_after_validator_function(
            lambda found: found.model_dump(exclude_unset=True),
            handler.generate_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )


class Entry(NamedTuple):
    """One row of a recipe reference."""

    key: str
    type: str
    default: Any
    "`PydanticUndefined` where the key is required."
    doc: str


def join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


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
        limits = [f"{sign} {getattr(m, name):g}" for m in args[1:] for name, sign in BOUNDS.items() if hasattr(m, name)]
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


def describe(cls: type[Section], key: str = "") -> Iterator[Entry]:
    """Every key of a recipe with its type, default and doc, sections before their fields.

    Fields inside a list are shown as `rewards.<n>.weight`, inside a dict as `sets.<name>.path`.
    """
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        yield Entry(join(key, name), type_name(field), default, field.description or "")
        yield from _inside(field, join(key, name))


def _inside(tp: Any, key: str) -> Iterator[Entry]:
    for member in members(tp):
        if is_section(member):
            yield from describe(member, key)
        elif get_origin(member) in (list, dict):
            yield from _inside(get_args(member)[-1], join(key, "<n>" if get_origin(member) is list else "<name>"))


def fit(node: Node, tp: Any, default: Any = None) -> None:
    """Give a tree the types that YAML cannot know, and the parts that it leaves out, so that overrides reach into them.

    A text keeps an unquoted number as it was typed, a float takes a quoted one, a boolean takes unquoted on, off, yes
    and no. default: the parent's for this section, whose values stand for the keys not given.
    """
    among = members(tp)
    section = next((member for member in among if is_section(member)), None)
    if not isinstance(node.value, dict | list):
        node.value = _typed(node, among)
    elif isinstance(node.value, list) or section is None:
        for slot, child in _slots(node.value):
            _fit_at(node, slot, child, inside(tp, slot))
    else:
        stated = default.model_fields_set if isinstance(default, section) else ()
        for name, field in section.model_fields.items():
            fallback = getattr(default, name) if name in stated else field.get_default(call_default_factory=True)
            if name in node.value:
                _fit_at(node, name, node.value[name], field, fallback)
            absent = name not in node.value
            if absent and (name in stated or isinstance(fallback, Section | list | dict)):
                node.value[name] = nodes(to_jsonable_python(fallback), node.where)
            elif absent and fallback is PydanticUndefined and is_section(field.annotation):
                node.value[name] = Node({}, node.where)  # so that the key inside it is missed


def _slots(value: Any) -> list[tuple[Any, Node]]:
    """Keys or indices of a mapping or list, and what is there."""
    return list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())


def _fit_at(parent: Node, slot: Any, child: Node, tp: Any, default: Any = None) -> None:
    """`fit` of one part; a null that takes back goes, unless null is a value there."""
    if child.takes_back and not any(member in (Any, types.NoneType) for member in members(tp)):
        del parent.value[slot]
    else:
        fit(child, tp, default)


def _typed(node: Node, among: list[Any]) -> Any:
    value, text = node.value, node.text
    choices = [choice for member in among if get_origin(member) is Literal for choice in get_args(member)]
    if type(value) in among or Any in among or any(type(c) is type(value) and c == value for c in choices):
        return value
    if bool in among and text in WORDS and isinstance(value, str):
        return WORDS[text]
    if float in among and isinstance(value, str) and FLOAT.fullmatch(value):
        return to_float(value)
    return text if text is not None and (str in among or text in choices) and not isinstance(value, bool) else value


def explain(error: ValidationError, root: type[Section], tree: Node, name: str) -> str:
    """A line for each fault: file and line (or command line), key, found, expected. name: for what is in no line."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    told = dict(_line(fault, root, tree, name) for fault in reversed(faults))  # the first one of a key
    if "stage" in told:  # another launcher's recipe: its keys are right
        launcher = LAUNCHERS.get(str(tree.plain()["stage"]))
        return told["stage"] + (f"; start it with launch/{launcher}.py" if launcher else "")
    outer = {key for key in told if any(other.startswith(f"{key}.") for other in told)}  # other members of a union
    return "\n".join(told[key] for key in reversed(told) if key not in outer)


def _line(fault: ErrorDetails, root: type[Section], tree: Node, name: str) -> tuple[str, str]:
    node, key, kind = tree, "", fault["type"]
    holder: Any = root
    tp: Any = Any
    for slot in fault["loc"]:
        within = root if node is tree else tp
        if slot in (held := dict(_slots(node.value))):
            holder, node, tp, key = within, held[slot], inside(within, slot), join(key, slot)
        elif kind == "missing":
            key, tp = join(key, slot), inside(within, slot)
            return key, f"{name}: missing required key `{key}`; expected {type_name(tp)}"
    if kind == "check":
        return key, f"{name}: " + (f"in `{key}`: " if key else "") + fault["ctx"]["reason"]
    if kind == "extra_forbidden":
        return key, f"{node.where}: " + _unknown(key, next(m for m in members(holder) if is_section(m)), root)
    return key, f"{node.where}: `{key or 'the recipe'}`: found {node}, expected {_expected(tp, node.value)}"


def _expected(tp: Any, value: Any) -> str:
    among = [member for member in members(tp) if member is not types.NoneType]
    choices = [str(choice) for member in among if get_origin(member) is Literal for choice in get_args(member)]
    if len(among) == 1 and is_section(among[0]):
        if issubclass(among[0], Keys):
            return f"a mapping of fields of {among[0].called}"
        return f"a section with the keys {', '.join(among[0].model_fields)}"
    if len(among) == 1 and get_origin(among[0]) in (list, dict):
        return f"a {type_name(among[0])}, e.g. {'[a, b]' if get_origin(among[0]) is list else '{a: b}'}"
    hint = "; write true or false" if bool in among and value is not None else ""
    if str in among and isinstance(value, bool):
        hint = "; put it in quotes if a text is meant"
    near = difflib.get_close_matches(str(value), choices, n=1)
    return type_name(tp) + (f"; did you mean {near[0]}?" if near else hint)


def _unknown(key: str, holder: type[Section], root: type[Section]) -> str:
    above, _, name = key.rpartition(".")
    near = did_you_mean(name, list(holder.model_fields), above)
    if issubclass(holder, Keys):
        if name in holder.owned:
            owner = holder.owned[name]
            return f"`{key}` is set by Nadir; write {owner if owner.startswith('nothing') else f'`{owner}` instead'}"
        return f"unknown key `{key}`; `{above}` holds fields of {holder.called}{near}"
    elsewhere = next((row.key for row in describe(root) if row.key.rpartition(".")[2] == name), None)
    if elsewhere:  # the right name in the wrong section
        near = f"; did you mean `{elsewhere}`?"
    return f"unknown key `{key}`{near or '; known keys here: ' + ', '.join(holder.model_fields)}"


def did_you_mean(name: str, known: list[str], key: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{join(key, near[0])}`?" if near else ""
