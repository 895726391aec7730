"""Serve a score model:  python launch/serve.py recipes/score/serve.yaml model.path=… [key.sub=value …] [--dry-run]"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from rewards.score.service import stage  # noqa: E402
from rewards.score.service.recipe import ServeRecipe  # noqa: E402
from stage.cli import launch  # noqa: E402

if __name__ == "__main__":
    sys.exit(launch(ServeRecipe, stage.serve, stage.plan))
