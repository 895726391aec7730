"""TRL's SFTTrainer, resumed exactly (`vlm.checkpoints`)."""

from __future__ import annotations

from typing import Any

import trl

from vlm.checkpoints.resumable import Resumable


class SFTTrainer(Resumable, trl.SFTTrainer):
    """A drop-in for TRL's. Overridden: what `Resumable` says; kept are TRL's sums until the next log and its count of
    tokens."""

    _tag_names = ["trl", "sft", "nadir"]

    def kept_state(self) -> dict[str, Any]:
        return {"metrics": dict(self._metrics["train"]), "tokens": self._total_train_tokens}

    def take_state(self, state: dict[str, Any]) -> None:
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        self._total_train_tokens = state["tokens"]
