"""`--keys`: what a recipe may hold. One page of what a stage needs first, in the order of use; the rest on demand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args, get_origin

from pydantic_core import PydanticUndefined

from stage.recipe.annotations import is_section, members, type_name
from stage.recipe.schema import join
from vlm.common.section import Section

WIDTH = 112
BASE = "Another recipe, relative to this one, which then states only its changes; null takes back what the base says."


class Entry(NamedTuple):
    """One row of a recipe reference."""

    key: str
    type: str
    default: Any
    "`PydanticUndefined` where the key is required."
    doc: str


def describe(cls: type[Section], key: str = "") -> Iterator[Entry]:
    """Every key of a recipe with its type, default and doc, sections before their fields.

    Fields inside a list are shown as `rewards.<n>.weight`, inside a dict as `sets.<name>.path`.
    """
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if is_section(field.annotation) and isinstance(default, dict):
            default = field.annotation(**default)
        yield Entry(join(key, name), type_name(field), default, field.description or "")
        yield from _inside(field, join(key, name))


def _inside(tp: Any, key: str) -> Iterator[Entry]:
    for member in members(tp):
        if is_section(member):
            yield from describe(member, key)
        elif get_origin(member) in (list, dict):
            yield from _inside(get_args(member)[-1], join(key, "<n>" if get_origin(member) is list else "<name>"))


def page(cls: type[Section], which: str = "") -> str:
    """Keys with type, default and meaning, as text for the terminal.

    which: `all`, or a part of the keys meant (`lora`); without it those of `cls.first`, a line for the meaning of each.
    """
    rows = list(describe(cls))
    if which == "all" or not (which or cls.first):
        return "\n".join(_lines(rows))
    if which:
        return "\n".join(_lines(row for row in rows if which in row.key)) or f"no key has {which!r} in its name"
    known = {row.key: row for row in rows}
    chosen = [known[key]._replace(doc=_shortened(known[key].doc)) for key in cls.first.split()]
    left = len(rows) - len(chosen)
    chosen.insert(0, Entry("base", "str or null", None, BASE))
    return "\n".join(
        [*_lines(chosen), f"and {left} more: `--keys all`, or `--keys WORD` for those with WORD in the name"]
    )


def _lines(rows: Iterable[Entry]) -> Iterator[str]:
    for row in rows:
        default = "required" if row.default is PydanticUndefined else f"default {_short(row.default)}"
        kind = textwrap.shorten(row.type, WIDTH, placeholder=" …")
        yield f"{row.key}: {kind}; {default}"
        for paragraph in row.doc.splitlines():
            yield from textwrap.wrap(paragraph, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _shortened(doc: str) -> str:
    return textwrap.shorten(doc, WIDTH - 4, placeholder=" …")


def _short(default: Any) -> str:
    """A default that is a section, or a list of them, is told by its own keys."""
    if isinstance(default, Section) or (isinstance(default, list) and any(isinstance(d, Section) for d in default)):
        return "as below"
    return "null" if default is None else repr(default)
