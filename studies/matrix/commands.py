"""The command of a stage, as a user would type it, and as it is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from studies.matrix.changes import Change, last
from studies.matrix.planning import Plan, Stage
from studies.matrix.recipe import Launchers

ROOT = Path(__file__).resolve().parents[2]
SEVERAL = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def words(stage: Stage, plan: Plan, launchers: Launchers) -> list[str]:
    """`python launch/grpo.py RECIPE key=value … resume=auto`, or `accelerate launch …` for several processes."""
    if stage.words:
        return stage.words
    launch, recipe = stage.draft.section.launched
    files = [_relative(str(ROOT / launchers[launch].script)), _relative(recipe)]
    return [*_launcher(plan.matrix.per_run, stage.draft.section.accelerate), *files, *overrides(stage, plan)]


def _relative(path: str) -> str:
    """Seen from here, where it is below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _launcher(processes: int, configuration: str | None) -> list[str]:
    if configuration is None and processes == 1:
        return ["python"]
    # port 0: a free one, so that several may run on one machine
    common = ["accelerate", "launch", "--main_process_port", "0"]
    count = ["--num_processes", str(processes)] if processes > 1 else []
    return [*common, *(SEVERAL if configuration is None else ["--config_file", configuration]), *count]


def overrides(stage: Stage, plan: Plan) -> list[str]:
    """Of the recipe: what the run changes, and what follows from its place in the matrix."""
    recipe = stage.recipe
    added: dict[str, Any] = {"output": str(stage.folder)}  # folders are there already: no text has {…} to fill
    if hasattr(recipe, "tracking"):
        axes = {axis: value for axis, value in _common(stage).items() if value is not None}
        added["tracking.group"], added["tracking.name"] = plan.name, stage.key
        added["tracking.axes"] = recipe.tracking.axes | axes
    if hasattr(recipe, "resume"):
        added["resume"] = "auto"
    if recipe.overwrite:  # a second run of the matrix would lose what the first one did
        added["overwrite"] = False
    placed = [Change(key, value, plan.name) for key, value in added.items()]
    return [change.text({}) for change in last([*stage.changes, *placed])]


def _common(stage: Stage) -> dict[str, str | None]:
    """The values, seed and stage that all runs which share the stage have."""
    values = [{**run.values, "seed": None if run.seed is None else str(run.seed)} for run in stage.runs]
    same = {axis: value for axis, value in values[0].items() if all(one[axis] == value for one in values)}
    return same | {"stage": stage.name}


def started(command: list[str]) -> list[str]:
    """The same by the interpreter that runs this, whatever `python` and `accelerate` are on the path."""
    if command[0] == "python":
        return [sys.executable, *command[1:]]
    if command[:2] == ["accelerate", "launch"]:
        return [sys.executable, "-m", "accelerate.commands.launch", *command[2:]]
    return command


def environment(gpus: str | None, at_once: int) -> dict[str, str]:
    """Variables of a stage's process. gpus: "0,1"; at_once: how many stages share this machine's cores."""
    own = {
        # what accelerate's launcher of several processes passes on, and how long it waits for their checkpoint
        "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "800",
    }
    if at_once > 1:
        own["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // at_once))
    chosen = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    return {**own, **os.environ, "PYTHONUNBUFFERED": "1", **chosen}
