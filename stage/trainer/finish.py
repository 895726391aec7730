"""A training stage from its trainer on: trained, and saved as what the next stage, and plain transformers, can load."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import ProcessorMixin, Trainer

from stage.checkpoints import manifest
from stage.checkpoints.beginning import Beginning
from stage.curves import draw_run
from stage.guards import peers, watchdog
from stage.guards.disk import is_full
from stage.guards.progress import here
from stage.guards.shared_memory import Fitting
from stage.origins.provenance import first_line, record
from stage.replay.dumps import DumpSteps
from stage.runs import Run
from stage.signals import StopOnSignal, watching
from stage.tracking import trackers
from stage.tracking.attach import attach
from stage.trainer import callbacks
from vlm.common.console import say
from vlm.common.errors import UserError


def follow(trainer: Trainer, run: Run, beginning: Beginning) -> None:
    """Train from where the run begins, guarded as its recipe says. Raises: Interrupted where a signal stopped it, after
    a checkpoint."""
    recipe, rank = beginning.recipe, trainer.args.process_index
    callbacks.attach(trainer, run, recipe.stage)
    trainer.guards, trainer.dumps = recipe.guards, recipe.dump
    trainer.planned_bytes = run.checkpoint_bytes
    trainer.data_collator = Fitting(trainer.data_collator)
    trainer.add_callback(DumpSteps(trainer))
    found = record(trainer)
    run.note_record(found | run.origins)
    say(first_line(recipe.stage, recipe.sharding.zero, found))
    if run.main:
        trackers.identify(recipe.tracking, run.folder, resumed=recipe.resume is not None)
    attach(trainer, run, recipe)
    heartbeats = None if recipe.watchdog is None else run.folder / watchdog.FOLDER
    with (
        watching() as watch,
        watchdog.watching(recipe.watchdog, run.folder, rank, trainer),
        peers.watched(rank, here, heartbeats, trainer.args.ddp_timeout),
    ):
        trainer.add_callback(StopOnSignal(watch, run))
        trainer.train(resume_from_checkpoint=beginning.path)
    check_trained(trainer)


def check_trained(trainer: Trainer) -> None:
    """Refuse a training of no step: a dashboard would call its untrained model finished.

    Raises: UserError.
    """
    args = trainer.args
    if trainer.state.global_step:
        return
    drops = ", or dataloader_drop_last: false" if args.dataloader_drop_last else ""
    raise UserError(
        f"no step was trained: {len(trainer.train_dataset)} rows fill no batch of per_device_train_batch_size "
        f"{args.per_device_train_batch_size} on {args.world_size} processes; add rows, or lower it{drops}"
    )


def save_model(trainer: Trainer, processor: ProcessorMixin, folder: Path) -> Path:
    """Write model (or adapter), processor and chat template to `folder`; collective under ZeRO, returns the folder.

    A LoRA run saves the adapter; `python -m vlm.adapters ADAPTER OUT` merges it into its base.
    """
    try:
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero():
            processor.save_pretrained(folder)
    except Exception as error:
        if not is_full(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)  # a part of a model would be taken for one
        last = manifest.latest(folder.parent)
        kept = f"the last checkpoint is {last.path}" if last else "there is no checkpoint"
        raise UserError(
            f"{folder} cannot be written: {error}. The model is trained, and {kept}: make room on the disk, and start "
            "the same command with resume=auto, which goes on from there"
        ) from error
    trainer.accelerator.wait_for_everyone()
    return folder


def complete(trainer: Trainer, run: Run, beginning: Beginning, processor: ProcessorMixin, title: str) -> Path:
    """Train, save to `output/final`, which is returned, and finish the run. title: of its curves."""
    recipe = beginning.recipe
    follow(trainer, run, beginning)
    final = save_model(trainer, processor, Path(recipe.output) / "final")
    draw_run(run, title)
    run.finish(steps=trainer.state.global_step)
    return final
