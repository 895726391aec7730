"""The change demo's road: data → SFT → GRPO with `caption` and `mask` → evaluation, by the commands of a real run.

    python -m demo.change.road [--seed 0] [--out runs/change] [--quick]

Each command is printed before it runs. `--quick` takes a few steps of everything. A second run replaces the first.
"""

from __future__ import annotations

from demo.road import LAUNCH, arguments_of, drive

RECIPES = "recipes/demo/change"


def stages(out: str, seed: int, quick: bool) -> list[list[str]]:
    """The commands of the road, in order."""
    data, common = f"{out}/data", ["overwrite=true"]
    counts = ["--sft", "32", "32", "--grpo", "32", "32", "--test", "8", "8"] if quick else []
    short = ["training.max_steps=3"] if quick else []

    def source(split: str, role: str) -> list[str]:
        pairs, scenes = f"{data}/LevirCCcaptions.json", f"{data}/segment/{split}.jsonl"
        return [f"data.{role}.0.path={pairs}", f"data.{role}.1.path={scenes}"]

    def evaluate(name: str, model: str) -> list[str]:
        where = [f"model.path={model}", f"output={out}/eval/{name}", *source("test", "eval")]
        return [*LAUNCH, "launch/eval.py", f"{RECIPES}/eval.yaml", *where, *common]

    def train(stage: str, *more: str) -> list[str]:
        where = [f"output={out}/{stage}", *source(stage, "train"), f"seed={seed}"]
        return [*LAUNCH, f"launch/{stage}.py", f"{RECIPES}/{stage}.yaml", *where, *more, *common, *short]

    names = ("base", "sft", "grpo")
    counted = f"rewards.0.options.frequencies.path={data}/LevirCCcaptions.json"
    return [
        ["python", "-m", "demo.change.dataset", data, "--seed", str(seed), *counts],
        evaluate("base", "demo/change/base"),
        train("sft"),
        evaluate("sft", f"{out}/sft/final"),
        train("grpo", f"model.path={out}/sft/final", counted),
        evaluate("grpo", f"{out}/grpo/final"),
        ["python", "launch/compare.py", *(f"{name}={out}/eval/{name}" for name in names), "--out", out],
    ]


def main() -> None:
    arguments = arguments_of(__doc__, "runs/change")
    out = arguments.out
    drive(stages(out, arguments.seed, arguments.quick))
    print(f"  {out}/table.md   {out}/grpo/curves.png   {out}/eval/grpo/pictures.png   {out}/grpo/completions/")


if __name__ == "__main__":
    main()
