"""One step of a run computed again from its dump (`stage.replay.dumps`), in one process, whatever number made it.

The same device, versions and precision give the same loss, to the bit on the CPU in float32; the report says how far it
is off. A step of ZeRO is replayed from the gathered weights, unsharded.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from stage.checkpoints import manifest
from stage.checkpoints.packing import unpack
from stage.checkpoints.weights import load_strictly
from stage.recipe import config
from stage.recipe.sections import ShardingSection
from stage.replay.dumps import DUMPS, HEADER, VERSION, WEIGHTS, digest, set_random_states
from stage.runs import RECIPE
from stage.tracking.section import TrackingSection
from vlm.common.errors import UserError
from vlm.common.processes import processes
from vlm.pictures import images

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}
"""Of a loss, relative where it is above 1; another device or version sums in another order."""
LEFT_OUT = (
    "eval_", "save_", "load_best", "metric_for_best", "logging_", "log_", "vllm_", "use_vllm", "ddp_", "dataloader_",
    "beta", "sync_ref_model", "generation_batch_size", "do_eval",
)  # fmt: skip
"""Beginnings of the training keys that a replay has no use for; beta needs no reference model, for the dump holds its
log-probabilities."""


@dataclass(frozen=True)
class Dump:
    """A complete dump."""

    run: Path
    folder: Path
    header: dict[str, Any]
    ranks: list[dict[str, Any]]
    "What each process has written, packed."

    @property
    def step(self) -> int:
        return self.header["step"]

    def recipe(self, classes: list[type]) -> Any:
        """The run's, as one process takes it that keeps no run folder. classes: of the stages that can be replayed."""
        path = self.folder / RECIPE
        if not path.is_file():
            raise UserError(f"{self.folder} has no {RECIPE}: which model and loss to take is not known")
        training = yaml.safe_load(path.read_text(encoding="utf-8")).get("training") or {}
        rows = int(training.get("per_device_train_batch_size", 8)) * len(self.ranks)
        found = config.load_any(path, classes, [f"training.per_device_train_batch_size={rows}"])
        images.use(found.images)
        return found


@dataclass(frozen=True)
class Loss:
    """Of one micro-batch."""

    rank: int
    number: int
    recorded: float
    found: float
    share: float
    "Of it in the step's loss."

    def off(self) -> float:
        """How far the two are apart; 0 where both are the same NaN or infinity."""
        same = self.recorded == self.found or (math.isnan(self.recorded) and math.isnan(self.found))
        return 0.0 if same else abs(self.found - self.recorded)


@dataclass(frozen=True)
class Replay:
    losses: list[Loss]
    gradient_norm: float
    "Before clipping; over all processes, as they average their gradients."
    not_finite: list[str]
    "Weights whose gradient holds NaN or an infinity."


def read(run: Path, step: int) -> Dump:
    """Raises: UserError where the step was not dumped, or not wholly."""
    folder = run / DUMPS / f"step-{step}"
    if not (folder / HEADER).is_file():
        known = sorted(int(path.parent.name.rpartition("-")[2]) for path in run.glob(f"{DUMPS}/step-*/{HEADER}"))
        raise UserError(
            f"{run} has no dump of step {step}; it has {', '.join(map(str, known)) or 'none'}. Steps are dumped where "
            "the recipe says so: dump.steps=[…], dump.every=…"
        )
    header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    ranks = []
    for rank in range(header["processes"]):
        path = folder / f"rank-{rank}.pt"
        if not path.is_file():
            raise UserError(f"{path} is missing; expected a file of each of the {header['processes']} processes")
        ranks.append(torch.load(path, map_location="cpu", weights_only=True))
        if ranks[-1]["version"] != VERSION:
            raise UserError(f"{path} is of version {ranks[-1]['version']}; this Nadir reads version {VERSION}")
    return Dump(run, folder, header, ranks)


def weights_of(dump: Dump, recipe: Any) -> tuple[Path | None, str]:
    """Where the weights before the step lie (None: they are the base model's), and that in words.

    Raises: UserError where they are not known any more.
    """
    if (dump.folder / WEIGHTS).is_dir():
        return dump.folder / WEIGHTS, f"the dump's own copy, {dump.folder / WEIGHTS}"
    before = dump.run / f"checkpoint-{dump.step - 1}"
    if (before / manifest.MANIFEST).is_file():
        return manifest.read(before).path, f"{before}, written after step {dump.step - 1}"
    if dump.step == 1 and (recipe.model.lora is None or dump.ranks[0]["weights"]):
        return None, f"the base model, {recipe.model.path}"
    earlier = [path for path in manifest.folders(dump.run) if manifest.step_of(path) < dump.step - 1]
    go_on = f"resume={earlier[-1]} " if earlier else ""
    raise UserError(
        f"step {dump.step} cannot be replayed: its dump has no copy of the weights, and {before} is not there. Run the "
        f"steps up to it again with their weights kept: the run's {RECIPE} with {go_on}output=… "
        f"training.max_steps={dump.step} dump.steps=[{dump.step}] dump.weights=true"
    )


def check_alone() -> None:
    """Raises: UserError in one of several processes."""
    if processes() > 1:
        raise UserError("a step is replayed in one process, for all that computed it; start it without a launcher")


def model_of(dump: Dump, recipe: Any, untrained: Callable[[Any], Any]) -> tuple[Any, str]:
    """The model before the step, and which weights it has, in words. untrained: recipe → what the run began with."""
    path, words = weights_of(dump, recipe)
    model = untrained(recipe)
    if path is not None:
        load_strictly(model, path)
    return model, words


def alone(recipe: Any, device: str) -> Any:
    """The recipe for the trainer's arguments: no sharding, no dashboards, no evaluation, a folder that goes."""
    training = {name: value for name, value in recipe.training.items() if not name.startswith(LEFT_OUT)}
    if device == "cpu":
        training["use_cpu"] = True
    other = {
        "training": training | {"save_strategy": "no"},
        "sharding": ShardingSection(),
        "tracking": TrackingSection(),
        "model": recipe.model.model_copy(update={"attention": "auto"}),  # the loaded model has the recipe's
        "output": str(Path(tempfile.gettempdir()) / "nadir-replay"),
    }
    return recipe.model_copy(update=other)


def replay(trainer: Any, dump: Dump) -> Replay:
    """Forward and backward of every micro-batch of every process. trainer: with the model before the step.

    Raises: UserError where its weights are not those of the dump.
    """
    expected = dump.ranks[0]["weights"]
    if expected is not None and digest(trainer.model) != expected:
        raise UserError(
            f"the weights are not those that step {dump.step} was computed from (their digests differ), so its loss "
            "cannot be computed again; was the model, or the checkpoint before the step, replaced since?"
        )
    model = trainer.accelerator.prepare_model(trainer.model)
    model.train()
    losses = []
    with as_one_of(len(dump.ranks)):
        for content in dump.ranks:
            entries = content["micro_batches"]
            for number, entry in enumerate(entries):
                loss = _loss(trainer, model, entry, last=number == len(entries) - 1)
                (loss * entry["share"] / len(dump.ranks)).backward()
                losses.append(Loss(content["rank"], number, entry["loss"].item(), loss.item(), entry["share"]))
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(gradients.values())).item()
    return Replay(losses, norm, [name for name, found in gradients.items() if not found.isfinite().all()])


def _loss(trainer: Any, model: Any, packed: dict[str, Any], last: bool) -> torch.Tensor:
    device = trainer.args.device
    entry = unpack(packed, lambda tensor: tensor.to(device))
    trainer.current_gradient_accumulation_steps = entry["accumulation"]
    trainer.accelerator.gradient_state._set_sync_gradients(last)
    for name, value in entry["state"].items():
        setattr(trainer, name, value)
    set_random_states(unpack(packed["random"]), device)
    with trainer.compute_loss_context_manager():
        return trainer.compute_loss(model, trainer.held_inputs(entry["inputs"]), num_items_in_batch=entry["items"])


@contextmanager
def as_one_of(count: int) -> Iterator[None]:
    """Within, losses that are scaled by the number of processes are scaled as in a run of that many."""
    from accelerate import Accelerator

    with mock.patch.object(Accelerator, "num_processes", count):
        yield


def _listed(found: Any) -> str:
    if not isinstance(found, list):
        return str(found)
    return ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "none"


def report(dump: Dump, replayed: Replay, weights: str, dtype: str) -> bool:
    """Print what came out; returns whether the step was reproduced."""
    worst = max(replayed.losses, key=Loss.off)
    close = worst.off() <= TOLERANCE[dtype] * max(1.0, abs(worst.recorded))
    print(f"step {dump.step}, dumped because: {dump.header['reason']}; {dump.header['processes']} processes")
    for rank, facts in enumerate(dump.header["ranks"]):
        if facts:
            print(f"rank {rank} then: " + "; ".join(f"{name} {_listed(found)}" for name, found in facts.items()))
    print(f"weights: {weights}")
    for loss in replayed.losses:
        print(
            f"  rank {loss.rank}, micro-batch {loss.number}: loss {loss.found!r}, recorded {loss.recorded!r}, "
            f"difference {loss.off():.3g}"
        )
    step = math.fsum(loss.found * loss.share for loss in replayed.losses) / len(dump.ranks)
    print(f"loss of the step {step!r}, recorded {dump.header['loss']!r}; gradient norm {replayed.gradient_norm!r}")
    if replayed.not_finite:
        print(f"gradients that are not finite: {len(replayed.not_finite)} ({_listed(replayed.not_finite)})")
    exact = all(loss.off() == 0 for loss in replayed.losses)
    print("reproduced, bit by bit" if exact else "reproduced" if close else "NOT reproduced")
    return close
