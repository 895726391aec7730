"""The turns of a batch: who speaks next, until every conversation is over; through transformers, or through vLLM."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from rl.sharing.prefill import first_rows, rolling
from vlm.prefix.continued import Added, Session
from vlm.tools.dialogue import Dialogue
from vlm.tools.rendered import Rendered, Renderer

Say = Callable[[Mapping[int, Rendered]], Mapping[int, Sequence[int]]]
"""What the model says once these turns stand behind their rows, by row."""


@dataclass
class Completion:
    """One row's tokens behind its prompt, the model's and the tools'."""

    ids: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    "1 of a token of the model's, 0 of a tool's."
    logps: list[float] = field(default_factory=list)
    "Of the engine, where it gives them; 0 of a tool's token."
    media: list[Mapping[str, Any]] = field(default_factory=list)
    "Pictures of the tools' turns, a turn each (`vlm.prefix.media`)."
    pictures: list[Image] = field(default_factory=list)
    turn: int = 0
    "Where its last turn begins among `ids`."

    def said(self, ids: Sequence[int], logps: Sequence[float] | None = None) -> None:
        self.turn = len(self.ids)
        self.ids += ids
        self.learned += [1] * len(ids)
        self.logps += [0.0] * len(ids) if logps is None else logps

    def shown(self, turn: Rendered) -> None:
        self.ids += turn.ids
        self.learned += [0] * len(turn.ids)
        self.logps += [0.0] * len(turn.ids)
        self.media += [turn.media] if turn.media else []
        self.pictures += turn.pictures

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Begin and end of what tools said."""
        edges = [
            place for place, (a, b) in enumerate(zip([1, *self.learned], [*self.learned, 1], strict=True)) if a != b
        ]
        return list(zip(edges[::2], edges[1::2], strict=True))


class Conversations:
    """The conversations of a batch."""

    def __init__(self, dialogues: Sequence[Dialogue], renderer: Renderer, ends: Collection[int], limit: int):
        """ends: tokens that end a turn. limit: of the model's tokens in all turns of a row."""
        self.dialogues, self.renderer, self.ends, self.limit = dialogues, renderer, set(ends), limit
        self.completions = [Completion() for _ in dialogues]

    def heard(
        self, said: Mapping[int, Sequence[int]], logps: Mapping[int, Sequence[float]] | None = None
    ) -> dict[int, Rendered]:
        """Note what rows have said; returns the tools' turns that follow, by row."""
        following = {}
        for number, ids in said.items():
            done, dialogue = self.completions[number], self.dialogues[number]
            done.said(list(ids), None if logps is None else list(logps[number]))
            ended = bool(ids) and ids[-1] in self.ends
            text = self.renderer.processor.tokenizer.decode(ids, skip_special_tokens=True)
            turn = dialogue.said(text, ended, room=sum(done.learned) < self.limit)
            if turn is None:
                continue
            following[number] = self.renderer(turn, ids[-1])
            done.shown(following[number])
        return following

    def run(self, first: Mapping[int, Sequence[int]], say: Say) -> None:
        """From the first turns on."""
        following = self.heard(first)
        while following:
            following = self.heard(say(following))


@contextmanager
def conversing(
    model, prompt_index: Sequence[int], conversations: Conversations, whole: bool, passed: Callable[..., None]
) -> Iterator[None]:
    """For its duration `model.generate` takes repeated rows, carries on their conversations to the end, and returns
    what it would have without: prompts and the first turns.

    whole: each prompt and each turn computed for each row from its first token, by transformers alone. passed: is told
    what each turn but the first takes (`rl.counters.Counters.passed`).
    """

    def roll(inputs: Mapping[str, Any], **given: Any) -> Any:
        unique = inputs if whole else first_rows(inputs, prompt_index, model.config)
        index = list(range(len(prompt_index))) if whole else list(prompt_index)
        session = Session(model, unique, index, conversations.ends, conversations.limit, whole=whole, **given)
        first = session.begin()

        def say(following: Mapping[int, Rendered]) -> dict[int, list[int]]:
            said = session.go_on({number: Added(turn.ids, turn.media) for number, turn in following.items()})
            passed(session, following, said)
            return said

        conversations.run(dict(enumerate(first)), say)
        return session.sequences(first)

    with rolling(model, roll):
        yield
