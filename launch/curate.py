"""Curation:  accelerate launch launch/curate.py recipes/curate.yaml [key.sub=value …] [--dry-run]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from rewards.curate import stage  # noqa: E402
from rewards.curate.recipe import CurateRecipe  # noqa: E402
from stage.cli import launch  # noqa: E402
from vlm.common.console import terminal  # noqa: E402

if __name__ == "__main__":
    with terminal():
        sys.exit(launch(CurateRecipe, stage.run, stage.plan))
