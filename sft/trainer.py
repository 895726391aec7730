"""TRL's SFTTrainer, resumed exactly (`vlm.checkpoints`), with steps that can be computed again (`vlm.dumps`)."""

from __future__ import annotations

from typing import Any

import trl

from vlm.checkpoints.resumable import Resumable
from vlm.dumps import Dumping


class SFTTrainer(Dumping, Resumable, trl.SFTTrainer):
    """A drop-in for TRL's. Overridden: what `Resumable` and `Dumping` say; kept are TRL's sums until the next log and
    its count of tokens."""

    _tag_names = ["trl", "sft", "nadir"]

    def kept_state(self) -> dict[str, Any]:
        return {"metrics": dict(self._metrics["train"]), "tokens": self._total_train_tokens}

    def take_state(self, state: dict[str, Any]) -> None:
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        self._total_train_tokens = state["tokens"]
