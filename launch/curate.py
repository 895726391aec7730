"""Curation:  accelerate launch launch/curate.py recipes/curate.yaml [key.sub=value …] [--dry-run]"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from rewards.curate import stage  # noqa: E402
from rewards.curate.recipe import CurateRecipe  # noqa: E402
from stage.cli import launch  # noqa: E402

if __name__ == "__main__":
    sys.exit(launch(CurateRecipe, stage.run, stage.plan))
