"""The detection demo's road: data → SFT → GRPO with the reward `detect` → evaluation, by the commands of a real run.

    python -m demo.detect.road [--seed 0] [--out runs/detect] [--quick]

Each command is printed before it runs. `--quick` takes a few steps of everything. A second run replaces the first.
"""

from __future__ import annotations

from demo.road import LAUNCH, arguments_of, drive

RECIPES = "recipes/demo/detect"


def stages(out: str, seed: int, quick: bool) -> list[list[str]]:
    """The commands of the road, in order."""
    data, common = f"{out}/data", ["overwrite=true"]
    counts = ["--sft", "64", "--grpo", "64", "--test", "16"] if quick else []
    short = ["training.max_steps=3"] if quick else []

    def evaluate(name: str, model: str) -> list[str]:
        where = [f"model.path={model}", f"output={out}/eval/{name}", f"data.eval.0.path={data}/test"]
        return [*LAUNCH, "launch/eval.py", f"{RECIPES}/eval.yaml", *where, *common]

    def train(stage: str, *more: str) -> list[str]:
        where = [f"output={out}/{stage}", f"data.train.0.path={data}/{stage}", f"seed={seed}"]
        return [*LAUNCH, f"launch/{stage}.py", f"{RECIPES}/{stage}.yaml", *where, *more, *common, *short]

    names = ("base", "sft", "grpo")
    return [
        ["python", "-m", "demo.detect.dataset", data, "--seed", str(seed), *counts],
        evaluate("base", "demo/detect/base"),
        train("sft"),
        evaluate("sft", f"{out}/sft/final"),
        train("grpo", f"model.path={out}/sft/final"),
        evaluate("grpo", f"{out}/grpo/final"),
        ["python", "launch/compare.py", *(f"{name}={out}/eval/{name}" for name in names), "--out", out],
    ]


def main() -> None:
    arguments = arguments_of(__doc__, "runs/detect")
    out = arguments.out
    drive(stages(out, arguments.seed, arguments.quick))
    print(f"  {out}/table.md   {out}/grpo/curves.png   {out}/eval/grpo/pictures.png   {out}/grpo/completions/")


if __name__ == "__main__":
    main()
