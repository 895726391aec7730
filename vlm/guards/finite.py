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

from vlm.checkpoints import manifest
from vlm.errors import UserError
from vlm.fsdp import part
from vlm.guards import dumps
from vlm.guards.sections import GuardSection
from vlm.unreadable import row_name

logger = logging.getLogger(__name__)

FOLDER = "nonfinite"
ROWS = "row_names"
"""Key of a batch: which rows of the data it is made of, as texts."""
SHOWN = 8
"""Names in a message."""


class NonFinite(UserError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class FiniteSteps:
    """Stands before a transformers Trainer among the bases.

    Overridden: `compute_loss` (a subclass with one of its own calls `observed` instead), `_get_grad_norm`, `log`;
    `kept_state` and `take_state` of `Resumable`.

    Logged: `guards/skipped_steps`, how many steps of the run have been skipped so far.
    """

    guards = GuardSection()
    skipped = 0
    "Steps in all."
    _in_a_row = 0
    _told_to_skip = False
    _batches: list[tuple[dict[str, Any], torch.Tensor]] | tuple = ()
    "(batch, loss) of each micro-batch since the last step; Trainer holds the batches anyway."

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        names = inputs.get(ROWS)
        given = {key: value for key, value in inputs.items() if key != ROWS} if names else inputs
        found = super().compute_loss(model, given, return_outputs, num_items_in_batch)
        if not model.training:
            return found
        if return_outputs:
            return self.observed(inputs, found[0]), found[1]
        return self.observed(inputs, found)

    def observed(self, inputs: dict[str, Any], loss: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch in training, with a gradient of NaN where it is not finite."""
        self._batches = [*self._batches, (inputs, loss.detach())]
        one = torch.ones_like(loss)
        return loss * torch.where(loss.detach().isfinite(), one, one * math.nan)

    def as_dumped(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch as `vlm.guards.dumps.write` takes it."""
        return dict(inputs)

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        batches, self._batches = self._batches, ()
        if self._told_to_skip:
            self.optimizer._is_overflow = self._told_to_skip = False
        if math.isfinite(float(norm)):
            self._in_a_row = 0
        elif not self._finds_its_scale(batches):
            self._skip(model, float(norm), batches)
        return norm

    def _finds_its_scale(self, batches) -> bool:
        """Whether this is an overflow that the loss scale of float16 answers."""
        if not self.args.fp16 or not all(loss.isfinite() for _, loss in batches):
            return False
        if self.is_deepspeed_enabled:
            return self.model_wrapped.optimizer.loss_scale > 1
        return self.accelerator.scaler.get_scale() > 1

    def _skip(self, model, norm: float, batches) -> None:
        self.skipped += 1
        self._in_a_row += 1
        losses = [loss.item() for _, loss in batches]
        rows = [name for batch, _ in batches for name in batch.get(ROWS) or ()]
        parts = []  # DeepSpeed has cleared them
        if not self.is_deepspeed_enabled:
            grads = {name: part(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None}
            parts = [name for name, grad in grads.items() if not grad.isfinite().all()]
            model.zero_grad()
            self.optimizer._is_overflow = self._told_to_skip = True
        step = self.state.global_step + 1
        facts = {
            "step": step, "rank": self.args.process_index, "loss": list(map(str, losses)), "grad_norm": str(norm),
            "rows": rows, "parameters": parts, "weights": f"as after step {step - self._in_a_row}",
        }  # fmt: skip
        dump = self._dump(step, facts, batches)
        told = (
            f"step {step}: loss {', '.join(f'{loss:.4g}' for loss in losses)}, gradient norm {norm}"
            f"{f', first in {parts[0]} ({len(parts)} parameters)' if parts else ''}; rows: {_listed(rows)}; {dump}"
        )
        if self._in_a_row <= self.guards.skip:
            logger.warning("%s. The step is skipped: weights, optimiser and schedule stay as they were", told)
            return
        raise NonFinite(self._last_words(told))

    def _dump(self, step: int, facts: dict[str, Any], batches) -> str:
        """Write the batches of this process, if there are not enough dumps yet; returns what to say about it."""
        folder = Path(self.args.output_dir) / FOLDER
        path = folder / f"step-{step}-rank-{self.args.process_index}"
        if len(list(folder.glob(f"step-*-rank-{self.args.process_index}.json"))) >= self.guards.dumps:
            return f"not dumped (guards.dumps is {self.guards.dumps})"
        try:
            dumps.write(path, facts, [self.as_dumped(batch) for batch, _ in batches])
        except (OSError, UserError) as error:  # a full disk costs the dump, not the run
            return f"not dumped ({error})"
        return f"dumped to {path}.json"

    def _last_words(self, told: str) -> str:
        last = manifest.latest(Path(self.args.output_dir))
        kept = f"the last checkpoint is {last.path}" if last else "there is no checkpoint yet (training.save_strategy)"
        start = f"model.path={last.path} in a new output" if last else "a new output"
        several = f"{self._in_a_row} steps one after another have" if self._in_a_row > 1 else "a step has"
        return (
            f"{several} a loss or gradient that is not finite (guards.skip is {self.guards.skip}). The last: {told}. "
            f"No weight was changed by them; {kept}. Look at the rows and the dump. resume=auto goes on with this "
            "recipe, and meets the same rows again; a smaller learning_rate or max_grad_norm, or bfloat16 instead of "
            f"float16, is another recipe: {start}"
        )

    def log(self, logs, start_time=None):
        if self.model.training and "loss" in logs:
            logs = {**logs, "guards/skipped_steps": self.skipped}
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
