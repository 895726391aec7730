"""TRL's SFTTrainer, resumed exactly (`stage.checkpoints`), its steps guarded (`stage.guards`) and kept
(`stage.replay`)."""

from __future__ import annotations

from typing import Any

import trl

from sft import template
from stage.checkpoints.resumable import Resumable
from stage.guards.finite import FiniteSteps, Named
from stage.parallel.fsdp import FullySharded
from stage.trainer.orders import FlatOrder
from vlm.adapters import float32_adapters
from vlm.prefix.media import shown_in_all


class Seeing:
    """A data collator around TRL's: among several processes a batch of text alone shows a blank picture
    (`shown_in_all`)."""

    def __init__(self, collator: Any, config: Any):
        self.collator, self.config = collator, config

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        return shown_in_all(self.collator(rows), self.config)


class SFTTrainer(FiniteSteps, Resumable, FlatOrder, FullySharded, trl.SFTTrainer):
    """A drop-in for TRL's.

    Overridden: `__init__` (batches name their rows and show a picture; `sft.template`), `kept_state`, `take_state`
    (TRL's sums until the next log and its count of tokens); and what the bases say.
    """

    _tag_names = ["trl", "sft", "nadir"]

    def __init__(self, *positional: Any, **named: Any):
        processor = named["processing_class"]
        own = processor.chat_template
        ours = template.marked(processor)
        processor.chat_template = ours or own  # what TRL finds marked, it does not look up
        try:
            with float32_adapters(positional[0]):
                super().__init__(*positional, **named)
        finally:
            processor.chat_template = own  # this is saved
        if ours:
            self.chat_template = self.data_collator.chat_template = ours
        self.data_collator = Named(Seeing(self.data_collator, self.model.config))

    def kept_state(self) -> dict[str, Any]:
        own = {"metrics": dict(self._metrics["train"]), "tokens": self._total_train_tokens}
        return super().kept_state() | own

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        self._total_train_tokens = state["tokens"]
