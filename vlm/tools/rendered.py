"""A tool's turn as the ids that stand between two turns of the model, with its pictures prepared.

What a chat template writes between two turns of an assistant is found by writing a conversation with a mark in the
assistant's place: what follows the mark, but for the end token that the model has sampled itself. A tool speaks as a
user, as in RSCoVLM.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from PIL.Image import Image

from vlm.common.errors import RecipeError, UserError
from vlm.prefix import media
from vlm.tools import calls
from vlm.tools.dialogue import Turn

MARK = "(the model's turn)"


class Rendered(NamedTuple):
    ids: list[int]
    "From behind the token that ended the model's turn, to where the model speaks again."
    media: dict[str, Any]
    "Keywords of the turn's pictures (`vlm.prefix.media`)."
    pictures: list[Image]


class Renderer:
    """Writes tools' turns for one processor; it does not matter what is put before its image processor later."""

    def __init__(self, processor: Any):
        """Raises: RecipeError for a tokenizer whose texts lack what marks a call."""
        self.processor = copy.copy(processor)
        if hidden := {calls.BEGIN, calls.END} & set(processor.tokenizer.all_special_tokens):
            raise RecipeError(
                f"tools: {sorted(hidden)[0]} is a special token of this checkpoint, which answers are read without, so "
                "that no call would be found; expected a plain token (tokenizer_config.json, added_tokens_decoder: "
                '"special": false)'
            )

    def __call__(self, turn: Turn, end: int) -> Rendered:
        """turn: of a tool. end: the token that ended the model's turn before it.

        Raises: UserError where the template leaves pictures out.
        """
        text = self.text(turn)
        pictures = [one.picture for one in turn.pictures]
        processor = self.processor
        if pictures:
            found = processor(text=[text], images=[pictures], add_special_tokens=False, return_tensors="pt")
            ids, units = found["input_ids"][0].tolist(), media.of(found)
        else:
            ids, units = processor.tokenizer(text, add_special_tokens=False)["input_ids"], {}
        if (processor.image_token_id in ids) != bool(pictures):
            raise UserError(
                f"a tool's turn with {len(pictures)} pictures became {text[:200]!r}: the chat template leaves pictures "
                "out, or writes some that are not there"
            )
        return Rendered(_behind(ids, end), units, pictures)

    def unexpanded(self, turn: Turn, end: int) -> list[int]:
        """The ids alone, with one placeholder a picture."""
        return _behind(self.processor.tokenizer(self.text(turn), add_special_tokens=False)["input_ids"], end)

    def text(self, turn: Turn) -> str:
        """What the template writes behind the model's words: their end, the tool's turn, and the model's cue."""
        asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        said = {"role": "assistant", "content": [{"type": "text", "text": MARK}]}
        turns = [asked, said, {"role": "user", "content": turn.content}]
        written = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        before, mark, behind = written.partition(MARK)
        if not mark:
            raise UserError(f"model.path: the chat template leaves out what the assistant says: {before!r}")
        return behind


def _behind(ids: list[int], end: int) -> list[int]:
    return ids[1:] if ids and ids[0] == end else ids
