"""Conversations with tools, the same for every backend: what is asked, turn by turn, until the model calls no more.

    talks = Talks.of(recipe, sight)
    batch = [talks.begun(row) for row in rows]
    converse(batch, say)               # say(places) → what the model says at these places of the batch
    [talk.answer for talk in batch]

`generation.max_new_tokens` is for all that the model says to one question. Where it is used up, or a turn is cut, the
conversation is over, whatever was called. Who never meets a tool is asked as ever: a conversation of one turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL.Image import Image

from evals.asking.answering import Row
from evals.asking.conversation import conversation
from samples import Sample
from stage.recipe.asking import AskingRecipe
from stage.recipe.sections import ToolKeys
from vlm.families import Family, Sight
from vlm.sections import PromptSection
from vlm.tools.chains import called
from vlm.tools.dialogue import Dialogue, Turn
from vlm.tools.tool import views_of
from vlm.tools.toolbox import Toolbox

Region = Sequence[float]
"""x1, y1, x2, y2 in pixels of the original first picture, y down."""
Openings = Mapping[tuple[str, str], Region]
"""Source and id of a question → the region that its first call is made to name."""
COLUMNS = ("task", "kind", "size", "choices", "source", "id")
"""Fields of a sample that tools may know, beside its own columns; what is true is not among them."""


class Said(NamedTuple):
    """A turn of the model."""

    text: str
    tokens: int
    "How many it took; 0 where nobody counts them, and each turn may then be as long as all."
    ended: bool
    "Whether it came to its end, and was not cut."


class Chain(str):
    """An answer that was given with tools at hand: the model's last turn, and the conversation that it stands in."""

    turns: list[dict[str, str]]
    crops: list[dict[str, Any]]
    faults: list[str]
    over: bool

    @classmethod
    def of(cls, dialogue: Dialogue) -> Chain:
        made = cls(dialogue.last)
        made.turns, made.crops = dialogue.written, dialogue.crops
        made.faults, made.over = dialogue.faults, dialogue.over
        return made


def fields(text: str) -> dict[str, Any]:
    """What predictions say of the conversation behind an answer."""
    if not isinstance(text, Chain):
        return {}
    found: dict[str, Any] = {"turns": text.turns, "crops": text.crops}
    return found | ({"faults": text.faults} if text.faults else {}) | ({"over": True} if text.over else {})


class Talk:
    """The conversation of one row."""

    def __init__(self, row: Row, prompt: PromptSection, limit: int, sight: Sight, dialogue: Dialogue | None = None):
        """limit: of the model's tokens in all turns. dialogue: None where no tool is at hand."""
        self.row, self.prompt, self.sight, self.dialogue = row, prompt, sight, dialogue
        self.room = limit
        self.text: str | None = None
        self.told: Turn | None = None
        "The tool's turn that the model has not answered yet."

    @property
    def open(self) -> bool:
        """Whether the model speaks next."""
        return self.text is None if self.dialogue is None else self.dialogue.open

    @property
    def turn(self) -> int:
        """How many turns the model has had, those that were put into its mouth included."""
        return 0 if self.dialogue is None else sum(turn.role == "assistant" for turn in self.dialogue.turns)

    def said(self, said: Said) -> None:
        """Note what the model said, and what the tool that it called says to that."""
        self.room -= said.tokens
        if self.dialogue is None:
            self.text = said.text
        else:
            self.told = self.dialogue.said(said.text, said.ended, self.room > 0)
            self._check()

    def made_to_call(self, region: Region) -> None:
        """Put a first call into the model's mouth. Raises: DataError for a region that the tool would not show."""
        assert self.dialogue is not None and self.dialogue.toolbox.zoom is not None
        text, _ = called(region, self.dialogue.context, self.dialogue.toolbox.zoom)
        self.told = self.dialogue.said(text)
        self._check()

    def _check(self) -> None:
        """Regions come at the size at which the model sees them, so no processor makes other pictures of them."""
        for one in self.told.pictures if self.told is not None else ():
            assert one.view is None or self.sight.seen(one.picture.size) in (None, one.picture.size), one.picture.size

    def messages(
        self,
        view: Callable[[str | bytes, Sight], Image] | None = None,
        given: Callable[[Image], Image] = lambda picture: picture,
    ) -> list[dict[str, Any]]:
        """The conversation so far, as chat templates take it. view: as `conversation` takes it. given: makes a picture
        that a tool gave ready for whoever reads it."""
        sample, _ = self.row
        asked = conversation(sample, self.prompt, self.sight, view)
        for turn in self.dialogue.turns if self.dialogue is not None else ():
            role = "assistant" if turn.role == "assistant" else "user"
            content = [
                part | {"image": given(part["image"])} if part["type"] == "image" else part for part in turn.content
            ]
            asked.append({"role": role, "content": content})
        return asked

    @property
    def answer(self) -> str:
        """The completion; a `Chain` where tools were at hand."""
        if self.dialogue is not None:
            return Chain.of(self.dialogue)
        assert self.text is not None
        return self.text


class Talks:
    """Begins the conversations of a recipe's rows."""

    def __init__(
        self,
        prompt: PromptSection,
        limit: int,
        sight: Sight,
        toolbox: Toolbox | None = None,
        tooled: Callable[[Sample], bool] = lambda sample: True,
        openings: Openings | None = None,
    ):
        """tooled: which questions may use tools; the others are asked without. openings: calls that are put into the
        model's mouth."""
        self.prompt, self.limit, self.sight, self.toolbox = prompt, limit, sight, toolbox
        self.plain = prompt.told("", "") if toolbox is not None else prompt
        self.tooled, self.openings = tooled, openings or {}

    @classmethod
    def of(cls, recipe: AskingRecipe, sight: Sight, family: Family | None = None) -> Talks:
        """As the recipe says, its benchmark's own rule included. Raises: RecipeError for tools that cannot be had."""
        found = cls(recipe.prompt, recipe.generation.max_new_tokens, sight)
        if isinstance(recipe, ToolKeys) and recipe.tools:
            toolbox = Toolbox.of(recipe.tools, recipe.turns, sight, family)
            found = cls(found.prompt, found.limit, sight, toolbox, recipe.tooled, recipe.turns.openings)
        return found

    def begun(self, row: Row) -> Talk:
        """The conversation before the model's first own word. Raises: DataError as `Talk.made_to_call`."""
        sample, _ = row
        if self.toolbox is None or not self.tooled(sample):
            return Talk(row, self.plain, self.limit, self.sight)
        views = views_of(sample.images, self.sight, self.prompt.notation)
        columns = {name: getattr(sample, name) for name in COLUMNS} | (sample.columns or {})
        dialogue = Dialogue(self.toolbox, views, columns, f"{sample.source}/{sample.id}")
        talk = Talk(row, self.prompt, self.limit, self.sight, dialogue)
        if (region := self.openings.get((sample.source, sample.id))) is not None:
            talk.made_to_call(region)
        return talk


def converse(talks: Sequence[Talk], say: Callable[[list[int]], Sequence[Said]]) -> None:
    """Until none is open. say: places of the talks whose turn it is → what the model says at each, in order."""
    while places := [place for place, talk in enumerate(talks) if talk.open]:
        for place, said in zip(places, say(places), strict=True):
            talks[place].said(said)
