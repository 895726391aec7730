"""The text forms that notations use: objects one after another, in tagged groups, one a line, or as JSON.

`_read`, of data, is strict: what does not fit entirely is refused. `_read_said`, of a model's answer, begins with that
and then tries the family's further forms; it, too, refuses a text in which a second box might compete with the one that
it would read (`_plain`). All take time linear in the text: white space is collapsed or split at first, so no pattern
repeats it without a bound.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from vlm.boxes.notation import COUNTS, Notation, Written
from vlm.common.errors import DataError

NUMBER = r" ?(-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)) ?"
"""Whether it may be negative is a matter of the shape and the frame, not of the text."""
_ANY_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_TRAILING = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*(?:"|\Z)|,(?=\s*[\]}])', re.DOTALL)
"""A JSON string, which stays, or a comma before a closing bracket."""


@dataclass(frozen=True)
class Running(Notation):
    """Objects one after another, with white space, a comma or a semicolon between them."""

    template: str = ""
    "One object, as a str.format template of its numbers, written out."
    joiner: str = ""
    "What stands between two objects."
    brackets: str = ""
    'Empty, or "[]": the list of objects stands in brackets of its own (written, but not insisted on).'
    pattern: re.Pattern[str] = field(default=re.compile(""))
    "One object as text; the groups that match are its numbers. Allows single spaces."
    between: re.Pattern[str] = field(default=re.compile(r" ?[,;]? ?"))
    "What may stand between two objects."
    refs: tuple[str, str] = ("", "")
    "Around the name of an object, which an answer may put before its boxes."
    bare: bool = False
    "What is around names is special tokens, which decoding drops: an answer may then have one right before its boxes."
    chunk: re.Pattern[str] | None = None
    "What stands behind a bare name; None: `pattern`, one object."
    said: re.Pattern[str] | None = None
    "One object in the family's other form, in which an answer may have all of its objects."

    @property
    def labels(self) -> bool:
        return bool(self.refs[0])

    def pieces(self, text: str) -> list[str]:
        text, ends = " ".join(text.split()), [0]
        ends += [match.end() for match in (self.chunk or self.pattern).finditer(text)]
        return [part for start, end in pairwise([*ends, len(text)]) if (part := text[start:end].strip(" ,;"))]

    def _read_said(self, text: str) -> list[Written] | None:
        found = self._read(text)
        if found is None and self.bare:
            found = self._read_bare(" ".join(text.split()))
        if found is None and self.said is not None:
            numbers = replace(self, pattern=self.said)._run(" ".join(text.split()))
            found = None if numbers is None else [Written(self._complete(one)) for one in numbers]
        return found

    def _read_bare(self, text: str) -> list[Written] | None:
        """Objects with a bare name before each, or before each group of them: no space is between the name and the
        first box, so that a sentence that ends in a box is none. All boxes of the text count, or none does."""
        found: list[Written] = []
        name, position = "", 0
        for match in (self.chunk or self.pattern).finditer(text):
            between = text[position : match.start()]
            if between.strip(" ,;"):
                name = between.lstrip(" ,;")
                if name.endswith(" ") or not self._bare_name(name):
                    return None
            numbers = self._run(match[0])
            if not name or numbers is None:
                return None
            found += [Written(one, name) for one in numbers]
            position = match.end()
        return None if text[position:] else found

    @staticmethod
    def _bare_name(text: str) -> bool:
        """Whether a text is read as a name where nothing stands around it: no box can hide in it."""
        return "(" not in text and ")" not in text and _plain(text)

    def _read_named(self, text: str) -> list[Written] | None:
        """Objects with a name in `refs` before each, or before each group of them."""
        head, *parts = text.split(self.refs[0])
        found: list[Written] = []
        for part in parts:
            name, closed, objects = part.partition(self.refs[1])
            numbers = self._run(objects.strip(" ,;"))
            if not closed or not name.strip() or not _plain(name) or numbers is None:
                return None
            found += [Written(self._complete(one), name.strip()) for one in numbers]
        return None if head else found

    def _read(self, text: str) -> list[Written] | None:
        text = " ".join(text.split())
        if self.refs[0] and text.startswith(self.refs[0]):
            return self._read_named(text)
        numbers = self._run(text)
        return None if numbers is None else [Written(self._complete(one)) for one in numbers]

    def _run(self, text: str) -> list[list[float]] | None:
        if self.brackets and text.startswith(self.brackets[0] * 2) and text.endswith(self.brackets[1] * 2):
            text = text[1:-1]
        found: list[list[float]] = []
        position = 0
        while position < len(text):
            if found:
                position = self.between.match(text, position).end()  # type: ignore[union-attr]  # matches ""
            match = self.pattern.match(text, position)
            if match is None:
                return None
            found.append([float(value) for value in match.groups() if value is not None])
            position = match.end()
        return found or None

    def _complete(self, numbers: list[float]) -> list[float]:
        """An oriented box whose angle is left out is not turned."""
        return [*numbers, 0.0] if self.shape == "obb_corners" and len(numbers) == 4 else numbers

    def _write(self, numbers: list[list[str]], items: list[Written]) -> str:
        names = [f"{self.refs[0]}{item.label}{self.refs[1]}" if item.label else "" for item in items]
        texts = [name + self.template.format(*one) for name, one in zip(names, numbers, strict=True)]
        return self.brackets[:1] + self.joiner.join(texts) + self.brackets[1:]

    def _label(self, label: str) -> str:
        if not self.refs[0]:
            return super()._label(label)
        label = " ".join(label.split())
        if not label or not _plain(label) or not label[-1].isalnum() or (self.bare and not self._bare_name(label)):
            raise DataError(
                f"label {label!r} cannot be written in the notation {self.name}; expected words without brackets, and "
                "fewer than four numbers"
            )
        return label


@dataclass(frozen=True)
class Grouped(Running):
    """Groups of objects in tags, a label in tags of its own before each; without labels one group holds them all."""

    tags: tuple[str, str] = ("", "")
    "Around a group; not insisted on where there are no labels, for decoding without special tokens drops them."
    label_tags: tuple[str, str] = ("", "")
    "Around a label; empty where there is none."

    @property
    def labels(self) -> bool:
        return bool(self.label_tags[0])

    def pieces(self, text: str) -> list[str]:
        if self.tags[1] not in text:
            return super().pieces(text)
        parts = " ".join(text.split()).split(self.tags[1])
        pieces = [part.strip(" ,;") + self.tags[1] for part in parts[:-1]]
        return [*pieces, parts[-1]] if parts[-1].strip() else pieces

    def _read(self, text: str) -> list[Written] | None:
        text = " ".join(text.split())
        if not text.startswith(tuple(filter(None, (self.tags[0], self.label_tags[0])))):
            return super()._read(text)
        found: list[Written] = []
        for group in text.split(self.tags[1])[:-1]:
            label, opened, inside = group.partition(self.tags[0])
            numbers = self._run(inside.strip())
            name = self._name(label.strip(" ,;") if found else label.strip())
            if not opened or numbers is None or name is None:
                return None
            found += [Written(one, name or None) for one in numbers]
        return found if text.endswith(self.tags[1]) else None

    def _name(self, text: str) -> str | None:
        """The label of a group; empty where there is none, None where the text is no label."""
        opening, closing = self.label_tags
        inside = text[len(opening) : -len(closing)].strip()
        if not text or (text.startswith(opening) and text.endswith(closing) and inside and opening not in inside):
            return inside if text else ""
        return None

    def _write(self, numbers: list[list[str]], items: list[Written]) -> str:
        if not any(item.label for item in items):
            return self.tags[0] + super()._write(numbers, items) + self.tags[1]
        bare = [replace(item, label=None) for item in items]
        texts = [super(Grouped, self)._write([one], [item]) for one, item in zip(numbers, bare, strict=True)]
        names = [f"{self.label_tags[0]}{item.label}{self.label_tags[1]}" if item.label else "" for item in items]
        return "".join(f"{name}{self.tags[0]}{text}{self.tags[1]}" for name, text in zip(names, texts, strict=True))

    def _label(self, label: str) -> str:
        if not self.label_tags[0]:
            return super()._label(label)
        label = " ".join(label.split())
        marked = any(mark in label for mark in (*self.tags, *self.label_tags))
        if not label or marked or (self.bare and not self._bare_name(label)):
            raise DataError(
                f"label {label!r} cannot be written in the notation {self.name}; expected words without brackets, and "
                "fewer than four numbers"
            )
        return label


@dataclass(frozen=True)
class Lines(Notation):
    """One object a line: its numbers, commas between them, then perhaps a space and a label beginning with a letter."""

    @property
    def labels(self) -> bool:
        return True

    def pieces(self, text: str) -> list[str]:
        return _fragments(text) if "{" in text else super().pieces(text)

    def cut(self, piece: str) -> str:
        numbers = ",".join([NUMBER] * COUNTS[self.shape])
        match = re.match(rf"{numbers}(?:,{NUMBER})+(?= [^\W\d_])", piece.strip())
        return piece if match is None else ",".join(match.groups()[: COUNTS[self.shape]]) + piece.strip()[match.end() :]

    def _read_said(self, text: str) -> list[Written] | None:
        found = self._read(text)
        return found if found is not None or not self.key else _json_said(text, (self.key,), COUNTS[self.shape])

    def _read(self, text: str) -> list[Written] | None:
        pattern = re.compile(",".join([NUMBER] * COUNTS[self.shape]) + r"(?:(?<= )([^\W\d_].*))?")
        found: list[Written] = []
        for line in text.splitlines():
            line = " ".join(line.split())
            if not line:
                continue
            match = pattern.fullmatch(line)
            if match is None:
                return None
            *numbers, label = match.groups()
            if not _plain(label or ""):  # another box might stand in it
                return None
            found.append(Written([float(value) for value in numbers], label))
        return found

    def _write(self, numbers: list[list[str]], items: list[Written]) -> str:
        lines = [",".join(one) for one in numbers]
        return "\n".join(
            f"{line} {item.label}" if item.label else line for line, item in zip(lines, items, strict=True)
        )

    def _label(self, label: str) -> str:
        label = " ".join(label.split())
        if not label[:1].isalpha() or not _plain(label):
            raise DataError(
                f"label {label!r} cannot be written in the notation {self.name}; expected it to start with a letter, "
                "and no brackets and fewer than four numbers in it"
            )
        return label


@dataclass(frozen=True)
class Json(Notation):
    """A JSON list of objects with the numbers under ``key`` and perhaps a ``label``, or one such object.

    Written in a code fence, as Qwen2.5-VL does; read with and without one. Keys that come twice or are not known,
    and numbers that JSON does not have (NaN), are refused.
    """

    keys: tuple[str, ...] = ()
    "Other names that answers give it."

    @property
    def labels(self) -> bool:
        return True

    def pieces(self, text: str) -> list[str]:
        return _fragments(text) if "{" in text else super().pieces(text)

    def _read_said(self, text: str) -> list[Written] | None:
        found = self._read(text)
        return found if found is not None else _json_said(text, (self.key, *self.keys), COUNTS[self.shape])

    def _read(self, text: str) -> list[Written] | None:
        text = text.strip()
        if text.startswith("```") and text.endswith("```") and len(text) > 6:
            text = text[3:-3].removeprefix("json")
        try:
            value = json.loads(text, object_pairs_hook=_object, parse_int=float, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        items = value if isinstance(value, list) else [value]
        found = [self._item(item) for item in items]
        return None if None in found else found  # type: ignore[return-value]  # no None is left

    def _item(self, item: Any) -> Written | None:
        if not isinstance(item, dict) or not {self.key} <= set(item) <= {self.key, "label"}:
            return None
        numbers, label = item[self.key], item.get("label")
        if not isinstance(numbers, list) or not all(type(x) is float for x in numbers):
            return None
        if not isinstance(label, str | None):
            return None
        return Written(numbers, label)

    def _write(self, numbers: list[list[str]], items: list[Written]) -> str:
        rows = []
        for one, item in zip(numbers, items, strict=True):
            label = "" if item.label is None else f', "label": {json.dumps(item.label, ensure_ascii=False)}'
            rows.append(f'\t{{"{self.key}": [{", ".join(one)}]{label}}}')
        return "```json\n[\n" + ",\n".join(rows) + "\n]\n```"

    def _label(self, label: str) -> str:
        return label


def _fragments(text: str) -> list[str]:
    """The innermost `{…}` of a text, and what stands between them, if that is more than JSON's own marks."""
    found: list[str] = []
    place = 0
    for match in re.finditer(r"\{[^{}]*\}", text):
        found += [text[place : match.start()], match[0]]
        place = match.end()
    found.append(text[place:])
    return [one for one in found if re.sub(r"```(json)?|[\s\[\],]", "", one)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _plain(text: str) -> bool:
    """Whether no box can hide in a text that stands beside one: no brackets, and fewer than four numbers."""
    return not any(mark in text for mark in "[]{}<>`") and sum(1 for _ in _ANY_NUMBER.finditer(text)) < 4


def _json_said(text: str, keys: tuple[str, ...], count: int) -> list[Written] | None:
    """Objects of an answer in JSON: a list or one, each under one of `keys` or as a bare list of numbers.

    Prose may stand before the one code fence, commas before closing brackets, and further keys in an object, as long as
    no other box can hide in them.
    """
    text = text.strip()
    prose, fence, inside = text.partition("```")
    if fence:
        inside, fence, behind = inside.partition("```")
        if not fence or behind or not _plain(prose):
            return None
        text = inside.removeprefix("json")
    text = _TRAILING.sub(lambda match: "" if match[0] == "," else match[0], text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=float, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    bare = isinstance(value, list) and len(value) == count and all(type(x) is float for x in value)
    items = [value] if bare or not isinstance(value, list) else value
    found = []
    for item in items:
        numbers, label = item, None
        if isinstance(item, dict):
            named = [key for key in keys if key in item]
            others = [item[key] for key in item if key not in (*keys, "label")]
            if len(named) != 1 or not all(map(_harmless, others)):
                return None
            numbers, label = item[named[0]], item.get("label")
            if not (isinstance(label, str | None) or _harmless(label)):
                return None
        if not isinstance(numbers, list) or len(numbers) != count or not all(type(x) is float for x in numbers):
            return None
        found.append(Written(numbers, label if isinstance(label, str) else None))
    return found


def _harmless(value: Any) -> bool:
    """Whether the value of a key that is not read holds no box of its own: fewer than four numbers, texts included."""
    waiting, numbers = [value], 0
    while waiting and numbers < 4:
        one = waiting.pop()
        if isinstance(one, str):
            numbers += sum(1 for _ in _ANY_NUMBER.finditer(one))
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        else:
            numbers += type(one) is float
    return numbers < 4
