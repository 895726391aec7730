"""From where a run begins: the recipe's `resume:`.

    null        from scratch; a folder in which a run has begun is refused (stage.runs)
    auto        from the last complete checkpoint of `output`; else from scratch; not at all where the run has
                finished. What a job that may be requeued says always.
    a folder    from this checkpoint, of this output or of another one, which stays as it is

A resumed run is the same run: its recipe must be the one that wrote the checkpoint, but for NEUTRAL keys, which change
no weight, and for a later end.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stage.checkpoints import folders, manifest
from stage.checkpoints.manifest import Checkpoint, check_resumable
from stage.parallel.agreement import everyone_is_here, limit
from stage.recipe import config
from stage.recipe.sections import NEUTRAL, TrainingRecipe
from stage.runs import FINISHED, METRICS, RECIPE, Run
from vlm.common.errors import RecipeError
from vlm.common.processes import processes

logger = logging.getLogger(__name__)

AUTO = "auto"
LATER = ("training.max_steps", "training.num_train_epochs")
"""Keys that it may raise."""
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

    def open(self, args: Any) -> Run:
        """The run folder, opened for writing. args: the training arguments, by which the processes have met."""
        _ = args.device  # joins the processes, and
        limit(args.ddp_timeout)
        everyone_is_here()  # nobody looks at the folder any more, which is now changed
        recipe = self.recipe
        run = Run.create(
            recipe.output, config.to_dict(recipe), overwrite=recipe.overwrite, resume=recipe.resume is not None
        )
        if run.main:
            folders.clear(run.folder)
        return run


def begin(recipe: TrainingRecipe) -> Beginning:
    """Decide by the recipe and what lies in its output; reads only.

    Raises: RecipeError where the recipe has changed, UserError where nothing can be gone on from.
    """
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
