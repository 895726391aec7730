"""What one training step was computed from, kept in the run folder so that `launch/replay.py` can compute it again.

    runs/r1/dumps/step-120/
      dump.json       {"step": 120, "reason": "asked", "processes": 2, "loss": 0.41, "time": …, "ranks": [facts or null
                      of each process]}; written last
      rank-0.pt       one file a process, read without running code (stage.checkpoints.packing)
      recipe.yaml     the recipe of the run at that step
      weights/        the weights before the step, where they were asked for

    rank-0.pt   {"version": 1, "step", "rank", "processes", "device", "weights": digest or None,
                 "micro_batches": [
                    {"inputs": {name: tensor, …}, "rows": [name, …], "random": {…}, "loss": tensor,
                     "items": tensor or None, "accumulation": 2, "share": 1.0 (of it in the step's loss),
                     "state": {…}}, …]}

A dump holds inputs and random states, and not the weights, which are large. Those of step N are in checkpoint-(N-1); at
step 1 they are the base model's; else the dump must have its own copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stage.checkpoints.packing import pack
from stage.guards.disk import is_full
from stage.parallel.agreement import anywhere, everyone_is_here
from stage.recipe.sections import DumpSection
from stage.runs import RECIPE
from vlm.common.errors import UserError

logger = logging.getLogger(__name__)

DUMPS, HEADER, WEIGHTS, VERSION = "dumps", "dump.json", "weights", 1
ROWS = "row_names"
"""Key of a batch: which rows of the data it is made of, as texts."""
SAMPLED = 256
"""Elements of each weight that its digest looks at: all of a 7B model would be read for seconds a step."""


class Dumping:
    """Stands before a transformers Trainer among the bases; remembers the micro-batches of the step that is computed.

    Overridden: `compute_loss`. Of a step it holds references to what is on the device anyway.
    """

    dumps = DumpSection()
    _window: list[dict[str, Any]] | tuple = ()
    "The micro-batches of this step so far."
    _window_step = 0
    _written: Path | None = None
    "Of this step."

    def stored_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch as `stage.checkpoints.packing.pack` takes it."""
        return dict(inputs)

    def held_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `stored_inputs`."""
        return inputs

    def loss_state(self) -> dict[str, Any]:
        """Attributes of the trainer beside weights and recipe that the loss depends on, by name."""
        return {}

    def _accumulation(self) -> int:
        """Micro-batches of this step; a trainer that has not begun to train has the argument alone."""
        return getattr(self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps)

    def _share(self, items: Any) -> float:
        """Part of a micro-batch's loss in its step's: `Trainer.training_step` divides what is not scaled yet."""
        scaled = getattr(self, "loss_is_scaled_for_ga", None)  # of transformers 5.19; TRL sets what older ones read
        if scaled is None:
            scaled = self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and items is not None)
        return 1.0 if scaled else 1 / self._accumulation()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        names = inputs.get(ROWS)
        if ROWS in inputs:
            inputs = {key: value for key, value in inputs.items() if key != ROWS}
        if not torch.is_grad_enabled():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        step = self.state.global_step + 1
        if self._window_step != step or len(self._window) >= self._accumulation():
            self._window, self._window_step, self._written = [], step, None
        entry = {
            "inputs": dict(inputs),
            "rows": names or [],
            "random": random_states(self.args.device),
            "items": num_items_in_batch,
            "accumulation": self._accumulation(),
            "share": self._share(num_items_in_batch),
            "state": self.loss_state(),
        }
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._window = [*self._window, entry]
        return (self.observed(found[0]), found[1]) if return_outputs else self.observed(found)

    def observed(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss of a micro-batch that is trained on, noted; what it returns has the gradient that is used."""
        self._window[-1]["loss"] = loss.detach()
        return loss

    def dump_weights(self) -> None:
        """Keep the weights of the step that begins. Collective. A full disk is a warning."""
        self._dumped(lambda: self.save_model(str(self._dump_folder(self.state.global_step + 1) / WEIGHTS)))

    def dump(self, reason: str, facts: dict[str, Any] | None = None) -> Path | None:
        """Write what is known of the step that is being computed: after its last micro-batch, before the optimiser.

        reason: told by replay, e.g. "asked". facts: of this process, for the header; what JSON can hold. Collective;
        returns the folder, or None where nothing was computed yet or nothing can be written, which is a warning and no
        end of the run.
        """
        if self._window and self._written is None:
            folder = self._dump_folder(self._window_step)
            if self._dumped(lambda: self._write_dump(folder)) and self._headed(folder, reason, facts):
                self._written = folder
        return self._written

    def _dump_folder(self, step: int) -> Path:
        return Path(self.args.output_dir) / DUMPS / f"step-{step}"

    def _write_dump(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / HEADER).unlink(missing_ok=True)
        rank = self.args.process_index
        entries = [entry | {"inputs": self.stored_inputs(entry["inputs"])} for entry in self._window]
        content = {
            "version": VERSION,
            "step": self._window_step,
            "rank": rank,
            "processes": self.args.world_size,
            "device": self.args.device.type,
            "weights": None if self.is_deepspeed_enabled or self.is_fsdp_enabled else digest(self.model),
            "micro_batches": entries,
        }
        torch.save(pack(content, "dump"), folder / f"rank-{rank}.pt")

    def _headed(self, folder: Path, reason: str, facts: dict[str, Any] | None) -> bool:
        """Gather the losses and write the header, by which a dump is known to be whole."""
        loss = torch.stack([entry["loss"].float() * entry["share"] for entry in self._window]).sum()
        loss = self.accelerator.gather(loss).mean().item()
        ranks = gather_object([facts])

        def write() -> None:
            if not self.is_world_process_zero():
                return
            recipe = Path(self.args.output_dir) / RECIPE
            if recipe.is_file():
                shutil.copyfile(recipe, folder / RECIPE)
            header = {
                "step": self._window_step,
                "reason": reason,
                "processes": self.args.world_size,
                "micro_batches": len(self._window),
                "loss": loss if np.isfinite(loss) else str(loss),
                "time": round(time.time(), 3),
                "ranks": ranks,
            }
            (folder / HEADER).write_text(json.dumps(header, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            logger.info("dump of step %d (%s): %s", self._window_step, reason, folder)

        return self._dumped(write)

    def _dumped(self, write) -> bool:
        """Do it, or warn why not; the same answer in every process."""
        fault = None
        try:
            write()
        except Exception as error:
            if not (is_full(error) or isinstance(error, OSError | UserError)):
                raise
            fault = error
            logger.warning("no dump of this step: %s. Training continues", error)
        everyone_is_here()
        return not anywhere(fault is not None, self.args.device)


class DumpSteps(TrainerCallback):
    """Dumps the steps that the recipe asks for."""

    def __init__(self, trainer: Dumping):
        self.trainer = trainer

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # DeepSpeed updates the weights within the last backward pass
        if self.trainer.dumps.weights and self.trainer.dumps.due(state.global_step + 1):
            self.trainer.dump_weights()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.trainer.dumps.due(state.global_step + 1):
            self.trainer.dump("asked")


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all generators that a forward pass may draw from."""
    version, numbers, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (version, torch.from_numpy(numbers.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """The inverse of `random_states`; states of a GPU are left out where there is none."""
    random.setstate(states["python"])
    version, numbers, *rest = states["numpy"]
    np.random.set_state((version, numbers.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def digest(model: torch.nn.Module) -> str:
    """Of the names, shapes and up to SAMPLED evenly spaced elements of each weight; the same on every device."""
    found = hashlib.sha256()
    parts = []
    for name, weight in model.named_parameters():
        found.update(f"{name} {tuple(weight.shape)}\n".encode())
        flat = weight.detach().flatten()
        parts.append(flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].float())
    found.update(torch.cat(parts).cpu().numpy().tobytes())
    return found.hexdigest()
