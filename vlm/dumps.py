"""What one training step was computed from, kept in the run folder so that `launch/replay.py` can compute it again.

    runs/r1/dumps/step-120/
      dump.json       {"step": 120, "reason": "asked", "processes": 2, "loss": 0.41, "time": …}; written last
      rank-0.pt       one file a process, read without running code (vlm.checkpoints.packing)
      recipe.yaml     the recipe of the run at that step
      weights/        the weights before the step, where they were asked for

    rank-0.pt   {"version": 1, "step", "rank", "processes", "device", "weights": digest or None,
                 "micro_batches": [
                    {"inputs": {name: tensor, …}, "random": {…}, "loss": tensor, "items": tensor or None,
                     "accumulation": 2, "state": {…}}, …]}

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
from transformers import TrainerCallback

from vlm.agreement import anywhere, everyone_is_here
from vlm.checkpoints.folders import is_full
from vlm.checkpoints.packing import pack
from vlm.dump_section import DumpSection
from vlm.runs import RECIPE

logger = logging.getLogger(__name__)

DUMPS, HEADER, WEIGHTS, VERSION = "dumps", "dump.json", "weights", 1
SAMPLED = 256
"""Elements of each weight that its digest looks at: all of a 7B model would be read for seconds a step."""


class Dumping:
    """Stands before a transformers Trainer among the bases; remembers the micro-batches of the step that is computed.

    Overridden: `compute_loss`. Of a step it holds references to what is on the device anyway.
    """

    _window: list[dict[str, Any]] | None = None
    "The micro-batches of this step so far."
    _window_step = 0

    def stored_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch as `vlm.checkpoints.packing.pack` takes it."""
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

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not torch.is_grad_enabled():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        entry = {
            "inputs": dict(inputs),
            "random": random_states(self.args.device),
            "items": num_items_in_batch,
            "accumulation": self._accumulation(),
            "state": self.loss_state(),
        }
        found = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        entry["loss"] = (found[0] if return_outputs else found).detach()
        full = self._window and len(self._window) >= self._accumulation()
        if self._window is None or full or self._window_step != self.state.global_step + 1:
            self._window, self._window_step = [], self.state.global_step + 1
        self._window.append(entry)
        return found

    def dump_weights(self) -> None:
        """Keep the weights of the step that begins. Collective. A full disk is a warning."""
        self._dumped(lambda: self.save_model(str(self._dump_folder(self.state.global_step + 1) / WEIGHTS)))

    def dump(self, reason: str) -> Path | None:
        """Write what is known of the step that is being computed: after its last micro-batch, before the optimiser.

        reason: told by replay, e.g. "asked" or "gradient is NaN". Collective; returns the folder, or None where nothing
        was computed yet or the disk is full, which is a warning and no end of the run.
        """
        if not self._window:
            return None
        folder = self._dump_folder(self._window_step)
        return folder if self._dumped(lambda: self._write_dump(folder)) and self._headed(folder, reason) else None

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

    def _headed(self, folder: Path, reason: str) -> bool:
        """Gather the losses and write the header, by which a dump is known to be whole."""
        loss = torch.stack([entry["loss"].float() for entry in self._window]).sum()
        loss = self.accelerator.gather(loss).mean().item()

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
            }
            (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
            logger.info("dump of step %d (%s): %s", self._window_step, reason, folder)

        return self._dumped(write)

    def _dumped(self, write) -> bool:
        """Do it, or warn of a full disk; the same answer in every process."""
        fault = None
        try:
            write()
        except Exception as error:
            if not is_full(error):
                raise
            fault = error
            logger.warning("no dump of this step: %s. Training goes on", error)
        everyone_is_here()
        return not anywhere(fault is not None, self.args.device)


class DumpSteps(TrainerCallback):
    """Dumps the steps that the recipe asks for."""

    def __init__(self, trainer: Dumping, section: DumpSection):
        self.trainer, self.section = trainer, section

    def on_step_begin(self, args, state, control, **kwargs):
        # DeepSpeed updates the weights within the last backward pass
        if self.section.weights and self.section.due(state.global_step + 1):
            self.trainer.dump_weights()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self.section.due(state.global_step + 1):
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
