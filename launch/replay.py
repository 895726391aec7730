"""One step of a run computed again from its dump:  python launch/replay.py runs/r1 --step 120 [--device cpu]

Exit code 0 where the loss is the recorded one (within rounding), 1 where it is not, 2 where it cannot be computed.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from rewards.score.training.recipe import ScoreRecipe  # noqa: E402
from rl.recipe import GRPORecipe  # noqa: E402
from sft.recipe import SFTRecipe  # noqa: E402
from stage.cli import guarded  # noqa: E402
from stage.guards.allocator import expandable  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def run(folder: Path, step: int, device: str | None) -> bool:
    """Whether the step was reproduced. device: "cpu", or None for the one that it was computed on."""
    expandable()
    import rewards.score.training.replaying
    import rl.replaying
    import sft.replaying
    from stage.replay import replaying

    replaying.check_alone()
    dump = replaying.read(folder, step)
    recipe = dump.recipe([GRPORecipe, SFTRecipe, ScoreRecipe])
    stages = {"grpo": rl.replaying, "sft": sft.replaying, "score": rewards.score.training.replaying}
    stage = stages[recipe.stage]
    model, weights = replaying.model_of(dump, recipe, stage.untrained)
    trainer = stage.trainer(recipe, model, device or dump.ranks[0]["device"])
    return replaying.report(dump, replaying.replay(trainer, dump), weights, recipe.model.dtype)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--step", type=int, required=True, help="which step; the first is 1")
    parser.add_argument("--device", choices=["cpu"], help="compute here instead of where it was computed")
    asked = parser.parse_args()
    found: list[bool] = []
    code = guarded(lambda: found.append(run(asked.run, asked.step, asked.device)))
    return code or (0 if found[0] else 1)


if __name__ == "__main__":
    with terminal():
        sys.exit(main())
