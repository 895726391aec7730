"""launch/grpo.py in two processes that are killed:  accelerate launch killed_ranks.py RECIPE …

KILLS is a list, in JSON, of what happens in the starts of a run, of which this one is number START:
{"rank": 1, "both": false, "place": "backward", "call": 2}. `place` and `call` are those of `dying`; with `both`, the
process that comes there kills the other one, too. Each death is a line of the file JOURNAL. As in `zero_cpu`, DeepSpeed
trains without a GPU.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
ROOT = Path(__file__).parents[3]


def arm(death: dict) -> None:
    import psutil

    from tests.support.processes.dying import PLACES
    from tests.support.processes.dying import arm as armed

    def die() -> None:
        with open(os.environ["JOURNAL"], "a") as journal:
            journal.write(json.dumps(death) + "\n")
        if death["both"]:
            for sibling in psutil.Process(os.getppid()).children():
                if sibling.pid != os.getpid():
                    sibling.kill()
        os.kill(os.getpid(), signal.SIGKILL)

    armed(*PLACES[death["place"]], death["call"], die)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from vlm.common import telemetry

    telemetry.quiet()  # as the launcher does, which comes after these imports here
    from tests.support.processes.zero_cpu import build_nothing, give_gloo

    build_nothing()
    give_gloo()
    kills, start = json.loads(os.environ["KILLS"]), int(os.environ["START"])
    if start < len(kills) and kills[start]["rank"] == int(os.environ["RANK"]):
        arm(kills[start])
    runpy.run_path(str(ROOT / "launch/grpo.py"), run_name="__main__")
