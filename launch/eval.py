"""Generate and score:  python launch/eval.py recipes/eval.yaml model.path=… [key.sub=value …] [--dry-run]"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vlm import telemetry  # noqa: E402

telemetry.quiet()

from evals import stage  # noqa: E402
from evals.recipe import EvalRecipe  # noqa: E402
from rewards import gold  # noqa: E402
from vlm.cli import launch  # noqa: E402


def run(recipe: EvalRecipe) -> None:
    stage.run(recipe, gold.judge(recipe.gold))


if __name__ == "__main__":
    sys.exit(launch(EvalRecipe, run, stage.plan))
