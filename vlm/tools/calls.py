"""The text of a tool call, in RSCoVLM's form (Qwen's `<tool_call>` with JSON inside):

    <tool_call>
    {"name": "image_zoom_in", "arguments": {"bbox": [10, 20, 300, 400]}}
    </tool_call>

A turn holds at most one call, and ends with it. Anything else that looks like a call is told what is wrong with it: it
is never taken for an answer, and never for another call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BEGIN, END = "<tool_call>", "</tool_call>"
_CALL = re.compile(rf"{BEGIN}(.*?){END}", re.DOTALL)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]


class BadCall(Exception):
    """A text that means to call a tool and does not; `str` says what is wrong, to the model."""


def write(name: str, arguments: Mapping[str, Any]) -> str:
    """The text of a call."""
    said = json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)
    return f"{BEGIN}\n{said}\n{END}"


def read(text: str) -> Call | None:
    """The call that a turn ends with; None where it holds none. Takes time linear in the text's length.

    Raises: BadCall.
    """
    if BEGIN not in text and END not in text:
        return None
    found = _CALL.findall(text)
    if len(found) != 1 or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise BadCall(
            f"found {text.count(BEGIN)} {BEGIN} and {text.count(END)} {END}; expected one call, with both around it"
        )
    if text.rpartition(END)[2].strip():
        raise BadCall("found text behind the call; expected the call to end the turn")
    try:
        said = json.loads(found[0])
    except (ValueError, RecursionError):
        raise BadCall(f"found no JSON between {BEGIN} and {END}") from None
    if not isinstance(said, dict) or set(said) != {"name", "arguments"}:
        raise BadCall('expected a JSON object with "name" and "arguments" and nothing else')
    if not isinstance(said["name"], str) or not isinstance(said["arguments"], dict):
        raise BadCall('expected "name" to be a text, and "arguments" an object')
    return Call(said["name"], said["arguments"])
