"""One conversation with tools, from its question to its last turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vlm.pictures.places import TAG
from vlm.tools import calls
from vlm.tools.tool import Context, Shown, View
from vlm.tools.toolbox import Toolbox


@dataclass
class Turn:
    """What the model or a tool says in one go. Only the model's turns are learned from."""

    role: Literal["assistant", "tool"]
    text: str
    pictures: list[Shown] = field(default_factory=list)
    "Of a tool's turn; they stand before its text."

    @property
    def content(self) -> list[dict[str, Any]]:
        """As a chat template takes it."""
        shown = [{"type": "image", "image": one.picture} for one in self.pictures]
        return [*shown, {"type": "text", "text": self.text}] if self.text or not shown else shown

    @property
    def written(self) -> dict[str, str]:
        """As it is logged: text, with `<image>` where a picture stands."""
        return {"role": self.role, "content": TAG * len(self.pictures) + self.text}


class Dialogue:
    """The turns behind a question. Tell it what the model says (`said`); it says what comes next."""

    def __init__(self, toolbox: Toolbox, views: Sequence[View], columns: Mapping[str, Any], where: str):
        """views: the question's pictures. columns: of the row, for tools that look something up. where: names it in
        the log."""
        self.toolbox, self.where = toolbox, where
        self.context = Context(list(views), len(views), columns)
        self.turns: list[Turn] = []
        self.crops: list[dict[str, Any]] = []
        "Regions shown: `turn` (number of the tool's turn), `image` (of the question, from 0), `box`, `size`."
        self.faults: list[str] = []
        "Why calls failed, one for each that did."
        self.over = False
        "Whether it called a tool once more than it may, or without room for more."
        self.open = True
        "Whether the model speaks next."

    def said(self, text: str, ended: bool = True, room: bool = True) -> Turn | None:
        """Note a turn of the model; returns the tool's turn that follows, or None where the conversation is over.

        ended: whether the turn came to its end; one that was cut is the last. room: whether the model may say more.
        """
        self.turns.append(Turn("assistant", text))
        if not ended:
            self.open = False
            return None
        if self.calls >= self.toolbox.turns.limit or not room:
            self.over, self.open = calls.BEGIN in text, False
            return None
        result = self.toolbox.answer(text, self.context, self.where)
        if result is None:
            self.open = False
            return None
        if result.fault is not None:
            self.faults.append(result.fault)
        for one in result.pictures:
            if (view := one.view) is not None:
                self.context.views.append(view)
                where = {"turn": len(self.turns), "image": view.number}
                self.crops.append({**where, "box": list(view.box), "size": list(view.shown)})
        self.turns.append(Turn("tool", result.text, result.pictures))
        return self.turns[-1]

    @property
    def calls(self) -> int:
        """How many were answered."""
        return sum(turn.role == "tool" for turn in self.turns)

    @property
    def last(self) -> str:
        """The model's last turn."""
        return self.turns[-1].text

    @property
    def written(self) -> list[dict[str, str]]:
        return [turn.written for turn in self.turns]
