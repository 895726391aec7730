"""How long the longest texts of the data are in tokens, by the checkpoint's own tokenizer and chat template.

Neither transformers nor a network is needed: `tokenizer.json` is read by `tokenizers`, the template is rendered by
jinja2 in a sandbox, both from the model's folder or the hub cache. Only the TOKENISED longest texts by characters are
counted, so that 100,000 rows take seconds; a shorter text of more tokens than all of them would be missed.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from samples import Sample
from samples.fingerprints import of_file
from samples.rows import spelled
from stage.planning.job import Job
from vlm import prompts
from vlm.common.console import say
from vlm.common.errors import RecipeError
from vlm.loading import at_hand, read_json
from vlm.pictures.places import blocks
from vlm.sections import ModelSection
from vlm.shapes import family_here, sight_of
from vlm.tools.toolbox import zoom_of
from vlm.tools.zoom import Zoom

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENISED = 64
CHARACTERS = 4
"""Of a text that take as much room as one visual token, in finding the longest rows."""
TEMPLATES = ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")
"""Where a checkpoint's chat template may stand; transformers' processor takes the first of them."""

Turns = list[dict[str, str]]


class Unmeasured(Exception):
    """Why no text can be measured."""


class Lengths:
    """Sees the rows of the data, remembers the longest, and measures these."""

    def __init__(self, recipe: Any, answers: bool = False):
        """recipe: a training recipe with `model`, `prompt` and `images`. answers: what the rows teach counts (SFT), or
        what is scored."""
        self.recipe, self.answers = recipe, answers
        self.sight = sight_of(recipe) if answers else None
        self.rows = self.images = 0
        self._longest: dict[str, list[tuple[int, int, Turns, Turns, int, tuple[int, ...]]]]
        self._longest = {"prompt": [], "answer": []}
        "By what is measured, a heap of (characters, row number, prompt, answer, images, visual tokens of the answer)."

    def see(self, sample: Sample) -> None:
        if not self.answers:
            self.note(prompts.asked(sample, self.recipe.prompt), [], len(sample.images))
            return
        assert self.sight is not None
        found = spelled(sample, self.recipe.prompt, self.sight, self._zoom)
        own = found.crops[found.shown - len(sample.images) :]
        self.note(found.asked, found.reply, found.shown, [self.sight.tokens(crop) for crop in own])

    @cached_property
    def _zoom(self) -> Zoom | None:
        assert self.sight is not None
        return zoom_of(self.recipe.tools, self.sight)

    def note(self, turns: Turns, reply: Turns, images: int, crops: Sequence[int] = ()) -> None:
        """One row: what is asked, what is replied if it counts, how many pictures the question shows, and the visual
        tokens of those in the reply, which are planned as its own."""
        self.rows, self.images = self.rows + 1, max(self.images, images)
        for name, text in (("prompt", turns), ("answer", reply)):
            size = sum(len(one["content"]) for one in text) + (CHARACTERS * sum(crops) if text is reply else 0)
            heap, row = self._longest[name], (size, self.rows, turns, reply, images, tuple(crops))
            if text and len(heap) < TOKENISED:
                heapq.heappush(heap, row)
            elif text and row > heap[0]:
                heapq.heapreplace(heap, row)

    def measure(self, unread: bool) -> tuple[dict[str, int], str]:
        """(fields of a `Job`, what the plan says of them). unread: some rows of the data are not here.

        Where texts cannot be measured the assumptions of `Job` stand, and where rows are not here these are the least.
        Raises: RecipeError for a broken tokenizer.json.
        """
        found = {} if unread and not self.rows else {"images_per_sample": max(self.images, int(unread))}
        assumed = {"prompt_tokens": Job.prompt_tokens}
        if self.answers:
            assumed["completion_tokens"] = Job.completion_tokens
        named = dict(zip(assumed, ("prompt text", "answer"), strict=False))
        try:
            texts = self._tokens()
        except Unmeasured as error:
            said = " and ".join(f"{tokens} tokens of {named[key]}" for key, tokens in assumed.items())
            return found, f"text lengths are not measured ({error}): {said} are assumed"
        measured = dict(zip(assumed, texts, strict=False))
        said = ", ".join(f"longest {named[key]}: {tokens} tokens" for key, tokens in measured.items())
        said += f" (of {self.rows:,} rows)"
        if unread:
            measured = {key: max(tokens, assumed[key]) for key, tokens in measured.items()}
            least = ", ".join(str(tokens) for tokens in assumed.values())
            said += f"; other rows are not here, so no less than {least} is planned"
        return found | measured, said

    def _tokens(self) -> list[int]:
        """Of the longest prompt, and of the longest answer, the template's tokens after it included."""
        if not self.rows:
            raise Unmeasured("no row is here")
        if self.answers and not self._longest["answer"]:
            raise Unmeasured("no row has an answer")
        text = ChatText(self.recipe.model)
        found = [max(text.tokens(turns, images) for _, _, turns, _, images, _ in self._longest["prompt"])]
        answers = [
            text.tokens([*turns, *reply], images + len(crops), ask=False) - text.tokens(turns, images) + sum(crops)
            for _, _, turns, reply, images, crops in self._longest["answer"]
        ]
        return found + ([max(answers)] if answers else [])


class ChatText:
    """The tokenizer and chat template of a checkpoint. Raises Unmeasured where they are not at hand."""

    def __init__(self, model: ModelSection, template: str | None = None):
        """template: another than the checkpoint's own."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        file = at_hand(model.path, "tokenizer.json", model.revision)
        if file is None:
            raise Unmeasured(f"{model.path} has no tokenizer.json here")
        self._file = file
        # transformers' blocks around what is learnt print what stands in them
        family = family_here((model.path,), model.revision)
        found = template or template_of(model)
        found = (family and family.template(found)) or found
        plain = re.sub(r"(\{%[-+]?\s*)generation\b", r"\1if true", found)
        plain = re.sub(r"(\{%[-+]?\s*)endgeneration\b", r"\1endif", plain)
        self._plain = plain
        loops = ["jinja2.ext.loopcontrols"]
        world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=loops)  # as transformers
        try:
            self.template = world.from_string(plain)
        except TemplateError as error:
            raise Unmeasured(f"the chat template of {model.path} is not understood: {error}") from error

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Read when it is needed: a file of 7 MB. Raises: RecipeError where it is broken."""
        from tokenizers import Tokenizer

        try:
            found = Tokenizer.from_file(str(self._file))
        except Exception as error:  # tokenizers raises nothing more special
            raise RecipeError(f"model.path: {self._file} cannot be read: {error}; expected a tokenizer") from error
        found.no_truncation()
        return found

    @property
    def identity(self) -> str:
        """Changes with the tokenizer and the template."""
        return hashlib.sha256(f"{of_file(self._file)}\0{self._plain}".encode()).hexdigest()

    def tokens(self, turns: Turns, images: int, ask: bool = True) -> int:
        """Tokens of a conversation's text; pictures count with the tokens around them.

        ask: the assistant's turn is opened, as for generation.
        """
        text = self.render(turns, images, ask)
        return len(self.tokenizer.encode(text, add_special_tokens=False)) - images

    def render(self, turns: Turns, images: int, ask: bool = True) -> str:
        """The text that the model reads, with one placeholder for each picture."""
        try:
            return self.template.render(messages=blocks(turns, images), add_generation_prompt=ask)
        except Exception as error:  # a template is a program of the checkpoint's author
            raise Unmeasured(f"the chat template cannot be rendered: {type(error).__name__}: {error}") from error


def say_opened(recipe: Any) -> None:
    """Say so where the chat template begins the trace itself: no completion can have both tags then."""
    turn = [{"role": "user", "content": "?"}]
    try:
        text = ChatText(recipe.model)
        cue = text.render(turn, 0, ask=True).removeprefix(text.render(turn, 0, ask=False))
    except Unmeasured:  # a dry run of a checkpoint that is not here
        return
    if "<think>" in cue and recipe.prompt.style == "r1":
        say(
            f"note: the chat template of {recipe.model.path} opens each reply by itself with {cue!r}: completions lack "
            "<think>, so the rewards format and gated are 0 for all of them; take it out of the template's "
            "add_generation_prompt, or write prompt.style: direct"
        )


def template_of(model: ModelSection) -> str:
    """The chat template of a checkpoint. Raises Unmeasured where it has none here."""
    for name in TEMPLATES:
        file = at_hand(model.path, name, model.revision)
        if file is None:
            continue
        found = file.read_text(encoding="utf-8") if name.endswith(".jinja") else read_json(file).get("chat_template")
        if isinstance(found, str):
            return found
    raise Unmeasured(f"{model.path} has no chat template here")
