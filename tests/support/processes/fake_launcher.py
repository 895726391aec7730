"""A launcher that trains nothing: it leaves in its run folder what a training stage does, or fails as it is told.

    python fake_launcher.py RECIPE key=value …

`training.act`: `finish`; `fail`; `die` (killed); `pause` until a signal, and then as `stage.signals` does; what was
interrupted finishes. `training.wait`: a FIFO that is opened for writing first, so that a test can wait for this. Each
start is a line of the file that JOURNAL names.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).parents[3]))

from stage import runs  # noqa: E402
from stage.recipe import config  # noqa: E402
from stage.recipe.arguments import Keys  # noqa: E402
from stage.recipe.sections import TrainingRecipe  # noqa: E402

HERE = Path(__file__)


class FakeArguments(Keys):
    act: str = "finish"
    wait: str | None = None
    lr: float = 0.0
    beta: float = 0.0
    logging_steps: int = 1
    save_steps: int = 1
    max_steps: int = -1


class FakeRecipe(TrainingRecipe):
    stage: Literal["fake"] = "fake"
    training: Annotated[dict[str, Any], FakeArguments] = {}
    rewards: list[str] = []

    def check(self) -> None:
        """Its `training:` has nothing of a trainer's."""


def main() -> int:
    recipe = config.load(sys.argv[1], FakeRecipe, sys.argv[2:])
    folder, act = Path(recipe.output), recipe.training.get("act", "finish")
    line = {
        "output": recipe.output,
        "pid": os.getpid(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "seed": recipe.seed,
    }
    with open(os.environ["JOURNAL"], "a") as journal:
        journal.write(json.dumps(line) + "\n")
    assert recipe.resume == "auto" and not (folder / runs.FINISHED).exists(), "started though it has finished"
    again = (folder / runs.INTERRUPTED).exists()
    run = runs.Run.create(folder, config.to_dict(recipe), resume=True)
    if "wait" in recipe.training and not again:
        open(recipe.training["wait"], "w").close()
    if act == "fail":
        print("error: told to fail", file=sys.stderr)
        return 3
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "pause" and not again:
        caught = signal.sigwait([signal.SIGTERM, signal.SIGINT])
        run.interrupt(step=1, signal=signal.Signals(caught).name)
        return 75
    (folder / "final").mkdir()
    run.finish(steps=2, at=time.time())
    return 0


if __name__ == "__main__":
    # sigwait takes what is blocked; a test may have started this where Ctrl-C is ignored
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    sys.exit(main())
