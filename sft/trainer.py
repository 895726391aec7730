"""TRL's SFTTrainer, resumed exactly (`stage.checkpoints`), its steps guarded (`stage.guards`) and kept
(`stage.replay`)."""

from __future__ import annotations

from typing import Any

import trl

from stage.checkpoints.resumable import Resumable
from stage.guards.finite import FiniteSteps, Named
from stage.parallel.fsdp import FullySharded
from stage.trainer.orders import FlatOrder


class SFTTrainer(FiniteSteps, Resumable, FlatOrder, FullySharded, trl.SFTTrainer):
    """A drop-in for TRL's.

    Overridden: `__init__` (batches name their rows), `kept_state`, `take_state` (TRL's sums until the next log and its
    count of tokens); and what the bases say.
    """

    _tag_names = ["trl", "sft", "nadir"]

    def __init__(self, *positional: Any, **named: Any):
        super().__init__(*positional, **named)
        self.data_collator = Named(self.data_collator)

    def kept_state(self) -> dict[str, Any]:
        own = {"metrics": dict(self._metrics["train"]), "tokens": self._total_train_tokens}
        return super().kept_state() | own

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        self._total_train_tokens = state["tokens"]
