"""TRL's SFTTrainer, resumed exactly (`stage.checkpoints`), its steps guarded (`stage.guards`) and kept
(`stage.replay`)."""

from __future__ import annotations

from typing import Any

import torch
import trl

from sft import template
from stage.checkpoints.resumable import Resumable
from stage.guards.finite import FiniteSteps, Named
from stage.parallel.fsdp import FullySharded
from stage.trainer.orders import FlatOrder
from vlm.common.processes import processes
from vlm.prefix.pictures import blank_picture


class Seeing:
    """A data collator around TRL's. Among several processes a batch of text alone gets a blank picture behind its first
    row, which nothing attends to and no label follows: the vision tower has to run in every process, because ZeRO-3
    gathers its weights from all of them, and DDP waits for its gradients, which are 0."""

    def __init__(self, collator: Any, config: Any):
        self.collator, self.config = collator, config

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self.collator(rows)
        if processes() == 1 or "pixel_values" in batch:
            return batch
        first = {"input_ids": self.config.image_token_id, "attention_mask": 0, "mm_token_type_ids": 1, "labels": -100}
        for name, value in first.items():
            column = torch.full_like(batch[name][:, :1], -100 if name == "labels" else 0)
            column[0] = value
            batch[name] = torch.cat([batch[name], column], 1)
        batch.update(blank_picture(self.config))
        return batch


class SFTTrainer(FiniteSteps, Resumable, FlatOrder, FullySharded, trl.SFTTrainer):
    """A drop-in for TRL's.

    Overridden: `__init__` (batches name their rows and show a picture; `sft.template`), `kept_state`, `take_state`
    (TRL's sums until the next log and its count of tokens); and what the bases say.
    """

    _tag_names = ["trl", "sft", "nadir"]

    def __init__(self, *positional: Any, **named: Any):
        processor = named["processing_class"]
        own = processor.chat_template
        ours = template.marked(own)
        processor.chat_template = ours or own  # what TRL finds marked, it does not look up
        try:
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
