"""Models that say what a test wants, token by token, and are free where it wants nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor

from vlm.prefix.rollout import processing, unwrapped

Script = Callable[[str, int], str | None]
"""(the row's text so far, number of the model's turn from 0) → what it says, to its end; None leaves it free."""
FREE = 12
"""Tokens that a free turn has at most."""


class Scripted(LogitsProcessor):
    def __init__(self, processor: Any, script: Script, end: int, free: int | None):
        self.tokenizer, self.script, self.end, self.free = processor.tokenizer, script, end, free
        asked = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        bare, headed = (
            processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=more) for more in (False, True)
        )
        self.head = self.tokenizer(headed.removeprefix(bare).strip(" "), add_special_tokens=False)["input_ids"]

    def __call__(self, input_ids, scores):
        for place, row in enumerate(input_ids.tolist()):
            size = len(self.head)
            heads = [at for at in range(len(row) - size + 1) if row[at : at + size] == self.head]
            wanted = self.script(self.tokenizer.decode(row), len(heads) - 1)
            new = len(row) - heads[-1] - size
            if wanted is not None or (self.free is not None and new >= self.free):
                tokens = [] if wanted is None else self.tokenizer(wanted, add_special_tokens=False)["input_ids"]
                token = [*tokens, self.end][min(new, len(tokens))]
                scores[place] = torch.full_like(scores[place], -torch.inf)
                scores[place, token] = 0.0
        return scores


def scripted(model: Any, processor: Any, script: Script, free: int | None = FREE) -> Any:
    """The model, which says so from now on. free: tokens that a free turn has at most; None: as many as it likes."""
    base = unwrapped(model)
    end = torch.tensor(base.generation_config.eos_token_id).reshape(-1).tolist()[0]
    vars(base).pop("_get_logits_processor", None)
    base._get_logits_processor = processing(base, lambda found: [*found, Scripted(processor, script, end, free)])
    return model
