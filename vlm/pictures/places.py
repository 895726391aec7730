"""Where the pictures of a conversation stand in its texts.

    {"role": "user", "content": "Before: <image>\\nAfter: <image>\\nWhat was built?"}

Each `<image>` in a user's turn is one picture, in order, in whichever turn. A conversation without any shows its
pictures before the first question; so do tags that all stand there, and they are taken out (`settled`): the same thing
has one spelling. What surrounds a tag elsewhere stays as it is. An assistant's or a system turn holds no picture; what
a model writes can therefore never claim one.

Chat templates, and TRL, take turns of blocks instead (`blocks`, and back: `spelled`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

TAG = "<image>"
Turns = Sequence[Mapping[str, Any]]

_HEAD = re.compile(rf"(?:\s*{TAG})+\n?")


class Misplaced(ValueError):
    """There are not as many tags as pictures."""

    def __init__(self, tags: int, images: int):
        self.found, self.expected = f"{tags} {TAG} tags", f"as many as images ({images}), or none"
        super().__init__(f"found {self.found}, expected {self.expected}")


def settled(messages: list[dict[str, Any]], images: int) -> list[dict[str, Any]]:
    """A conversation of plain texts in its one spelling; the same list where nothing is to be changed.

    images: how many there are. Raises: Misplaced for another number of tags.
    """
    tags, first = 0, -1
    for number, turn in enumerate(messages):  # a loop, because each row of millions comes here
        if turn["role"] == "user":
            tags += turn["content"].count(TAG)
            first = number if first < 0 else first
    if not tags:
        return messages
    if tags != images:
        raise Misplaced(tags, images)
    asked = messages[first]["content"]
    head = _HEAD.match(asked)
    if head is None or head[0].count(TAG) != images:
        return messages
    said = {**messages[first], "content": asked[head.end() :]}
    return [*messages[:first], said, *messages[first + 1 :]]


def placed(messages: Turns) -> bool:
    """Whether texts say where pictures stand; in a settled conversation that is not before the first question."""
    return any(turn["role"] == "user" and TAG in turn["content"] for turn in messages)


def blocks(messages: Turns, pictures: Sequence[Any] | int = 0) -> list[dict[str, Any]]:
    """A settled conversation with its contents as lists of blocks, `{"type": "text" | "image", …}`.

    pictures: the pictures, which the blocks then hold (`image`), or their number.
    """
    number = pictures if isinstance(pictures, int) else len(pictures)
    left = iter([{"type": "image"}] * number if isinstance(pictures, int) else [_picture(one) for one in pictures])
    heads = 0 if placed(messages) else number
    turns = []
    for turn in messages:
        parts: list[dict[str, Any]] = []
        texts = [turn["content"]]
        if turn["role"] == "user":
            parts, heads = [next(left) for _ in range(heads)], 0
            texts = turn["content"].split(TAG)
        for place, text in enumerate(texts):
            parts += [next(left)] if place else []
            parts += [{"type": "text", "text": text}] if text or len(texts) == 1 else []
        turns.append({**turn, "content": parts})
    return turns


def _picture(image: Any) -> dict[str, Any]:
    return {"type": "image", "image": image}


def spelled(content: Any) -> Any:
    """The text of a turn's blocks, with a tag for each picture; a plain text, or anything else, as it is.

    Pictures that the blocks hold are the caller's to keep.
    """
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return content
    said = [TAG if block.get("type") == "image" else block.get("text") for block in content]
    return "".join(said) if all(isinstance(text, str) for text in said) else content


def texts(messages: Turns) -> list[dict[str, Any]]:
    """The inverse of `blocks`, but for the pictures that the blocks hold: settled, to the last line break."""
    turns = [{**turn, "content": spelled(turn["content"])} for turn in messages]
    asked = next((number for number, turn in enumerate(turns) if turn["role"] == "user"), None)
    given = None if asked is None else messages[asked]["content"]
    if asked is not None and isinstance(given, list):
        heads = next((number for number, block in enumerate(given) if block["type"] != "image"), len(given))
        if heads == sum(turn["content"].count(TAG) for turn in turns if turn["role"] == "user"):
            turns[asked]["content"] = spelled(given[heads:])
    return turns


def named(messages: Turns, names: Sequence[str]) -> list[dict[str, Any]]:
    """A settled conversation in which each picture has its name before it: "Picture 1, 2019-04: <image>", a line for
    each where the pictures stand before the first question. names: one for each picture, in order."""
    if not placed(messages):
        head = "".join(f"{name}: {TAG}\n" for name in names)
        asked = next(number for number, turn in enumerate(messages) if turn["role"] == "user")
        said = {**messages[asked], "content": head + messages[asked]["content"]}
        return [*messages[:asked], said, *messages[asked + 1 :]]
    left = iter(names)
    return [
        {**turn, "content": re.sub(TAG, lambda _: f"{next(left)}: {TAG}", turn["content"])}
        if turn["role"] == "user"
        else dict(turn)
        for turn in messages
    ]


def numbered(text: str, first: int = 1) -> str:
    """A text for a reader who sees the pictures before it: "Before: [image 1] After: [image 2]".

    first: number of the first tag's picture.
    """
    head, *rest = text.split(TAG)
    return head + "".join(f"[image {number}]{part}" for number, part in enumerate(rest, first))
