"""The zoom demo's road: data → SFT → GRPO with tools → evaluation, by the commands of a real run.

    python -m demo.zoom.road [--seed 0] [--out runs/zoom] [--quick]

Each command is printed before it runs. Beside SFT on chains with calls stands SFT on the same questions without
(`sft_plain`); `--quick` takes a few steps of everything. A second run replaces the first.
"""

from __future__ import annotations

from demo.road import LAUNCH, arguments_of, drive

RECIPES = "recipes/demo/zoom"
FILES = ("small_test.jsonl", "easy_test.jsonl")
PLAIN = ["tools=[]"]
"""No tool: the picture is seen at the model's budget alone."""
BLIND, BARE = ["controls=[blind, shuffled]"], ["controls=[no_zoom]"]
"""What can be asked of a model that has no tool; and the one control of the SFT model, for the time that all take."""


def stages(out: str, seed: int, quick: bool) -> list[list[str]]:
    """The commands of the road, in order."""
    data, common = f"{out}/data", ["overwrite=true"]
    counts = ["--chains", "64", "--prompts", "64", "--test", "16"] if quick else []
    short = ["training.max_steps=3"] if quick else []

    def evaluate(name: str, model: str, *more: str) -> list[str]:
        where = [f"model.path={model}", f"output={out}/eval/{name}"]
        asked = [f"data.eval.{number}.path={data}/test/{file}" for number, file in enumerate(FILES)]
        return [*LAUNCH, "launch/eval.py", f"{RECIPES}/eval.yaml", *where, *asked, *more, *common]

    def train(stage: str, name: str, *more: str) -> list[str]:
        where = [f"output={out}/{name}", f"seed={seed}"]
        return [*LAUNCH, f"launch/{stage}.py", f"{RECIPES}/{stage}.yaml", *where, *more, *common, *short]

    chains, answers = ([f"data.train.0.path={data}/sft/{name}.jsonl"] for name in ("chains", "plain"))
    prompts = [f"data.train.0.path={data}/grpo/prompts.jsonl", f"model.path={out}/sft/final"]
    names = ("sft_plain", "sft", "grpo")
    return [
        ["python", "-m", "demo.zoom.dataset", data, "--seed", str(seed), *counts],
        train("sft", "sft_plain", *answers, *PLAIN),
        evaluate("sft_plain", f"{out}/sft_plain/final", *PLAIN, *BLIND),
        train("sft", "sft", *chains),
        evaluate("sft", f"{out}/sft/final", *BARE),
        train("grpo", "grpo", *prompts),
        evaluate("grpo", f"{out}/grpo/final"),
        ["python", "launch/compare.py", *(f"{name}={out}/eval/{name}" for name in names), "--out", out],
    ]


def main() -> None:
    arguments = arguments_of(__doc__, "runs/zoom")
    out = arguments.out
    drive(stages(out, arguments.seed, arguments.quick))
    print(f"  {out}/table.md   {out}/grpo/curves.png   {out}/eval/grpo/pictures.png   {out}/grpo/completions/")


if __name__ == "__main__":
    main()
