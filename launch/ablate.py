"""An ablation matrix:  python launch/ablate.py recipes/ablation.yaml [key.sub=value …] [--dry-run]

Runs each stage of each run once, by the other launchers' commands; a second time it continues where it stopped.
Exit code 0: all has finished; 1: a stage has failed, and the others continued; 2: the matrix is wrong; 75: stopped by a
signal, the same command continues.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

import rewards  # noqa: E402
from evals.recipe import EvalRecipe  # noqa: E402
from rewards.curate.recipe import CurateRecipe  # noqa: E402
from rewards.score.training.recipe import ScoreRecipe  # noqa: E402
from rewards.select.recipe import BonRecipe  # noqa: E402
from rl.recipe import GRPORecipe  # noqa: E402
from sft.recipe import SFTRecipe  # noqa: E402
from stage.cli import guarded  # noqa: E402
from studies.matrix import command  # noqa: E402
from studies.matrix.recipe import Launcher  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def resolve_rewards(recipe: GRPORecipe) -> None:
    """A reward that is not known, or an option that it does not have, is an error before anything runs."""
    for reward in recipe.rewards:
        rewards.resolve(reward.use, **reward.options)


LAUNCHERS = {
    "sft": Launcher("launch/sft.py", SFTRecipe),
    "grpo": Launcher("launch/grpo.py", GRPORecipe, resolve_rewards),
    "eval": Launcher("launch/eval.py", EvalRecipe),
    "score": Launcher("launch/score.py", ScoreRecipe),
    "bon": Launcher("launch/bon.py", BonRecipe),
    "curate": Launcher("launch/curate.py", CurateRecipe),
}


def main() -> int:
    arguments = command.parser(__doc__).parse_intermixed_args()
    codes: list[int] = []
    return guarded(lambda: codes.append(command.main(arguments, LAUNCHERS))) or codes[0]


if __name__ == "__main__":
    with terminal():
        sys.exit(main())
