"""The tools of a recipe: found by name, described to the model, called with a time limit."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vlm.common.errors import RecipeError
from vlm.common.plugins.importing import imported, nearest
from vlm.common.plugins.places import raised
from vlm.common.plugins.timed import Overdue, timed
from vlm.families import Family, Sight
from vlm.pictures.places import TAG
from vlm.pictures.resizing import seen
from vlm.sections import ToolSection, TurnSection
from vlm.tools import calls
from vlm.tools.tool import Context, Result, Tool, ToolError, of_function, result_of
from vlm.tools.zoom import Zoom

logger = logging.getLogger(__name__)

OURS = {"zoom": Zoom}
"""Name in a recipe → a class that is made with what the model sees and the options, and has a `tool`."""
INSTRUCTION = (
    "# Tools\n\nYou may call one tool at the end of a turn. These are known:\n<tools>\n{signatures}\n</tools>\n"
    "A call is a JSON object with the tool's name and its arguments, between <tool_call> and </tool_call>:\n"
    '<tool_call>\n{{"name": …, "arguments": {{…}}}}\n</tool_call>'
)
"""What the system prompt says of tools."""
REFUSED = "The call failed: {reason}."
"""What the model is told of a call that cannot be answered."""
BROKEN = "The tool failed."
"""And of a tool that raised, or did not come back."""
TURN = 32
"""Tokens of a tool's turn beside its picture: the template's, and a sentence."""


class Toolbox:
    """Tools that a conversation may use, and how long it may last."""

    def __init__(
        self, tools: Sequence[Tool], turns: TurnSection, marks: Collection[str] = (), sight: Sight | None = None
    ):
        """marks: texts that claim a picture, which no tool may give back. sight: what the model sees of pictures; None
        leaves it to its processor which it takes."""
        self.tools = {tool.name: tool for tool in tools}
        self.turns, self.marks, self.sight = turns, (calls.BEGIN, calls.END, TAG, *marks), sight
        self.told: set[str] = set()
        "Kinds of faults that the log names already."
        if len(self.tools) < len(tools):
            names = [tool.name for tool in tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise RecipeError(f"tools: two are called {twice!r}, and a call could mean either; leave one out")

    @classmethod
    def of(
        cls, sections: Sequence[ToolSection], turns: TurnSection, sight: Sight, family: Family | None = None
    ) -> Toolbox | None:
        """The recipe's; None where it names no tool. Raises: RecipeError, also for a model that cannot have any."""
        if sections and family is not None and not family.units:
            raise RecipeError(
                f"tools: {family.name}: which pictures of a batch belong to which conversation is not known of this "
                "model, so they could not go on; leave tools out, or take a family of docs/models.md"
            )
        if sections and sight.plain is not sight:
            raise RecipeError(
                "images.row_pixels with tools: what they show joins the pictures of the question, whose sizes are "
                "settled by then; leave one of the two out (zoom's own option max_pixels bounds its regions)"
            )
        marks = () if family is None else (family.placeholder, *family.unsayable, *family.frame)
        return cls([resolve(one, sight) for one in sections], turns, marks, sight) if sections else None

    def answer(self, text: str, context: Context, where: str) -> Result | None:
        """What answers a model's turn; None where it calls no tool. where: names the row in the log."""
        try:
            call = calls.read(text)
            if call is None:
                return None
            if call.name not in self.tools:
                raise ToolError(f"there is no tool {call.name[:80]!r}; {nearest(call.name[:80], self.tools)}")
            tool = self.tools[call.name]
        except (calls.BadCall, ToolError) as error:
            return refused(str(error))
        return self._called(tool, call.arguments, context, where)

    def _called(self, tool: Tool, arguments: Mapping[str, Any], context: Context, where: str) -> Result:
        try:
            found = timed(lambda: tool.call(arguments, context), self.turns.timeout)
            return self._checked(result_of(found, tool.name), tool)
        except ToolError as error:
            return refused(str(error))
        except (Overdue, Exception) as error:  # a user's code may raise anything; it costs its row the turn
            place, kind = raised(error, tool.call), f"{tool.name}: {type(error).__name__}"
            if kind not in self.told:
                self.told.add(kind)
                logger.warning(
                    "tool %s failed on %s: %s: %s%s; the row goes on without an answer to its call (further faults of "
                    "this kind are counted, and not said)",
                    tool.name, where, type(error).__name__, error, f" ({place})" if place else "",
                )  # fmt: skip
            return Result(BROKEN, fault=kind)

    def _checked(self, found: Result, tool: Tool) -> Result:
        """Raises: TypeError for what no turn can hold."""
        if held := [mark for mark in self.marks if mark in found.text]:
            raise TypeError(f"{tool.name} gave back a text with {held[0]} in it, which would claim a call or a picture")
        for one in found.pictures:
            try:
                seen(one.picture.size, self.sight)
            except ValueError as error:
                raise TypeError(f"{tool.name} gave back a picture that the model does not take: {error}") from None
        return found

    @property
    def zoom(self) -> Zoom | None:
        """The zoom, where it is among the tools."""
        found = [tool.call for tool in self.tools.values() if isinstance(tool.call, Zoom)]
        return found[0] if found else None

    def most_tokens(self, sight: Sight) -> int:
        """Tokens that the tools may add to one completion; a tool that does not say is taken for one that shows a
        picture."""
        largest = sight.bounds()[1]
        pictures = max(largest if tool.tokens is None else tool.tokens for tool in self.tools.values())
        return self.turns.limit * (pictures + TURN)


def instruction(sections: Sequence[ToolSection], turns: TurnSection) -> str:
    """The part of the system prompt that describes the tools; "" for none. Raises: RecipeError as `resolve`."""
    if not sections:
        return ""
    signatures = [OURS[one.use].SIGNATURE if one.use in OURS else _function(one).signature for one in sections]
    if turns.system is not None:
        return turns.system
    return INSTRUCTION.format(signatures="\n".join(json.dumps(dict(one), ensure_ascii=False) for one in signatures))


def zoom_of(sections: Sequence[ToolSection], sight: Sight) -> Zoom | None:
    """The zoom of a recipe's tools; None where it is not among them. Raises: RecipeError."""
    toolbox = Toolbox.of([one for one in sections if one.use == "zoom"][:1], TurnSection(), sight)
    return None if toolbox is None else toolbox.zoom


def refused(reason: str) -> Result:
    return Result(REFUSED.format(reason=reason), fault="refused")


def resolve(section: ToolSection, sight: Sight) -> Tool:
    """The tool that a recipe names. Raises: RecipeError."""
    spec, options = section.use, section.options
    if spec in OURS:
        known = inspect.signature(OURS[spec]).parameters.keys() - {"sight"}
        if unknown := sorted(options.keys() - known):
            raise RecipeError(f"tool {spec!r} has no option {unknown[0]!r}; {nearest(unknown[0], known)}")
        for name, value in options.items():
            if type(value) is not int:
                raise RecipeError(f"tool {spec!r}: option {name!r} is {value!r}; expected a whole number")
        return OURS[spec](sight, **options).tool
    return _function(section)


def _function(section: ToolSection) -> Tool:
    """A tool of the user's."""
    spec, options = section.use, section.options
    if ":" not in spec:
        raise RecipeError(f"unknown tool {spec!r}; {nearest(spec, OURS)}, or 'pkg.module:function', 'file.py:function'")
    found = imported(spec, "tool")
    if isinstance(found, Tool):
        if options:
            raise RecipeError(f"tool {spec!r} is made already, and takes no options; found {sorted(options)}")
        return found
    if not inspect.isfunction(found) and not isinstance(found, functools.partial):
        raise RecipeError(f"tool {spec!r} is {type(found).__name__}; expected a function, or a vlm.tools.tool.Tool")
    return of_function(found, spec, options)
