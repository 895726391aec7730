"""What a tool is told, what it gives back, and how a function becomes one.

    # my_tools.py, anywhere on disk; in the recipe: tools: [{use: my_tools.py:measure}]
    def measure(bbox: list[int], context) -> str:
        \"\"\"Measure a region of the picture.

        Args:
            bbox: its corners, [x1, y1, x2, y2].
        \"\"\"
        return f"{context.view().pixels(bbox)} in pixels of the original"

The parameters are what the model fills in, described by their annotations and the docstring; `context` (`Context`) is
not shown to it, and may be left out. What comes back is a text, a picture, or a list of both. ToolError (its text) is
for what the model did wrong; any other exception is a fault of the tool, and is named in the log. Both cost the row its
turn, no more. Options of the recipe are keyword arguments that the model does not see.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL.Image import Image

from vlm.boxes import convert, find
from vlm.boxes.frames import extent
from vlm.common.errors import RecipeError
from vlm.families import Sight
from vlm.pictures.resizing import header_size, seen

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2, y down."""


class ToolError(Exception):
    """The call cannot be answered; `str` says why and what was expected, to the model."""


class View(NamedTuple):
    """A picture that a conversation has shown."""

    image: str | bytes
    "The original that it was cut from: a path or encoded bytes, perhaps with how a raster is read."
    box: Box
    "What it shows of the original, in pixels of that."
    shown: tuple[int, int]
    "(width, height) at which the model saw it; of a picture that is not scaled, its own."
    frame: str
    "In which frame the model states places in it (`vlm.boxes.frames`)."
    number: int = 0
    "Of the question's picture that it comes from, from 0."

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) of what it shows, in pixels of the original."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def pixels(self, numbers: Sequence[float]) -> Box:
        """A box that the model stated in this picture, in pixels of the original; neither cut nor rounded.

        Exact for a region of a region, for each is kept in pixels of the original.
        """
        x1, y1, x2, y2 = convert(numbers, self.frame, "pixel", self.size, self.shown)  # type: ignore[arg-type]
        return (x1 + self.box[0], y1 + self.box[1], x2 + self.box[0], y2 + self.box[1])

    def stated(self, box: Sequence[float]) -> list[int]:
        """A box in pixels of the original as the model is to state it in this picture: whole numbers around it, cut to
        the picture."""
        inside = [value - self.box[n % 2] for n, value in enumerate(box)]
        numbers = convert(inside, "pixel", self.frame, self.size, self.shown)  # type: ignore[arg-type]
        outwards = [*(math.floor(low + 1e-6) for low in numbers[:2]), *(math.ceil(high - 1e-6) for high in numbers[2:])]
        return [min(max(value, 0), int(self.extent[n % 2])) for n, value in enumerate(outwards)]

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the picture in its frame."""
        return extent(self.frame, self.size, self.shown)


Size = tuple[int, int]


def view_of(
    image: str | bytes, size: Size, sight: Sight, notation: str, number: int, handed: Size | None = None
) -> View:
    """A picture of a question. size: its own, in pixels; sight: what the model sees of it. handed: the size at which
    the processor gets it, where that is drawn."""
    frame, given = find(notation).frame, handed or size
    return View(image, (0, 0, *size), seen(given, sight) or given, "pixel" if frame == "square" else frame, number)


def views_of(
    images: Sequence[str | bytes], sight: Sight, notation: str, handed: Sequence[Size] | None = None
) -> list[View]:
    """The pictures of a question, by the sizes in their headers. handed: of each, as in `view_of`."""
    sizes = [header_size(image) for image in images]
    both = enumerate(zip(images, sizes, handed or sizes, strict=True))
    return [view_of(image, size, sight, notation, number, given) for number, (image, size, given) in both]


@dataclass
class Context:
    """What a tool may know of the conversation that calls it."""

    views: list[View]
    "Pictures shown so far: the question's, then those that tools gave back and that are of an original."
    asked: int = 0
    "How many of them are the question's."
    columns: Mapping[str, Any] = field(default_factory=dict)
    "The row's columns, as rewards get them; for tools that look something up. Never the place for the true answer."

    def view(self, number: int | None = None) -> View:
        """A picture by its number, from 1 as the model counts; None: the one shown last. Raises: ToolError."""
        count = len(self.views)
        if not count:
            raise ToolError("the question has no picture")
        if number is None:
            if count == self.asked > 1:
                raise ToolError(f'there are {count} pictures; expected "image" to say which, from 1 to {count}')
            return self.views[-1]
        if type(number) is not int or not 1 <= number <= count:
            raise ToolError(f'found "image": {number!r}; expected a whole number from 1 to {count}')
        return self.views[number - 1]


@dataclass
class Shown:
    """A picture that a tool gives back."""

    picture: Image
    view: View | None = None
    "What it shows of an original; None of a picture that is no region of one."


@dataclass
class Result:
    """What a tool gives back: pictures, then a text."""

    text: str = ""
    pictures: list[Shown] = field(default_factory=list)
    fault: str | None = None
    "Why the call failed, where it did; `text` then tells the model."


@dataclass(frozen=True)
class Tool:
    """A tool as a conversation uses it."""

    name: str
    signature: Mapping[str, Any]
    "What the model is told of it, as JSON."
    call: Callable[[Mapping[str, Any], Context], Any]
    "(arguments, context) → what `result_of` takes. Raises: ToolError."
    tokens: int | None = None
    "Most visual tokens of what it gives back, where that is known."


def result_of(found: Any, name: str) -> Result:
    """What a function gave back, as a Result. Raises: TypeError for anything but texts and pictures."""
    if isinstance(found, Result):
        return found
    parts = found if isinstance(found, list | tuple) else [found]
    pictures = [part if isinstance(part, Shown) else Shown(part) for part in parts if isinstance(part, Shown | Image)]
    texts = [part for part in parts if isinstance(part, str)]
    if len(pictures) + len(texts) != len(parts) or not parts:
        raise TypeError(f"{name} gave back {type(found).__name__}; expected a text, a picture, or a list of both")
    return Result("\n".join(texts), pictures)


HIDDEN = "context"


def of_function(function: Callable[..., Any], spec: str, options: Mapping[str, Any]) -> Tool:
    """A tool of a function of the user's. Raises: RecipeError where it cannot be described to a model."""
    from transformers.utils.chat_template_utils import get_json_schema

    parameters = inspect.signature(function).parameters
    if unknown := sorted(options.keys() - parameters.keys() | options.keys() & {HIDDEN}):
        raise RecipeError(f"tool {spec!r} has no option {unknown[0]!r}; known: {', '.join(parameters) or 'none'}")
    shown = [one for name, one in parameters.items() if name != HIDDEN and name not in options]

    def described() -> None: ...

    described.__name__, described.__doc__ = function.__name__, function.__doc__
    described.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    try:
        hints = typing.get_type_hints(function)
        described.__annotations__ = {one.name: hints[one.name] for one in shown if one.name in hints}
        signature = get_json_schema(described)
    except Exception as cause:  # whatever its annotations hold
        raise RecipeError(
            f"tool {spec!r}: {function.__name__} cannot be described to a model ({cause}); expected a docstring with "
            "`Args:` that names each parameter, and an annotation of each, such as bbox: list[int]"
        ) from cause
    required = {one.name for one in shown if one.default is one.empty}

    def call(arguments: Mapping[str, Any], context: Context) -> Any:
        check_arguments(arguments, {one.name for one in shown}, required)
        own = {HIDDEN: context} if HIDDEN in parameters else {}
        return function(**arguments, **options, **own)

    return Tool(function.__name__, signature, call)


def check_arguments(arguments: Mapping[str, Any], known: set[str], required: set[str]) -> None:
    """Raises: ToolError for arguments that are missing, or unknown."""
    if missing := sorted(required - arguments.keys()):
        raise ToolError(f'the argument "{missing[0]}" is missing')
    if unknown := sorted(arguments.keys() - known):
        raise ToolError(f'found the argument "{unknown[0]}"; known are {", ".join(sorted(known))}')
