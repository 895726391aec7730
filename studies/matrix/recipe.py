"""What a matrix file holds (`recipes/ablation.yaml`), and what launch/ says of the launchers that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlm.common.errors import RecipeError
from vlm.common.section import Folder, LocatedPath, Section

NAME = re.compile(r"[A-Za-z]\w*")
SEED = "seed"


@dataclass(frozen=True)
class Launcher:
    """A stage's launcher; studies imports no stage."""

    script: str
    "From the repository's root: launch/grpo.py."
    recipe: type[Section]
    check: Callable[[Any], object] | None = None
    "Refuses with RecipeError what a resolved recipe asks in vain; called for each recipe before anything runs."


Launchers = Mapping[str, Launcher]


class StageSection(Section):
    """One stage of each run: a launcher with its recipe, or any other command.

    In every text `{sft}` stands for the folder of the run's stage `sft`, and `{seed}` for the run's seed. What a stage
    names in this way it needs: that runs before it.
    """

    launch: str | None = None
    "Which launcher: sft, grpo, eval, score, bon, curate."
    recipe: LocatedPath | None = None
    "Its recipe."
    set: dict[str, Any] = {}
    "Changes to the recipe in all runs, e.g. {model.path: '{sft}/final'}."
    command: list[str] | None = None
    "Instead of a launcher: the words of a command, which is repeated where it was interrupted."
    seeded: bool | None = None
    "Whether the seeds of the matrix are put into the recipe; by default where it is a training stage."
    accelerate: LocatedPath | None = None
    "An accelerate configuration to launch with; without it `per_run` decides."

    @property
    def launched(self) -> tuple[str, str]:
        """Launcher and recipe. Raises: ValueError where it is a command."""
        if self.launch is None or self.recipe is None:
            raise ValueError("a command has neither launcher nor recipe")
        return self.launch, self.recipe

    def check(self) -> None:
        if (self.launch is None) == (self.command is None) or (self.launch is None) != (self.recipe is None):
            raise RecipeError("expected either `launch` with its `recipe`, or `command`")
        if self.command is not None and (self.set or self.seeded is not None or self.accelerate or not self.command):
            raise RecipeError(
                "`command` is a list of words, and `set`, `seeded` and `accelerate` go with `launch` only"
            )


class MatrixRecipe(Section):
    """Runs that differ along axes.

    Each run goes through the stages that its last ones (those that no other stage names) need, directly or indirectly.
    """

    output: Folder
    "Folder of the runs: output/LABEL/seed-0/STAGE."
    stages: dict[str, StageSection]
    "Name → stage, in the order in which they are shown."
    stage: Literal["ablation"] = "ablation"
    "What kind of file this is."
    name: str | None = None
    "Group on dashboards; by default the name of the output folder."
    axes: dict[str, Any] = {}
    """Axis → value → stage → its changes: a mapping of recipe keys, the path of a recipe whose own lines are the
    changes, or a list of both. Next to the stages `skip: [eval]` leaves stages out. An axis that is a recipe key of one
    stage has a list of its values: {grpo.training.beta: [0.0, 0.01]}."""
    seeds: list[int] = [0]
    "Each combination runs once with each."
    leave_out: list[dict[str, Any]] = []
    "Combinations that are not run, e.g. [{road: Zero, score: without}]; an axis that is not named: with any value."
    per_run: int = 1
    "Processes of one stage, each with a GPU where there are any."
    slurm: dict[str, Any] = {}
    "Options of sbatch for `--slurm`, e.g. {time: '12:00:00', partition: gpu}."

    def check(self) -> None:
        for what, values in (("stages", self.stages), ("seeds", self.seeds)):
            if not values:
                raise RecipeError(f"{what} is empty")
        for name in self.stages:
            if not NAME.fullmatch(name) or name in (SEED, "skip"):
                raise RecipeError(
                    f"stages: found the name {name!r}; expected letters, digits and _, not `seed` or `skip`"
                )
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise RecipeError(f"seeds = {self.seeds}; expected different numbers from 0 on")
        if self.per_run < 1:
            raise RecipeError(f"per_run = {self.per_run}; expected at least 1")
