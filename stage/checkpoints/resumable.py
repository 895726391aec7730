"""`Resumable`: what a transformers Trainer needs for resumes that change nothing and checkpoints that are never half.

    class GRPOTrainer(Resumable, trl.GRPOTrainer): ...

What transformers 5.23 leaves out and stands here:
- weights come back strictly (`stage.checkpoints.weights`), those of the best checkpoint too;
- sums between two logs (loss, metrics), and what a subclass keeps (`kept_state`), are stored for each process;
- the order of the data: a sampler with a generator of its own draws one order an epoch, and a new process must draw
  those of the epochs before; behind two wrappers accelerate's set_epoch does not reach its sampler; and a sampler that
  draws from torch's own generator needs its state at the epoch's beginning, not at the checkpoint's;
- a checkpoint of the last step is not trained on for one step more;
- a new best value of `metric_for_best_model` saves immediately, so that the best checkpoint is there to be kept;
- `train_loss` and `train_runtime` of the last row count the whole run.

Bit-identical on one machine with the same versions: on the CPU in float32 by test. On a GPU some kernels add in an
order of their own (`training.full_determinism` forbids them); completions of vLLM depend on its own random state.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import SaveStrategy

from stage.checkpoints import folders, manifest
from stage.checkpoints.manifest import Checkpoint
from stage.checkpoints.packing import pack, unpack
from stage.checkpoints.weights import files_of, load_strictly
from stage.guards.disk import is_full
from stage.parallel.agreement import anywhere, everyone_is_here
from stage.parallel.fsdp import OPTIMISER, SCHEDULE
from stage.runs import DATA, RECIPE, RECORD
from stage.trainer.orders import sampler_of
from vlm.common.errors import UserError

logger = logging.getLogger(__name__)

STATE = "run_state_{}.pt"
"""What `Resumable` adds to transformers' files, one for each process."""


class Resumable:
    """Stands before a transformers Trainer among the bases.

    Overridden: `train`, `_save_checkpoint`, `_get_output_dir`, `_save`, `create_model_card`, `_determine_best_metric`,
    `_load_from_checkpoint`, `_load_best_model`, `_load_rng_state`, `_run_epoch`, `_finalize_training`.
    """

    planned_bytes = 0
    "The least that a checkpoint takes, as it was planned; until there is one."
    _pending: dict[str, Any] | None = None
    "The state to resume from, until the first batch."
    _aside: Path | None = None
    "Where a checkpoint is being written."
    _fault: Exception | None = None
    "Why it cannot be."
    _saved: Checkpoint | None = None
    "The last one that this process has seen written."
    _epoch_random: torch.Tensor | None = None
    _begun, _seconds_before = 0.0, 0.0

    def kept_state(self) -> dict[str, Any]:
        """What a subclass must remember between steps, as `stage.checkpoints.packing.pack` takes it."""
        return {}

    def take_state(self, state: dict[str, Any]) -> None:
        """Get back what `kept_state` gave; tensors lie on the device."""

    # resume

    def train(self, resume_from_checkpoint: str | bool | None = None, *positional: Any, **named: Any):
        """As transformers'; True is the last whole checkpoint. Raises: UserError for one that cannot be resumed."""
        self._begun, self._seconds_before, self._pending, self._saved = time.time(), 0.0, None, None
        if not resume_from_checkpoint:
            return super().train(None, *positional, **named)
        checkpoint = self._checked(resume_from_checkpoint)
        file = checkpoint.path / STATE.format(self.args.process_index)
        self._pending = torch.load(file, map_location="cpu", weights_only=True)
        return super().train(str(checkpoint.path), *positional, **named)

    def _checked(self, asked: str | bool) -> Checkpoint:
        run = self.args.output_dir
        checkpoint = manifest.latest(Path(run)) if asked is True else manifest.read(Path(asked))
        if checkpoint is None:
            raise UserError(f"{run} holds no complete checkpoint to resume from")
        manifest.check_resumable(checkpoint, self.args.world_size)
        if self.args.ignore_data_skip:
            raise UserError("training.ignore_data_skip would show rows again after a resume; leave it out")
        return checkpoint

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_strictly(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_best_model(self):
        if self.is_deepspeed_enabled:
            return super()._load_best_model()
        logger.info("the best checkpoint is loaded: %s", self.state.best_model_checkpoint)
        load_strictly(self.model, Path(self.state.best_model_checkpoint))

    def _run_epoch(self, *, epoch, train_dataloader, steps_trained_in_current_epoch, **given):
        if self._pending is not None:
            catch_up(train_dataloader, epoch)
            if steps_trained_in_current_epoch:
                torch.set_rng_state(self._pending["epoch_random"])
        if self.state.global_step >= self.state.max_steps:  # resumed at the end
            self.control.should_training_stop = True
            return
        self._epoch_random = torch.get_rng_state()
        given |= {"epoch": epoch, "train_dataloader": train_dataloader}
        super()._run_epoch(steps_trained_in_current_epoch=steps_trained_in_current_epoch, **given)

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        self._take_pending()

    def _take_pending(self) -> None:
        """At the last moment before the first batch: whatever the start has counted or drawn is forgotten."""
        if self._pending is None:
            return
        state = unpack(self._pending, lambda tensor: tensor.to(self.args.device))
        self._tr_loss, self._total_loss_scalar = state["loss"], state["loss_sum"]
        self._globalstep_last_logged, self._initial_global_step = state["last_logged"], 0
        self._seconds_before = state["seconds"]
        self._epoch_random = self._pending["epoch_random"]
        self._pending = None
        self.take_state(state["kept"])

    def _finalize_training(self, trial, num_train_samples, start_time):
        if self._pending is not None:  # no step was left to train
            self.model.train()  # as after a step: the last log is one of training
            self._take_pending()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # 1 would delete the last checkpoint here
        try:
            return super()._finalize_training(trial, num_train_samples, start_time - self._seconds_before)
        finally:
            self.args.save_total_limit = limit

    # save

    def _get_output_dir(self, trial):
        return str(self._aside) if self._aside is not None else super()._get_output_dir(trial)

    def _determine_best_metric(self, metrics, trial):
        best = super()._determine_best_metric(metrics, trial)
        if best and self.args.save_strategy != SaveStrategy.NO:
            self.control.should_save = True
        return best

    def _save(self, output_dir=None, state_dict=None):
        with self._contained():
            super()._save(output_dir, state_dict)

    def create_model_card(self, *positional, **named):
        with self._contained():
            super().create_model_card(*positional, **named)

    def _save_checkpoint(self, model, trial):
        step = self.state.global_step
        if self._saved is not None and self._saved.step == step:
            return
        run, main = Path(self._get_output_dir(trial)), self.is_world_process_zero()
        best, self._fault = self.state.best_model_checkpoint, None
        known = "the plan says" if self._saved is None else "the last one has"
        needed = self.planned_bytes if self._saved is None else self._saved.bytes
        if anywhere(main and folders.room(run) < needed, self.args.device):
            return self._give_up(run, f"{folders.room(run):,} bytes are free, {known} {needed:,}", best)
        self._aside = run / folders.ASIDE
        try:
            with self._contained():
                if main:
                    folders.begin(run, step)
            everyone_is_here()
            self._write(super()._save_checkpoint, model, trial, run)
            folder = self._aside / f"checkpoint-{step}"
            if not anywhere(self._fault is not None, self.args.device) and main:
                with self._contained():
                    self._finish(folder, run)
        finally:
            self._aside = None
        if anywhere(self._fault is not None, self.args.device):
            why = f"{type(self._fault).__name__}: {self._fault}" if self._fault else "another process says why"
            return self._give_up(run, f"it could not be written ({why})", best)
        self._saved = manifest.header(run / folder.name)
        if main:
            folders.prune(run, self.args.save_total_limit, self.state.best_model_checkpoint)
        everyone_is_here()

    def _write(self, upstream, model, trial, run: Path) -> None:
        """Every file of the checkpoint, from all processes."""
        folder = self._aside / f"checkpoint-{self.state.global_step}"
        with self._contained(), self._engine_contained():
            upstream(model, trial)
        with self._contained():
            torch.save(pack(self._state()), folder / STATE.format(self.args.process_index))
            if self.state.best_model_checkpoint == str(folder):
                self.state.best_model_checkpoint = str(run / folder.name)
            if self.is_world_process_zero():
                self.state.save_to_json(str(folder / "trainer_state.json"))
                for name in (RECIPE, DATA, RECORD):  # what a resume compares
                    if (run / name).is_file():
                        shutil.copyfile(run / name, folder / name)
            folders.flush_own(folder, self.args.process_index)

    def _state(self) -> dict[str, Any]:
        return {
            "loss": self._tr_loss,
            "loss_sum": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "seconds": self._seconds_before + time.time() - self._begun,
            "epoch_random": self._epoch_random,
            "kept": self.kept_state(),
        }

    def _finish(self, folder: Path, run: Path) -> None:
        """Verify the checkpoint and put it in its place."""
        everyone, complete = range(self.args.world_size), not self.args.save_only_model
        expected = ["trainer_state.json", *(STATE.format(rank) for rank in everyone)]
        if complete and self.is_deepspeed_enabled:
            expected += [f"global_step*/*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in everyone]
        elif complete and self.is_fsdp_enabled:
            expected += [SCHEDULE, *(OPTIMISER.format(rank) for rank in everyone)]
        elif complete:
            expected += ["optimizer.pt", SCHEDULE]
        manifest.expect(folder, expected)
        files_of(folder, adapter=(folder / "adapter_config.json").is_file())
        manifest.write(folder, self.state.global_step, self.args.world_size, complete)
        folders.commit(run, folder)

    def _give_up(self, run: Path, why: str, best: str | None) -> None:
        """The run continues without this checkpoint; those before it are as they were."""
        self.state.best_model_checkpoint = best
        if self.is_world_process_zero():
            folders.clear(run)
            last = manifest.latest(run)
            kept = f"the last one is {last.path}" if last else "there is none yet"
            logger.warning(
                "no checkpoint at step %d: %s. Training continues; %s. Make room on the disk of %s",
                self.state.global_step, why, kept, run,
            )  # fmt: skip
        everyone_is_here()

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """While a checkpoint is written, a full disk is noted instead of raised: no process leaves the others alone."""
        try:
            yield
        except Exception as error:
            if self._aside is None or not (is_full(error) or isinstance(error, manifest.Unwhole)):
                raise
            self._fault = self._fault or error

    @contextmanager
    def _engine_contained(self) -> Iterator[None]:
        """The same inside of DeepSpeed, which meets the other processes between its files."""
        if not self.is_deepspeed_enabled:
            yield
            return
        engine = self.model_wrapped.checkpoint_engine
        plain = engine.save

        def save(*positional, **named):
            with self._contained():
                return plain(*positional, **named)

        engine.save = save
        try:
            yield
        finally:
            engine.save = plain


def catch_up(loader, epoch: int) -> None:
    """Bring the sampler of a fresh data loader to where it stood when this epoch began."""
    from accelerate.data_loader import SeedableRandomSampler
    from trl.trainer.utils import RepeatSampler

    sampler = sampler_of(loader)  # None of a stream: transformers reads it on to where it was
    if isinstance(sampler, SeedableRandomSampler):
        sampler.set_epoch(epoch)
    elif isinstance(sampler, RepeatSampler) and sampler.shuffle:
        for _ in range(epoch):
            next(iter(sampler), None)  # draws the order of an epoch
