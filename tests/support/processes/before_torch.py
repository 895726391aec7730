"""What torch's allocator is told by each command that uses a GPU:  python before_torch.py FOLDER

Each launcher runs in a process forked from this one, up to where it has asked for expandable segments, and says
whether torch was there already.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMMANDS = {
    "sft": ["recipes/demo/sft.yaml"],
    "grpo": ["recipes/demo/grpo.yaml"],
    "score": ["recipes/demo/score.yaml"],
    "eval": ["recipes/demo/eval.yaml"],
    "benchmarks": ["--benchmarks", "aid", "--model", "demo/base", "--data"],
    "bon": ["recipes/demo/bon.yaml"],
    "curate": ["recipes/demo/curate.yaml"],
    "prefer": ["recipes/prefer.yaml"],
    "serve": ["recipes/score/serve.yaml"],
    "replay": ["--step", "1"],
}


def told(real):
    def expandable(recipe=None):
        before = "torch" in sys.modules
        real(recipe)
        print(json.dumps([before, os.environ.get("PYTORCH_ALLOC_CONF")]), flush=True)
        os._exit(0)

    return expandable


def main(folder: str) -> None:
    from stage.guards import allocator

    allocator.expandable = told(allocator.expandable)
    for module in ("evals.benchmarks.session", "rewards.score.training.stage", "rl.stage", "sft.stage"):
        importlib.import_module(module)  # once instead of in each
    for name, argv in COMMANDS.items():
        print(name, end=" ", flush=True)
        if not (child := os.fork()):
            script = ROOT / f"launch/{name.replace('benchmarks', 'eval')}.py"
            sys.argv = [str(script), *argv, *([folder] if name in ("benchmarks", "replay") else [])]
            runpy.run_path(str(script), run_name="__main__")
        os.waitpid(child, 0)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    os.chdir(ROOT)
    main(sys.argv[1])
