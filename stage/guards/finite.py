"""`FiniteSteps`: an optimiser step whose loss or gradient is NaN or infinite does not happen.

    class SFTTrainer(FiniteSteps, Resumable, trl.SFTTrainer): ...

Weights, the optimiser's state and the learning rate's schedule stay as they were. What goes on: the number of the step,
the position in the data (the batch is not tried again), random states, GRPO's rollouts.

All processes agree without asking each other: a loss that is not finite is multiplied by NaN in the process that has
it, so that its gradient is NaN, and so is every gradient that is summed with it. The norm of the summed gradient is
then not finite in any process. (A finite loss is multiplied by 1, which changes no bit.)

    plain, DDP, FSDP    the gradients are dropped before the optimiser sees them, and accelerate is told that the step
                        was skipped, as after an overflow in float16: it leaves the schedule alone
    DeepSpeed           has taken its step in the backward pass. 0.19.8 itself skips where the norm of the gradient is
                        not finite: ZeRO-1 and 2 in bfloat16 by `bf16.check_grad_overflow` (on by default), otherwise
                        by the norm, ZeRO-3 always by the norm; it then says that the norm is inf
    float16             an overflow is how a loss scale above 1 is found, and no fault, unless the loss itself is it
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch

from stage.checkpoints import manifest
from stage.guards import gpu_memory
from stage.parallel.agreement import anywhere
from stage.parallel.fsdp import part
from stage.recipe.sections import GuardSection
from stage.replay.dumps import ROWS, Dumping
from vlm.common.errors import UserError
from vlm.pictures.unreadable import row_name

logger = logging.getLogger(__name__)

REASON = "not finite"
"""Of a dump."""
SHOWN = 8
"""Names in a message."""


class NonFinite(UserError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class FiniteSteps(Dumping):
    """Stands before a transformers Trainer among the bases.

    Overridden: `_get_grad_norm`, `log`; `observed` of `Dumping`, which holds the step's micro-batches; `kept_state` and
    `take_state` of `Resumable`.

    Logged: `guards/skipped_steps`, how many steps of the run have been skipped so far; and the peaks of GPU memory.
    """

    guards = GuardSection()
    skipped = 0
    "Steps in all."
    _in_a_row = 0
    _told_to_skip = False

    def observed(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch in training, with a gradient of NaN where it is not finite."""
        loss = super().observed(loss)
        one = torch.ones_like(loss)
        return loss * torch.where(loss.detach().isfinite(), one, one * math.nan)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self._told_to_skip:
            self.optimizer._is_overflow = self._told_to_skip = False
        if math.isfinite(float(norm)):
            self._in_a_row = 0
        elif not self._finds_its_scale():
            self._skip(model, float(norm))
        return norm

    def _finds_its_scale(self) -> bool:
        """Whether this is an overflow that the loss scale of float16 answers. Collective."""
        if not self.args.fp16:
            return False
        if anywhere(not all(entry["loss"].isfinite() for entry in self._window), self.args.device):
            return False
        if self.is_deepspeed_enabled:
            return self.model_wrapped.optimizer.loss_scale > 1
        return self.accelerator.scaler.get_scale() > 1

    def _skip(self, model, norm: float) -> None:
        self.skipped += 1
        self._in_a_row += 1
        step, losses = self.state.global_step + 1, [entry["loss"].item() for entry in self._window]
        rows = [name for entry in self._window for name in entry["rows"]]
        parts = []  # DeepSpeed has cleared them
        if not self.is_deepspeed_enabled:
            grads = {name: part(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None}
            parts = [name for name, grad in grads.items() if not grad.isfinite().all()]
            model.zero_grad()
            self.optimizer._is_overflow = self._told_to_skip = True
        facts = {"loss": list(map(str, losses)), "grad_norm": str(norm), "rows": rows, "parameters": parts}
        told = (
            f"step {step}: loss {', '.join(f'{loss:.4g}' for loss in losses)}, gradient norm {norm}"
            f"{f', first in {parts[0]} ({len(parts)} parameters)' if parts else ''}; rows: {_listed(rows)}; "
            f"{self._kept(facts)}"
        )
        if self._in_a_row <= self.guards.skip:
            logger.warning("%s. The step is skipped: weights, optimiser and schedule stay as they were", told)
            return
        raise NonFinite(self._last_words(told))

    def _kept(self, facts: dict[str, Any]) -> str:
        """Dump the step, if there are not enough yet; returns what to say about it."""
        if self.skipped > self.guards.dumps:
            return f"not dumped (guards.dumps is {self.guards.dumps})"
        if self.dumps.weights:
            self.dump_weights()  # they are those from before the step
        folder = self.dump(REASON, facts)
        return f"dumped to {folder}" if folder else "not dumped"

    def _last_words(self, told: str) -> str:
        last = manifest.latest(Path(self.args.output_dir))
        kept = f"the last checkpoint is {last.path}" if last else "there is no checkpoint yet (training.save_strategy)"
        start = f"model.path={last.path} in a new output" if last else "a new output"
        several = f"{self._in_a_row} steps one after another have" if self._in_a_row > 1 else "a step has"
        return (
            f"{several} a loss or gradient that is not finite (guards.skip is {self.guards.skip}). The last: {told}. "
            f"No weight was changed by them; {kept}. Look at the rows and the dump. resume=auto continues with this "
            "recipe, and meets the same rows again; a smaller learning_rate or max_grad_norm, or bfloat16 instead of "
            f"float16, is another recipe: {start}"
        )

    def log(self, logs, start_time=None):
        if self.model.training and "loss" in logs:
            logs = {**logs, "guards/skipped_steps": self.skipped, **gpu_memory.peaks()}
        super().log(logs, start_time)

    def kept_state(self) -> dict[str, Any]:
        return super().kept_state() | {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        self.skipped, self._in_a_row = state["skipped"], state["in_a_row"]


class Named:
    """A data collator around another one, whose batches tell which rows they are made of (`ROWS`)."""

    def __init__(self, collator: Any):
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        batch[ROWS] = [row_name(row) for row in rows]
        return batch


def _listed(rows: list[str]) -> str:
    different = list(dict.fromkeys(rows))
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return ", ".join(different[:SHOWN]) + more if rows else "not known"
