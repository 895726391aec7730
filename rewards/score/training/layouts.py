"""What a row of preferences shows, asks and compares, under whichever project's keys.

    ours            images, question, ranked
    ScoreRS         image_name or image_path, question, chosen and rejected (texts, or lists of them)
    TRL             images or image, prompt (text or turns), chosen and rejected (texts or turns); without a prompt,
                    what both sides begin with
    LLaMA-Factory   images, conversations, chosen and rejected as turns {"from": "gpt", "value": …}; or its alpaca rows:
                    instruction, input and history ([[question, answer], …]), chosen and rejected
    ms-swift        images, messages whose last turn is the better answer, rejected_response (text or texts) or
                    rejected_messages

What is asked ends with a user turn; turns before it are shared by all candidates. A system turn is left out, as
everywhere before the score model (`Exchange.from_messages`). `<image>` tags are where pictures stand, and must be as
many. Another key is never silent: one that is near a field, or holds a question or a picture that would be missing, is
refused; the rest are told once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from samples.readers.conversations import ROLES
from samples.readers.keys import FOREIGN, refuse_hidden, slip, unread
from samples.readers.rows import RowFault, show
from vlm.pictures.places import spelled

IMAGES = ("images", "image", "image_name", "image_path")
ASKING = ("question", "prompt", "messages", "conversations", "conversation")
SIDES = ("ranked", "chosen", "rejected", "rejected_response", "rejected_messages")
OTHERS = ("dimensions", "ratings", "margin", "source", "id", "system")
READ = frozenset({*IMAGES, *ASKING, *SIDES, *OTHERS})
ALPACA = ("instruction", "input", "history")
"""LLaMA-Factory's names of what is asked, read where none of ASKING is there."""
UNASKED = ("input", "query", "problem", "text")
"""Names under which other projects have the question."""
REFUSED = {
    **{key: said for key, said in FOREIGN.items() if key not in SIDES},
    "objects": "boxes and names written into the texts, in the notation that the scored answers have",
    "rejected_images": "the same pictures on both sides: a record has one list of images",
    "dates": "the question to name the pictures, as a policy is told: 'Picture 1, 2019-04: <image>' and so on",
}
TAG = re.compile(r"\n?<image>\n?")
TEXTS = "a text or a list of texts"
Turns = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a row of other layouts than `ranked` compares, as it is found; still unchecked texts."""

    chosen: Any
    rejected: Any


def check_keys(row: Mapping[str, Any], text_only: bool) -> list[str]:
    """The keys that are not read. Raises: RowFault for those that must not be lost."""
    others = [key for key in row if key not in READ and not (key in ALPACA and _is_alpaca(row))]
    for key in others:
        if key in REFUSED and row[key] not in (None, "", [], {}, "[]"):
            raise RowFault("other_key", key, show(row[key]), REFUSED[key])
        if (field := slip(key, READ - set(row))) is not None and not _has_one(field, row):
            raise unread(key, field)
    if not any(row.get(key) is not None for key in ASKING):
        for key in others:
            if key in UNASKED and row[key]:
                expected = f"the question under 'question' (at the source: `columns: {{question: {key}}}`)"
                raise RowFault("unknown_key", key, show(row[key]), expected)
    if not text_only and not any(row.get(key) for key in IMAGES):
        refuse_hidden(dict(row), READ)
    return others


def _is_alpaca(row: Mapping[str, Any]) -> bool:
    return bool(row.get("instruction")) and all(row.get(key) in (None, "", []) for key in ASKING)


def _has_one(field: str, row: Mapping[str, Any]) -> bool:
    """Whether the row has another name of what the field says, so that none is missed."""
    for names in (IMAGES, ASKING, SIDES):
        if field in names:
            return any(row.get(name) not in (None, "", []) for name in names)
    return False


def named_images(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """(the key, what stands under it): the row's pictures; none for none. Raises: RowFault where two keys have some."""
    given = [key for key in IMAGES if row.get(key) not in (None, "", [])]
    if len(given) > 1:
        raise RowFault("wrong_type", given[1], f"pictures under {given[0]!r}, too", "one of the two keys")
    if not given:
        return "images", []
    value = row[given[0]]
    if given[0] == "images" and not isinstance(value, list):
        raise RowFault("wrong_type", "images", show(value), "a list of paths")
    return given[0], value if isinstance(value, list) else [value]


def asked(row: Mapping[str, Any]) -> tuple[Turns, Compared | None]:
    """(turns, the question last; sides). Sides: None for `ranked`.

    Raises: RowFault for two keys with a question, or turns that are no conversation.
    """
    given = [key for key in ASKING if row.get(key) not in (None, "", [])]
    if len(given) > 1:
        raise RowFault("wrong_type", given[1], f"a question under {given[0]!r}, too", "one of the two keys")
    ranked = row.get("ranked") is not None
    chosen, rejected = row.get("chosen"), row.get("rejected")
    turns: Turns = []
    if given:
        turns = _turns(row[given[0]], given[0])
    elif _is_alpaca(row):
        turns = _alpaca(row)
    elif not ranked and _are_turns(chosen) and _are_turns(rejected) and isinstance(chosen, list):
        turns = _common(chosen, rejected)
    swift = {"rejected_response", "rejected_messages"} & {key for key in SIDES if row.get(key) is not None}
    if swift and chosen is None:
        if not turns or turns[-1]["role"] != "assistant":
            raise RowFault("conversation", given[0] if given else "messages", "no answer", "the better answer, last")
        chosen, rejected = turns.pop()["content"], row[min(swift)]
    question = _in_turn(turns, given[0] if given else "question")
    if ranked:
        return question, None
    return question, Compared(_side(chosen, "chosen", turns), _side(rejected, "rejected", turns))


def _in_turn(turns: Turns, key: str) -> Turns:
    """The turns without the system's; an empty question where there are none, as of captions."""
    turns = [turn for turn in turns if turn["role"] != "system"] or [{"role": "user", "content": ""}]
    if [turn["role"] for turn in turns] != [("user", "assistant")[number % 2] for number in range(len(turns))] or (
        turns[-1]["role"] != "user"
    ):
        found = f"the roles {', '.join(turn['role'] for turn in turns)}"
        raise RowFault("conversation", key, found, "user and assistant in turn, and the user's question last")
    return turns


def _alpaca(row: Mapping[str, Any]) -> Turns:
    """LLaMA-Factory joins instruction and input by a line break."""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RowFault("wrong_type", "history", show(history), "a list of [question, answer]")
    texts = [("history", text) for pair in history for text in pair]
    texts += [(key, row[key]) for key in ("instruction", "input") if row.get(key)]
    for key, text in texts:
        if not isinstance(text, str):
            raise RowFault("wrong_type", key, show(text), "text")
    said = [text for key, text in texts if key == "history"]
    asked = "\n".join(text for key, text in texts if key != "history")
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate([*said, asked])]


def _are_turns(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _turns(value: Any, key: str) -> Turns:
    """A text (one user turn), or turns of either spelling."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if key == "question":
        raise RowFault("wrong_type", key, show(value), "text")
    if not isinstance(value, list):
        raise RowFault("wrong_type", key, show(value), "text, or a list of turns")
    turns = []
    for turn in value:
        said = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        role = ROLES.get(said) if isinstance(said, str) else None
        content = spelled(turn.get("value", turn.get("content"))) if isinstance(turn, dict) else None
        if role is None or not isinstance(content, str):
            raise RowFault(
                "conversation", key, show(turn), "a turn of the user, the assistant or the system, with text"
            )
        if isinstance(turn, dict) and turn.get("zoom") is not None:
            expected = "turns without: the score model reads no crops"
            raise RowFault("zoom", f"{key}.zoom", show(turn["zoom"]), expected)
        turns.append({"role": role, "content": content})
    return turns


def _common(chosen: Sequence[Any], rejected: Any) -> Turns:
    """TRL's prompt that both sides begin with."""
    count = 0
    others = rejected if isinstance(rejected, list) else [rejected]
    while count < min(len(chosen), len(others)) - 1 and chosen[count] == others[count]:
        count += 1
    return _turns(list(chosen[:count]), "chosen")


def _side(value: Any, key: str, asked: Turns) -> Any:
    """The texts of a side: a text, texts, or the assistant's turn of a conversation that begins as the prompt does."""
    if not _are_turns(value):
        return value
    given = [value] if isinstance(value, dict) else value
    turns = _turns(given, key)
    if len(turns) > 1 and turns[: len(asked)] == asked:
        turns = turns[len(asked) :]
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        found = f"the roles {', '.join(turn['role'] for turn in turns)}"
        raise RowFault("conversation", key, found, f"{TEXTS}, or turns: the prompt's, and one of the assistant")
    return turns[0]["content"]


def without_pictures(turns: Turns) -> Turns:
    """Turns of a text-only source, whose tags show nothing."""
    return [turn | {"content": TAG.sub("", turn["content"])} for turn in turns]
