"""What a recipe may hold: from YAML's nodes to values of `vlm.common.section` models, and what is said of a wrong one.

Pydantic checks types, keys and nesting. Ours is what YAML cannot say (`fit`) and the message (`explain`).
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined, to_jsonable_python

from stage.recipe.annotations import inside, is_section, members, type_name
from stage.recipe.yaml_nodes import FLOAT, Node, nodes, to_float
from vlm.common.section import Section

LAUNCHERS = {name: name for name in ("sft", "grpo", "score", "serve", "eval", "bon", "curate", "prefer")}
LAUNCHERS["ablation"] = "ablate"
WORDS = {"on": True, "yes": True, "off": False, "no": False}
"""YAML 1.1's booleans: text here, unless a boolean is asked for."""


def join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def fit(node: Node, tp: Any, default: Any = None) -> None:
    """Give a tree the types that YAML cannot know, and the parts that it leaves out, so that overrides reach into them.

    A text keeps an unquoted number as it was typed, a float takes a quoted one, a boolean takes unquoted on, off, yes
    and no. default: the parent's for this section, whose values stand for the keys not given.
    """
    among = members(tp)
    held: Any = node.value
    if not isinstance(held, dict | list):
        node.value = _typed(node, among)
        return
    section = next((member for member in among if is_section(member)), Section)
    fields = section.model_fields if isinstance(held, dict) else {}
    stated = default.model_fields_set if type(default) is section else set()
    fallback = {name: getattr(default, name) if name in stated else field.get_default(call_default_factory=True)
                for name, field in fields.items()}  # fmt: skip
    for slot, child in node.parts():
        inner = inside(tp, slot)
        if isinstance(held, dict) and child.takes_back and not {Any, types.NoneType} & set(members(inner)):
            del held[slot]
        else:
            fit(child, inner, fallback.get(slot))
    for name, value in fallback.items():
        if name not in held and (name in stated or isinstance(value, Section | list | dict)):
            held[name] = nodes(to_jsonable_python(value), node.where)
        elif name not in held and value is PydanticUndefined and is_section(fields[name].annotation):
            held[name] = Node({}, node.where)  # so that the key inside it is missed


def _choices(among: list[Any]) -> list[Any]:
    return [choice for member in among if get_origin(member) is Literal for choice in get_args(member)]


def _typed(node: Node, among: list[Any]) -> Any:
    value, text = node.value, node.text
    choices = _choices(among)
    if type(value) in among or Any in among or any(type(c) is type(value) and c == value for c in choices):
        return value
    if bool in among and text in WORDS and isinstance(value, str):
        return WORDS[text]
    if float in among and isinstance(value, str) and FLOAT.fullmatch(value):
        return to_float(value)
    return text if text is not None and (str in among or text in choices) and not isinstance(value, bool) else value


def explain(error: ValidationError, root: type[Section], tree: Node, name: str, keys: Sequence[str]) -> str:
    """A line for each fault: file and line (or command line), key, found, expected.

    name: stands for the line of what is in none. keys: all that the recipe may hold.
    """
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    told = dict(_line(fault, root, tree, name, keys) for fault in reversed(faults))  # the first one of a key
    if "stage" in told:  # another launcher's recipe: its keys are right
        launcher = LAUNCHERS.get(str(tree.plain()["stage"]))
        return told["stage"] + (f"; start it with launch/{launcher}.py" if launcher else "")
    outer = {key for key in told if any(other.startswith(f"{key}.") for other in told)}  # other members of a union
    return "\n".join(told[key] for key in reversed(told) if key not in outer)


def _line(fault: ErrorDetails, root: Any, tree: Node, name: str, keys: Sequence[str]) -> tuple[str, str]:
    node, tp, holder, key, kind = tree, root, root, "", fault["type"]
    for slot in fault["loc"]:
        if slot in (parts := dict(node.parts())):
            holder, node, tp, key = tp, parts[slot], inside(tp, slot), join(key, slot)
        elif kind == "missing":
            key, tp = join(key, slot), inside(tp, slot)
            return key, f"{name}: missing required key `{key}`; expected {type_name(tp)}"
    if kind == "check":
        reason = fault["ctx"]["reason"]
        where = _place(node, reason.split(" ")[0].rstrip(":").split(".")) or name
        return key, f"{where}: " + (f"in `{key}`: " if key else "") + reason
    if kind == "extra_forbidden":
        section = next(member for member in members(holder) if is_section(member))
        return key, f"{node.where}: " + (section.refusal(key) or f"unknown key `{key}`{_hint(key, section, keys)}")
    return key, f"{node.where}: `{key or 'the recipe'}`: found {node}, expected {_expected(tp, node.value)}"


def _place(node: Node, path: list[str]) -> str | None:
    """Where the key that a reason begins with was written, if it is one inside another."""
    for slot in path if len(path) > 1 else [""]:
        found = {str(known): child for known, child in node.parts()}.get(slot)
        if found is None:
            return None
        node = found
    return node.where


def _expected(tp: Any, value: Any) -> str:
    among = [member for member in members(tp) if member is not types.NoneType]
    null = " or null" if types.NoneType in members(tp) else ""
    if len(among) == 1 and is_section(among[0]):
        return among[0].summary() + null
    if len(among) == 1 and get_origin(among[0]) in (list, dict):
        inner = get_args(among[0])[-1]
        if get_origin(among[0]) is list and is_section(inner):
            return f"a list of sections{null}, e.g. [{{{next(iter(inner.model_fields))}: …}}]"
        return f"a {type_name(among[0])}{null}, e.g. {'[a, b]' if get_origin(among[0]) is list else '{a: b}'}"
    hint = "; write true or false" if bool in among and value is not None else ""
    if str in among and isinstance(value, bool):
        hint = "; put it in quotes if a text is meant"
    choices = [str(choice) for choice in _choices(among)]
    begun = [choice for choice in choices if choice.startswith(f"{value}_")]
    near = begun or difflib.get_close_matches(str(value), choices, n=1)
    return type_name(tp) + (f"; did you mean {near[0]}?" if near else hint)


def _hint(key: str, section: type[Section], keys: Sequence[str]) -> str:
    above, _, name = key.rpartition(".")
    here = list(section.model_fields)
    elsewhere = {known.rpartition(".")[2]: known for known in reversed(keys)}
    if name in elsewhere:  # the right name in the wrong section
        return f"; did you mean `{elsewhere[name]}`?"
    if near := did_you_mean(name, here, above):
        return near
    other = difflib.get_close_matches(name, elsewhere, n=1)
    return f"; did you mean `{elsewhere[other[0]]}`?" if other else f"; known keys here: {', '.join(here)}"


def did_you_mean(name: str, known: list[str], key: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{join(key, near[0])}`?" if near else ""
