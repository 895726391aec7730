"""What a row teaches must reach the loss: rows that `training.max_length` cuts before it, and replies without a word.

TRL cuts a row on its right at `max_length` tokens. Where that is before the first reply the row has no label, and a
batch of such rows a loss of 0; where it is inside of a picture, transformers stops. Both are found here, before weights
load, as a fault of the row (`data.on_fault`). A row of which only the end is cut trains on what is left; it is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from samples import Sample
from samples.facts import zoomed
from samples.readers.rows import RowFault
from samples.rows import Spelled, spelled
from stage.planning import control
from stage.planning.lengths import ChatText, Unmeasured
from vlm import answers, families
from vlm.common.console import say
from vlm.common.errors import DataError
from vlm.pictures.images import size
from vlm.shapes import read_config, sight_of
from vlm.tools.toolbox import zoom_of

TEMPLATE = 32
"""More tokens than a template adds to a turn."""


class Teaching:
    """Checks rows one by one, and counts those whose end is cut."""

    def __init__(self, recipe: Any, fetch: bool = False):
        """recipe: of SFT. fetch: small files of a checkpoint on the hub."""
        self.recipe, self.limit, self.sight = recipe, recipe.argument("max_length"), sight_of(recipe)
        self.zoom = zoom_of(recipe.tools, self.sight)
        self.family = families.of(read_config(recipe.model.path, recipe.model.revision)[0])
        self.control = control.of_recipe(recipe, fetch)
        self.tally: Counter[str] = Counter()
        "Rows seen, those whose end is cut, and those that zoom more often than `turns.limit`: `rows`, `cut`, `deep`."
        self._text: ChatText | None = None
        if self.limit is not None:
            try:
                if not self.family.units:
                    raise Unmeasured("how many tokens a picture of this model has is not known")
                text = ChatText(recipe.model)
                text.render([{"role": "user", "content": "?"}], 0)  # it may call what transformers alone has
                self._text = text
            except Unmeasured as error:
                say(f"note: whether training.max_length = {self.limit} cuts rows is not known: {error}")

    @property
    def identity(self) -> str:
        recipe = self.recipe
        sections = [section.model_dump(mode="json") for section in (recipe.prompt, recipe.images, *recipe.tools)]
        if self._text is None:
            return json.dumps([self.control.identity, sections]) if recipe.tools else self.control.identity
        told = [recipe.prompt.tools, recipe.prompt.ask] if recipe.tools else []
        return json.dumps([self.control.identity, self.limit, self._text.identity, sections, *told])

    def __call__(self, sample: Sample) -> None:
        """Raises: RowFault."""
        self.control(sample)
        for number, turn in enumerate(sample.messages, 1):
            if turn["role"] == "assistant" and "zoom" not in turn and answers.blank(turn["content"]):
                raise RowFault("empty_reply", f"messages[{number}]", "an assistant turn without text", "what to learn")
        self.tally["rows"] += 1
        if len(zoomed(sample.messages)) > self.recipe.turns.limit:
            self.tally["deep"] += 1
        if self._text is None and not zoomed(sample.messages):
            return
        try:
            found = spelled(sample, self.recipe.prompt, self.sight, self.zoom)
        except DataError as error:
            raise RowFault("zoom", "messages", str(error), "regions that the tool shows") from error
        if self._text is not None:
            self._fits(sample, found, self._text)

    def _fits(self, sample: Sample, found: Spelled, chat: ChatText) -> None:
        turns = [*found.asked, *found.reply]
        most = self.sight.bounds()[1] + len(self.family.frame)
        least = sum(len(turn["content"].encode()) + TEMPLATE for turn in turns)  # a token has a byte or more
        if least + TEMPLATE + most * (len(sample.images) + len(found.crops)) <= self.limit:
            return
        try:
            visual = [self._visual(image, len(sample.images)) for image in sample.images]
            visual += [self.sight.tokens(crop) for crop in found.crops]
        except DataError:  # of a dry run without the pictures: a run's reader has refused such a row
            return
        text = chat.render(turns, len(visual), ask=False)
        cue = chat.render(turns, len(visual), ask=True).removeprefix(text)
        begun = len(text) - len(text.partition(cue)[2])
        said = next((turn["content"] for turn in turns if turn["role"] == "assistant"), "")
        begun += max(0, text[begun:].find(said))  # a template may set a reply off from its cue, which is not learned
        encoded = chat.tokenizer.encode(text, add_special_tokens=False)
        ends, shown = self._ends(encoded.tokens, visual)
        if shown > self.limit:
            raise RowFault("cut_picture", "images", f"pictures that end at token {shown}", self._said)
        first = encoded.char_to_token(begun)
        before = ends[-1] if first is None else ends[first - 1] if first else 0
        if before >= self.limit:
            raise RowFault("cut_reply", "messages", f"a reply that begins after {before} tokens", self._said)
        self.tally["cut"] += ends[-1] > self.limit

    def _visual(self, image: str | bytes, among: int) -> int:
        """Tokens of a picture; of sizes that are drawn the most."""
        drawn, sight = self.recipe.images.random_resize, self.sight.among(among)
        if drawn is not None:
            return sight.within(drawn.min_pixels, drawn.max_pixels).bounds()[1]
        return sight.tokens(size(image))

    @property
    def _said(self) -> str:
        return f"no more than training.max_length = {self.limit} (raise it, or write null, or lower images.max_pixels)"

    def _ends(self, tokens: list[str], visual: list[int]) -> tuple[list[int], int]:
        """Where each token of a text ends once pictures are written out, and where the last picture does (0: none)."""
        left, before, behind = iter(visual), len(self.family.frame[:1]), len(self.family.frame[1:])
        ends, end, shown = [], 0, 0
        for token in tokens:
            end += 1
            if token == self.family.placeholder:
                shown = end + before + next(left) - 1
                end = shown + behind
            ends.append(end)
        return ends, shown

    def tell(self) -> None:
        """Say how many rows lose their end."""
        if self.recipe.tools and (deep := self.tally["deep"]):
            say(
                f"data: {deep:,} of {self.tally['rows']:,} rows zoom more often than turns.limit = "
                f"{self.recipe.turns.limit}: they teach conversations that evaluation and GRPO would cut"
            )
        if cut := self.tally["cut"]:
            say(
                f"data: {cut:,} of {self.tally['rows']:,} rows are longer than training.max_length = {self.limit}: "
                "their replies are cut, so that the model does not learn to end them"
            )
