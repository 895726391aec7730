"""The table of completions: text that can be read, and what each row's question was."""

from __future__ import annotations

from typing import Any

LOGGED_COLUMNS = ("image_file", "task", "answer")
"""Of the data set, that the table shows."""


def as_text(messages: str | list[dict[str, Any]]) -> str:
    """A conversation to be read: `role: text` by turn, `<image>` where one stands; a lone turn without its role."""
    if isinstance(messages, str):
        return messages
    turns = []
    for turn in messages:
        content = turn["content"]
        if not isinstance(content, str):
            content = "".join(block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in content)
        turns.append(content if len(messages) == 1 else f"{turn['role']}: {content}")
    return "\n".join(turns)


def pictures_of(row: dict[str, Any]) -> list[Any]:
    """Pictures of a row of the data set, under either of TRL's two names."""
    return row.get("images") or ([row["image"]] if row.get("image") is not None else [])
