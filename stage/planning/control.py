"""Control tokens of the model's own vocabulary in texts of the data, found before weights load.

A tokenizer takes `<|im_end|>` or `</s>` in a question for the end of the turn, so that a row can forge turns, and
`<|image_pad|>` or `<IMG_CONTEXT>` for a picture that is not there, which ends the run hours later. The vocabulary is
the checkpoint's, so the reader of the data cannot know it: the stage hands `ControlTokens` to it, and such a row is a
fault like any.

With them, because every stage asks it of every row by the same way: rows whose pictures have no room in the budget that
they share (`images.row_pixels`, `vlm.pictures.budget`), and rows whose boxes or mask would be written in pixels of the
picture as the model sees it, where the model sees none of a size that is known: no answer to them could be read.

What passes: tokens that are plain marks of a text (`<think>`, `<tool_call>`; in `tokenizer.json` they are not special),
and the marks of a box notation (`<|box_start|>`, `<box>`, `<|begin_of_box|>`) where it is the recipe's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from samples import Sample
from samples.facts import PLACES
from samples.readers.rows import RowFault, show
from vlm.boxes import NOTATIONS, find
from vlm.common.console import say
from vlm.common.errors import DataError, RecipeError
from vlm.families import Sight
from vlm.loading import at_hand, fetched_quietly, read_json
from vlm.masks import FORMS
from vlm.pictures.budget import Crowded
from vlm.pictures.places import TAG
from vlm.pictures.resizing import header_size
from vlm.shapes import sight_of

MARKS = tuple(mark for notation in NOTATIONS.values() for mark in notation.marks)
"""Special tokens of all notations, which are text like any other there."""
_BARRED = re.compile(r"<\|.+\|>")


class ControlTokens:
    """The tokens that no text of the data may spell out."""

    def __init__(self, tokens: Iterable[str]):
        self.tokens = frozenset(tokens)
        found = sorted(map(re.escape, self.tokens), key=len, reverse=True)
        self._any = re.compile("|".join(found)) if found else None
        self._start = _common_start(self.tokens)
        self._sight: Sight | None = None
        self._counting: tuple[Sight, str, str] | None = None

    def beside(self, recipe: Any) -> ControlTokens:
        """The same, which refuses rows beyond the recipe's `images.row_pixels`, too, and those that nobody could read
        an answer of."""
        asked, shares = getattr(recipe, "prompt", None), recipe.images.row_pixels is not None
        settled = asked if asked is not None and asked.notation in NOTATIONS else None
        if shares or settled is not None:
            sight = sight_of(recipe)
            self._sight = sight if shares else None
            self._counting = None if settled is None else (sight, settled.notation, settled.masks)
        return self

    def readable(self, sample: Sample) -> None:
        """Raises: RowFault for a row whose answer counts pixels that nobody knows."""
        if self._counting is None or sample.task not in PLACES or sample.size is None:
            return
        sight, notation, form = self._counting
        if sample.task == "segmentation":
            written, counts = f"the mask form {form}", FORMS[form].resized
        else:
            own = sample.written or notation
            written, counts = f"the notation {own}", find(own).frame == "resized"
        try:
            if not counts or sight.among(len(sample.images)).seen(sample.size) is not None:
                return
        except ValueError:  # a strip, of which others tell
            return
        key = "prompt.masks" if sample.task == "segmentation" else "prompt.notation"
        found = f"{sample.task} in {written}, which counts pixels of the picture as the model sees it"
        raise RowFault("unscaled", "task", found, f"another {key}: {sight.text()}")

    def fits(self, images: Sequence[str | bytes]) -> None:
        """Raises: RowFault for pictures that have no room. Files that are not here, as in a dry run, only count."""
        if self._sight is None:
            return
        try:
            part = self._sight.among(len(images))
            for image in images:
                if (size := _size(image)) is not None:
                    part.seen(size)
        except Crowded as error:
            found = f"{len(images)} picture{'s' * (len(images) > 1)}"
            raise RowFault("row_pixels", "images", found, f"what a row has room for: {error}") from error

    def inside(self, text: str) -> str | None:
        """The first of them in a text."""
        if self._any is None or self._start not in text:
            return None
        found = self._any.search(text)
        return None if found is None else found[0]

    def refuse(self, texts: Iterable[tuple[str, str]]) -> None:
        """texts: (field, text). Raises: RowFault naming field and token."""
        for field, text in texts:
            if (token := self.inside(text)) is not None:
                found = f"the control token {token!r} in {show(text)}"
                raise RowFault("control_token", field, found, "text alone: the model would read the token as its own")

    @property
    def identity(self) -> str:
        room: tuple[str, ...] = () if self._sight is None else (self._sight.text(),)
        if self._counting is not None:
            sight, *how = self._counting
            room += (sight.text(), *how)
        return "\0".join((*sorted(self.tokens), *room))

    def __call__(self, sample: Sample) -> None:
        """Raises: RowFault where a text that is asked, or to be learned, spells one out, and as `fits`, `readable`."""
        self.fits(sample.images)
        self.readable(sample)
        # LLaVA's own token for a picture is spelled as a place in our texts
        texts = [
            (f"messages[{number}]", turn["content"].replace(TAG, "")) for number, turn in enumerate(sample.messages, 1)
        ]
        texts += [("choices", choice) for choice in sample.choices or ()]
        texts += [("classes", name) for name in sample.classes or ()]  # labels are some of them
        texts += [("dates", date) for date in sample.dates or ()]  # a prompt names pictures by them
        if sample.answer is not None:
            texts.append(("answer", sample.answer))
        self.refuse(texts)


def _size(image: str | bytes) -> tuple[int, int] | None:
    try:
        return header_size(image)
    except DataError:
        return None


def _common_start(tokens: frozenset[str]) -> str:
    """What all of them begin with: texts without it need no search."""
    first, last = min(tokens, default=""), max(tokens, default="")
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def forbidden(tokenizer: dict[str, Any], notation: str | None) -> set[str]:
    """Of a `tokenizer.json`: its special tokens, and added ones that are written like them, but for what may pass.

    notation: whose marks pass; None for texts in any notation.
    """
    added = [one for one in tokenizer.get("added_tokens") or () if isinstance(one.get("content"), str)]
    found = {one["content"] for one in added if one.get("special") or _BARRED.fullmatch(one["content"])}
    return found - {"", *(MARKS if notation is None else find(notation).marks)}


def tokens_of(model: Any, notation: str | None, fetch: bool = False) -> ControlTokens:
    """Those of a checkpoint. model: a section with `path` and `revision`. fetch: from the hub, where it is not here.

    Where there is no tokenizer.json, it says so and finds none. Raises: RecipeError for a broken one.
    """
    file: Path | None = None
    if model.path:
        file = at_hand(model.path, "tokenizer.json", model.revision)
        if file is None and fetch:
            file = fetched_quietly(model.path, "tokenizer.json", model.revision)
    if file is None:
        say(f"note: control tokens in texts are not looked for: {model.path} has no tokenizer.json here")
        return ControlTokens(())
    return ControlTokens(forbidden(read_json(file), notation))


def of_recipe(recipe: Any, fetch: bool = False) -> ControlTokens:
    """Those of the model of a recipe that asks questions (SFT, GRPO, evaluation, best-of-N).

    Raises: RecipeError where the recipe's own words hold one.
    """
    asked = recipe.prompt
    found = tokens_of(recipe.model, asked.notation, fetch)
    texts = {"system": asked.system or ""} | {f"wording.{task}": text for task, text in asked.wording.items()}
    for key, text in texts.items():
        if (token := found.inside(text)) is not None:
            raise RecipeError(
                f"prompt.{key}: found the control token {token!r} in {show(text)}; expected text alone: the model "
                "would read the token as its own"
            )
    return found.beside(recipe)
