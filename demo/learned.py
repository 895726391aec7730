"""The second road of the demo, after the first: the score model in GRPO, in best-of-N and in curation.

    python -m demo.learned        # what `make demo-score` runs; needs the data and the SFT model of `make demo`

GRPO with the learned reward stands beside GRPO with rules alone (at as many steps); the captions of the best of eight
beside chance and majority; and SFT on the 30% of a noisy corpus that the score model keeps beside a random 30% and all.
"""

from __future__ import annotations

from pathlib import Path

from demo.road import DIRECT, LAUNCH, arguments_of, drive, questions

CORPORA = ("score", "random", "all")


def stages(out: str, seed: int, quick: bool) -> list[list[str]]:
    """The commands of the road, in order."""
    data, common = f"{out}/data", ["overwrite=true"]
    steps = ["training.max_steps=3"] if quick else []
    prompts = [f"data.train.{n}.path={data}/grpo/{name}.jsonl" for n, name in enumerate(("prompts", "captions"))]
    captions = [f"data.eval=[{{path: {data}/test/caption_test.jsonl}}]", *DIRECT]

    def launch(stage: str, recipe: str, *more: str) -> list[str]:
        return [*LAUNCH, f"launch/{stage}.py", f"recipes/demo/{recipe}.yaml", *more, *common]

    def evaluate(name: str, model: str, *more: str) -> list[str]:
        return launch("eval", "eval", f"model.path={model}", f"output={out}/eval/{name}", *more)

    grpo = [f"model.path={out}/sft/final", f"output={out}/grpo_score", *prompts, f"seed={seed}", *steps]
    chosen = [f"model.path={out}/sft/final", f"output={out}/bon", f"data.eval.0.path={data}/test/caption_test.jsonl"]
    commands = [
        launch("grpo", "grpo_score", *grpo),
        evaluate("grpo_score", f"{out}/grpo_score/final", *questions(data)),
        launch("bon", "bon", *chosen, f"data.eval.1.path={data}/test/vqa_test.jsonl", f"seed={seed}"),
        ["python", "-m", "demo.noisy", f"{out}/noisy", "--seed", str(seed), *(["--count", "64"] if quick else [])],
    ]
    corpus = f"data.train.0.path={out}/noisy/captions.json"
    for by in ("score", "random"):
        commands.append(launch("curate", "curate", f"by={by}", corpus, f"output={out}/curate/{by}", f"seed={seed}"))
    for name in CORPORA:
        rows = f"{out}/noisy" if name == "all" else f"{out}/curate/{name}/kept"
        train = [f"data.train.0.path={rows}/captions.json", f"data.train.0.images={out}/noisy"]
        commands.append(launch("sft", "captions", *train, f"output={out}/captions/{name}", f"seed={seed}", *steps))
        commands.append(evaluate(f"captions_{name}", f"{out}/captions/{name}/final", *captions))
    for names, folder in ((("sft", "grpo", "grpo_score"), "learned"), ([f"captions_{n}" for n in CORPORA], "curated")):
        runs = [f"{name}={out}/eval/{name}" for name in names]
        commands.append(["python", "launch/compare.py", *runs, "--out", f"{out}/{folder}"])
    return commands


def main() -> None:
    arguments = arguments_of(__doc__)
    if not Path(arguments.out, "sft/final").is_dir():
        raise SystemExit(f"{arguments.out}/sft/final is not there; run `make demo` first")
    out = arguments.out
    drive(stages(out, arguments.seed, arguments.quick))
    print(f"  {out}/learned/table.md   {out}/bon/curve.png   {out}/curate/score/examples.png   {out}/curated/table.md")


if __name__ == "__main__":
    main()
