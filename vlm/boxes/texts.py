"""The text forms that notations use: objects one after another, in tagged groups, one a line, or as JSON.

All are strict, for what does not fit entirely is refused, and take time linear in the text: white space is collapsed or
split at first, so no pattern repeats it without a bound.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from vlm.boxes.notation import COUNTS, Notation, Written
from vlm.common.errors import DataError

NUMBER = r" ?([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?"
SIGNED = r" ?(-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)) ?"


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

    def _read(self, text: str) -> list[Written] | None:
        numbers = self._run(" ".join(text.split()))
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
        return self.brackets[:1] + self.joiner.join(self.template.format(*one) for one in numbers) + self.brackets[1:]


@dataclass(frozen=True)
class Grouped(Running):
    """Groups of objects in tags, a label in tags of its own before each; without labels one group holds them all."""

    tags: tuple[str, str] = ("", "")
    "Around a group; not insisted on where there are no labels, for decoding without special tokens drops them."
    label_tags: tuple[str, str] = ("", "")
    "Around a label."

    def _read(self, text: str) -> list[Written] | None:
        text = " ".join(text.split())
        if not text.startswith((self.tags[0], self.label_tags[0])):
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
        texts = [super(Grouped, self)._write([one], [item]) for one, item in zip(numbers, items, strict=True)]
        names = [f"{self.label_tags[0]}{item.label}{self.label_tags[1]}" if item.label else "" for item in items]
        return "".join(f"{name}{self.tags[0]}{text}{self.tags[1]}" for name, text in zip(names, texts, strict=True))

    def _label(self, label: str) -> str:
        label = " ".join(label.split())
        if not label or any(mark in label for mark in (*self.tags, *self.label_tags)):
            raise DataError(f"label {label!r} cannot be written in the notation {self.name}; expected plain text")
        return label


@dataclass(frozen=True)
class Lines(Notation):
    """One object a line: its numbers, commas between them, then perhaps a space and a label beginning with a letter."""

    signed: bool = False

    def _read(self, text: str) -> list[Written] | None:
        number = SIGNED if self.signed else NUMBER
        pattern = re.compile(",".join([number] * COUNTS[self.shape]) + r"(?:(?<= )([^\W\d_].*))?")
        found: list[Written] = []
        for line in text.split("\n"):
            line = " ".join(line.split())
            if not line:
                continue
            match = pattern.fullmatch(line)
            if match is None:
                return None
            *numbers, label = match.groups()
            found.append(Written([float(value) for value in numbers], label))
        return found

    def _write(self, numbers: list[list[str]], items: list[Written]) -> str:
        lines = [",".join(one) for one in numbers]
        return "\n".join(
            f"{line} {item.label}" if item.label else line for line, item in zip(lines, items, strict=True)
        )

    def _label(self, label: str) -> str:
        label = " ".join(label.split())
        if not label[:1].isalpha():
            raise DataError(
                f"label {label!r} cannot be written in the notation {self.name}; expected it to start with a letter"
            )
        return label


@dataclass(frozen=True)
class Json(Notation):
    """A JSON list of objects with the numbers under ``key`` and perhaps a ``label``, or one such object.

    Written in a code fence, as Qwen2.5-VL does; read with and without one. Keys that come twice or are not known,
    and numbers that JSON does not have (NaN), are refused.
    """

    key: str = ""

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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
