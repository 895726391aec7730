"""YAML text ↔ nodes that know where they stand, in the YAML that recipes are written in.

That is YAML 1.2 as far as it matters: `1e-6` is a number; `on`, `off`, `yes` and `no` are text; no octal
`017`, base-60 `1:30` or dates; a key given twice is an error; no tags but those of
text, numbers, bool and null. Sizes are limited: a recipe may come from anywhere, and is read before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from vlm.common.errors import RecipeError

TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
"""YAML 1.2's float, which unlike YAML 1.1's includes `1e-6`. Also matches integers."""
MOST = 10_000
"""Values of one text, aliases spelt out: nine levels of nine aliases each, a few hundred bytes, would be 10⁹."""
DEEPEST = 64
"""Levels of lists and mappings inside each other."""
LONGEST_NUMBER = 100
"""Characters; Python refuses to convert 4300 digits, and takes quadratic time for fewer."""


@dataclass(slots=True)
class Node:
    """One value of a recipe before its type is known: a scalar, dict[str, Node] or list[Node]; and where it stands."""

    value: Any
    where: str
    "For messages: `recipes/r1.yaml, line 3` or `command line`."
    text: str | None = None
    "The characters of an unquoted scalar, so that `revision: 1234e56` stays what was typed."
    over: bool = False
    "Stands over an earlier layer's value: null takes that back, and a field that cannot be null has its default."

    @property
    def takes_back(self) -> bool:
        return self.over and self.value is None

    def parts(self) -> list[tuple[Any, Node]]:
        """Key or index, and what is there."""
        if isinstance(self.value, dict):
            return list(self.value.items())
        return list(enumerate(self.value)) if isinstance(self.value, list) else []

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.parts()}
        return [child.plain() for _, child in self.parts()] if isinstance(self.value, list) else self.value

    def __str__(self) -> str:
        kind = type(self.value).__name__
        shown = str(self.value).lower() if kind == "bool" else repr(self.value)
        return {"NoneType": "null", "dict": "a mapping", "list": "a list"}.get(kind, f"{shown} ({kind})")


def nodes(value: Any, where: str) -> Node:
    """Plain dicts, lists and scalars as a tree."""
    if isinstance(value, dict):
        return Node({key: nodes(child, where) for key, child in value.items()}, where)
    return Node([nodes(child, where) for child in value] if isinstance(value, list) else value, where)


def to_float(text: str) -> float:
    return float(re.sub(r"\.(?=[a-z])", "", text.lower()))  # `.inf` and `.nan` are `inf` and `nan` to Python


def dump(value: Any) -> str:
    """Plain dicts, lists and scalars as YAML that `parse` reads back equal, and YAML 1.1 readers too."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def dump_line(value: Any) -> str:
    """The same in one line, as an override on the command line has it: key=VALUE."""
    # in brackets, where the emitter may use no block and no plain text that runs over a line
    text = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.strip()[1:-1]


class _Loader(yaml.SafeLoader):
    """Takes unquoted scalars by YAML 1.2's core schema instead of PyYAML's 1.1."""

    yaml_implicit_resolvers: dict = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML version would take for something else, and writes long texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_PATTERNS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(rf"(?:{FLOAT.pattern})\Z"),
}
for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(TAG + _kind, _pattern, None)
    _Dumper.add_implicit_resolver(TAG + _kind, _pattern, None)


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Long texts as blocks. YAML would read the rarer line ends back as newlines unless they are escaped."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else "|" if "\n" in text.strip() else None
    return dumper.represent_scalar(TAG + "str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def parse(text: str, place: str, lines: bool = True) -> Node:
    """YAML text as a tree of nodes that know where they stand. Raises: RecipeError with the line."""
    try:
        root = yaml.compose(text, Loader=_Loader)  # aliases stay references here
    except yaml.YAMLError as error:
        known = vars(error)  # of most errors: where, and what in words
        mark = known.get("problem_mark") or known.get("context_mark")
        at = f", line {mark.line + 1}, column {mark.column + 1}" if lines and mark else ""
        problem = ", ".join(filter(None, (known.get("context"), known.get("problem")))) or error
        hint = "" if lines else "; the value is read as YAML, so put text with special characters in quotes"
        raise RecipeError(f"{place}{at}: not valid YAML: {problem}{hint}") from error
    except RecursionError as error:
        raise RecipeError(f"{place}: found values nested too deeply, expected at most {DEEPEST} levels") from error
    return Node(None, place) if root is None else _node(root, place, lines, (), iter(range(MOST)))


def _node(node: yaml.Node, place: str, lines: bool, above: tuple[int, ...], left: Iterator[int]) -> Node:
    """left: one item for each value that may still be made, aliases spelt out."""
    where = f"{place}, line {node.start_mark.line + 1}" if lines else place
    if id(node) in above:
        raise RecipeError(f"{where}: an alias is inside its own anchor")
    if len(above) >= DEEPEST:
        raise RecipeError(f"{where}: found values nested too deeply, expected at most {DEEPEST} levels")
    if next(left, None) is None:
        raise RecipeError(f"{where}: found more than {MOST} values with aliases spelt out; recipes have a few dozen")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
        return Node([_node(item, place, lines, above, left) for item in node.value], where)
    if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
        pairs: dict[str, Node] = {}
        for key, value in node.value:
            at = f"{place}, line {key.start_mark.line + 1}" if lines else place
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{at}: found a list or mapping as a key, expected text")
            if key.value in pairs:
                raise RecipeError(f"{at}: the key `{key.value}` is given twice; first in {pairs[key.value].where}")
            pairs[key.value] = _node(value, place, lines, above, left)
            pairs[key.value].where = at  # the line of the key, where a block value starts a line later
        return Node(pairs, where)
    return _scalar(node, where)


def _scalar(node: yaml.Node, where: str) -> Node:
    kind, text = node.tag.removeprefix(TAG), node.value
    if not isinstance(node, yaml.ScalarNode) or kind not in ("str", *_PATTERNS):
        raise RecipeError(f"{where}: the tag {node.tag} has no meaning in a recipe; remove it")
    typed = None if node.style else text
    if kind == "str":
        return Node(text, where, typed)
    if not _PATTERNS[kind].match(text):
        raise RecipeError(f"{where}: found {text!r}, expected {kind}")
    if kind in ("int", "float") and len(text) > LONGEST_NUMBER:
        raise RecipeError(f"{where}: found a number of {len(text)} characters, expected at most {LONGEST_NUMBER}")
    if kind == "int":
        return Node(int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)), where, typed)
    return Node(
        {"float": to_float, "bool": lambda t: t.lower() == "true"}.get(kind, lambda _: None)(text), where, typed
    )
