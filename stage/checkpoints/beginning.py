"""From where a run begins: the recipe's `resume:`.

    null        from scratch; a folder in which a run has begun is refused (stage.runs)
    auto        from the last complete checkpoint of `output`; else from scratch; not at all where the run has
                finished. What a job that may be requeued says always.
    a folder    from this checkpoint, of this output or of another one, which stays as it is

A resumed run is the same run: its recipe must be the one that wrote the checkpoint, but for NEUTRAL keys, which change
no weight, and for a later end; and so must be what the recipe names: rows, pictures, reward code, weights
(`stage.origins.comparing`). `accept_changes` takes what has changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stage.checkpoints import folders, manifest
from stage.checkpoints.manifest import Checkpoint, check_resumable
from stage.guards import lock
from stage.origins import comparing
from stage.parallel.agreement import gather, limit, settled
from stage.planning.storage import SURE, Storage, check_room
from stage.recipe import config
from stage.recipe.sections import NEUTRAL, TrainingRecipe
from stage.runs import DATA, FINISHED, METRICS, RECIPE, RECORD, Run
from vlm.common.errors import RecipeError, UserError
from vlm.common.processes import is_main_process, processes

logger = logging.getLogger(__name__)

AUTO = "auto"
LATER = ("training.max_steps", "training.num_train_epochs")
"""Keys that it may raise."""
Models = Callable[[], dict[str, Any]]
CONSTANT = ("constant", "constant_with_warmup")
"""Learning-rate schedules that do not depend on where the run ends."""


@dataclass(frozen=True)
class Beginning:
    """What `begin` has decided; nothing is written before `open`."""

    recipe: Any
    checkpoint: Checkpoint | None = None
    "Where to resume from."
    finished: int | None = None
    "The step at which the run has ended already."

    @property
    def path(self) -> str | None:
        """For `Trainer.train(resume_from_checkpoint=…)`."""
        return None if self.checkpoint is None else str(self.checkpoint.path)

    def open(
        self, args: Any, planned: Storage | None, data: Callable[[], dict[str, Any]], score_models: Models = dict
    ) -> Run:
        """The run folder, opened for writing, with data.json in it.

        args: the training arguments, by which the processes have met. planned: what the run will write, where that is
        known. data: makes data.json, in the main process. score_models: of learned rewards, by name
        (`stage.origins.comparing.of_recipe`).
        Raises: UserError where what the run came from has changed, or the disk has no room, in all processes.
        """
        _ = args.device  # joins the processes, and
        limit(args.ddp_timeout)
        if len(set(gather(self.path))) > 1:  # nobody looks at the folder any more, which is now changed
            raise UserError(f"{self.recipe.output} has changed while the processes looked at it; start the run again")
        recipe, main = self.recipe, is_main_process()
        settled(
            lambda: check_room(planned, recipe.overwrite) if main and planned is not None else None,
            "looking for room on the disk",
        )
        found, lines = settled(
            lambda: self._compared(data(), score_models()) if main else ({}, []), "comparing data and weights"
        )
        run = Run.create(
            recipe.output, config.to_dict(recipe), overwrite=recipe.overwrite, resume=recipe.resume is not None
        )
        if planned is not None:
            run.checkpoint_bytes = int(SURE * planned.checkpoint) if planned.certain else planned.weights
        if run.main:
            folders.clear(run.folder)
            run.note_data(found.pop("data"))
            run.origins = found | ({"accepted": lines} if lines else {})
        return run

    def _compared(self, data: dict[str, Any], score_models: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """What the run comes from, and what of it has changed since the checkpoint and is accepted."""
        found = {"data": data, **comparing.of_recipe(self.recipe, score_models)}
        if self.checkpoint is None:
            return found, []
        path = self.checkpoint.path
        folder = path if (path / RECORD).is_file() else path.parent  # an older checkpoint holds no copy
        before = {**comparing.stored(folder, RECORD), "data": comparing.stored(folder, DATA)}
        lines = comparing.refuse(
            comparing.changes(before, found),
            self.recipe.accept_changes,
            f"resume: the run of {path}",
            "Put them back, or start a new run in another output, or accept them: accept_changes=[{kinds}]",
        )
        for line in lines:
            logger.warning("resume: accepted (accept_changes): %s", line)
        return found, lines


def begin(recipe: TrainingRecipe) -> Beginning:
    """Decide by the recipe and what lies in its output, which is held from now on (`stage.guards.lock`).

    Raises: RecipeError where the recipe has changed, UserError where nothing can be gone on from, or another run holds
    the folder; `resume: auto` waits for its end.
    """
    if recipe.accept_changes and recipe.resume is None:
        raise RecipeError("accept_changes is read where a run is resumed; write resume=auto, or leave it out")
    lock.hold(recipe.output, wait=recipe.resume == AUTO)
    found = _begin(recipe)
    if found.finished is not None:
        lock.release(recipe.output)
    return found


def _begin(recipe: TrainingRecipe) -> Beginning:
    if recipe.resume is None:
        return Beginning(recipe)
    if recipe.overwrite:
        raise RecipeError(f"resume is {recipe.resume} and overwrite is true; a run is resumed or replaced, choose one")
    checkpoint = _asked(recipe, recipe.resume)
    stored = checkpoint.path / RECIPE if checkpoint else Path(recipe.output) / RECIPE
    later = False
    if stored.is_file():
        later = check_unchanged(recipe, stored)
    elif checkpoint is not None:
        logger.warning("%s holds no %s: whether the recipe is the same is not known", checkpoint.path, RECIPE)
    finished = finished_at(Path(recipe.output))
    if recipe.resume == AUTO and finished is not None and not later:
        logger.info("resume: %s has finished at step %d; there is nothing to do", recipe.output, finished)
        return Beginning(recipe, checkpoint, finished)
    if checkpoint is not None:
        check_resumable(checkpoint, processes())
        logger.info("resume: from %s", checkpoint.path)
    elif (Path(recipe.output) / METRICS).exists():
        logger.info("resume: %s has no checkpoint yet, so the run starts from scratch", recipe.output)
    return Beginning(recipe, checkpoint)


def finished_at(run: Path) -> int | None:
    """The last step of a run that has finished; None of one that has not."""
    path = run / FINISHED
    return int(json.loads(path.read_text(encoding="utf-8")).get("steps", 0)) if path.is_file() else None


def _asked(recipe: TrainingRecipe, resume: str) -> Checkpoint | None:
    run = Path(recipe.output)
    if resume == AUTO:
        return manifest.latest(run)
    checkpoint = manifest.read(Path(resume).expanduser().absolute())
    if checkpoint.path.parent != run.absolute():
        return checkpoint
    later = [path.name for path in manifest.folders(run) if manifest.step_of(path) > checkpoint.step]
    if later:
        raise RecipeError(
            f"resume is {resume}, but {run} also holds {', '.join(later)}, which the run would write again; "
            "write another output to branch off there, or delete the later ones, or resume=auto"
        )
    return checkpoint


def check_unchanged(recipe: TrainingRecipe, stored: Path) -> bool:
    """Whether the recipe asks for a later end than the one in `stored`; warns of a schedule that this stretches.

    Raises: RecipeError naming every key that differs and may not.
    """
    later, faults = False, []
    for key, (before, now) in config.difference(config.load(stored, type(recipe)), recipe).items():
        if key in LATER and _raised(before, now):
            later = True
            _warn_of_schedule(recipe, key, before, now)
        elif key in LATER:
            faults.append(f"{key} was {before} and is {now} (it may only be raised)")
        elif not any(fnmatchcase(key, pattern) for pattern in NEUTRAL):
            faults.append(f"{key} was {before!r} and is {now!r}")
    if faults:
        raise RecipeError(
            f"resume: the recipe is not the one that wrote {stored.parent}: {'; '.join(faults)}. Put it back, or start "
            "a new run in another output"
        )
    return later


def _raised(before: Any, now: Any) -> bool:
    """Of steps or epochs; a negative or missing number of steps is no limit."""

    def limit(value: Any) -> float:
        return value if isinstance(value, int | float) and value > 0 else float("inf")

    return limit(now) > limit(before)


def _warn_of_schedule(recipe: TrainingRecipe, key: str, before: Any, now: Any) -> None:
    schedule = config.to_dict(recipe)["training"].get("lr_scheduler_type", "linear")
    if schedule not in CONSTANT:
        logger.warning(
            "resume: %s is raised from %s to %s: the %s schedule continues as if it had been so from the start, but "
            "the steps done so far had the shorter one's learning rates",
            key, before, now, schedule,
        )  # fmt: skip
