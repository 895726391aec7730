"""The whole road on a laptop (`make demo`): data → SFT → GRPO → evaluation, through the same commands as a real run.

    python -m demo.road [--seed 0] [--out runs/demo] [--quick]

Each command is printed before it runs, so that it can be copied. `--quick` takes a few steps of everything: a check
that the road is open, not a result. A second run replaces the first.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ["accelerate", "launch", "--config_file", "recipes/accelerate/single.yaml"]
DIRECT = ["prompt.style=direct", "prompt.system=null", "inside=text"]
"""How the base is asked: it was never taught the tags, so its whole completion is the answer."""


def run(command: list[str], environment: dict[str, str]) -> None:
    """Print and run one command in the project's root; stop the road where it fails."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    if done.returncode:
        print(f"\nThe road ends here: exit code {done.returncode} from the command above.", file=sys.stderr)
        raise SystemExit(done.returncode)


def questions(data: str) -> list[str]:
    """Overrides that point recipes/demo/eval.yaml to the test files of a data folder."""
    files = ("vg_test.json", "vqa_test.jsonl", "choice_test.jsonl", "caption_test.jsonl")
    return [f"data.eval.{number}.path={data}/test/{file}" for number, file in enumerate(files)]


def drive(commands: list[list[str]]) -> None:
    """Run the commands in turn and say how long it took."""
    # the commands read as a user would type them; this environment's own python and accelerate run them
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    began = time.monotonic()
    for command in commands:
        run(command, {**os.environ, "PATH": path, "TOKENIZERS_PARALLELISM": "false"})
    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Look at:")


def stages(out: str, seed: int, quick: bool) -> list[list[str]]:
    """The commands of the road, in order."""
    data, common = f"{out}/data", ["overwrite=true"]
    counts = ["--traces", "64", "--prompts", "64", "--test", "8"] if quick else []
    short = ["training.max_steps=3"] if quick else []

    def evaluate(name: str, model: str, *more: str) -> list[str]:
        where = [f"model.path={model}", f"output={out}/eval/{name}"]
        return [*LAUNCH, "launch/eval.py", "recipes/demo/eval.yaml", *where, *questions(data), *more, *common]

    def train(stage: str, file: str, *more: str) -> list[str]:
        where = [f"output={out}/{stage}", f"data.train.0.path={data}/{file}", f"seed={seed}"]
        return [*LAUNCH, f"launch/{stage}.py", f"recipes/demo/{stage}.yaml", *where, *more, *common, *short]

    names = ("base", "sft", "grpo")
    return [
        ["python", "-m", "demo.dataset", data, "--seed", str(seed), *counts],
        evaluate("base", "demo/base", *DIRECT),
        train("sft", "sft/traces.json"),
        evaluate("sft", f"{out}/sft/final"),
        train("grpo", "grpo/prompts.jsonl", f"model.path={out}/sft/final"),
        evaluate("grpo", f"{out}/grpo/final"),
        ["python", "launch/compare.py", *(f"{name}={out}/eval/{name}" for name in names), "--out", out],
    ]


def arguments_of(description: str, out: str = "runs/demo") -> argparse.Namespace:
    """The command line of a road."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="training scenes, data order and sampling")
    parser.add_argument("--out", default=out, help="the run folder")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of(__doc__)
    out = arguments.out
    drive(stages(out, arguments.seed, arguments.quick))
    print(f"  {out}/table.md   {out}/grpo/curves.png   {out}/eval/grpo/pictures.png   {out}/grpo/completions/")


if __name__ == "__main__":
    main()
