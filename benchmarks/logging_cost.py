"""What logging costs in the demo's GRPO:  python -m benchmarks.logging_cost --steps 40

One run with everything that a run logs (metrics.jsonl, TRL's table as parquet, samples.jsonl with pictures, alerts, and
wandb offline with the table of completions), in every second step all of it, in the others nothing. Reported:

    direct    seconds within the logging calls of a step, over the rest of that step; median over steps
    paired    duration of a step with logging over that of the step before without it; median over pairs. Completions
              of the two differ in length and the machine has other work: its noise is larger than what is measured
    outside   CPU seconds of the processes that wandb starts, over those of the trainer, in the whole run
    recipe    the direct cost at the rates of the recipe: a log every `logging_steps`, a table every `samples.every`
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks.support.common import ROOT, machine

WARM = 4
"""First steps that are not counted: the shared path is checked, caches fill, wandb starts."""


@dataclass
class Step:
    """Wall seconds."""

    logged: bool
    whole: float = 0.0
    calls: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    "Of it, within logging, by part."

    @property
    def work(self) -> float:
        return self.whole - sum(self.calls.values())


class Meter:
    """Switches logging on in every second step, and times it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.begun = 0.0

    def next(self) -> None:
        """A step begins; the one before is over."""
        now = time.perf_counter()
        if self.steps:
            self.steps[-1].whole = now - self.begun
        self.steps.append(Step(logged=len(self.steps) % 2 == 1))
        self.begun = now

    def part(self, name: str, call: Callable) -> Callable:
        """The call, timed in steps with logging, left out in the others."""

        def timed(*given: Any, **named: Any) -> Any:
            if not self.steps or not self.steps[-1].logged:
                return None
            start = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.steps[-1].calls[name] += time.perf_counter() - start

        return timed

    def watch(self, trainer: Any) -> None:
        from transformers import TrainerCallback

        meter = self

        class Begin(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                meter.next()

        trainer.log = self.part("log", trainer.log)
        trainer.samples.take = self.part("table", trainer.samples.take)
        trainer.add_callback(Begin())


def figures(steps: Sequence[Step], rates: dict[str, int]) -> dict[str, Any]:
    """Costs as shares of a step without logging. rates: by part, steps from one to the next."""
    steps = steps[WARM:-1]  # the last has no end
    logged = [step for step in steps if step.logged]
    parts = {name: statistics.median(step.calls[name] / step.work for step in logged) for name in rates}
    pairs = [on.whole / off.whole for off, on in zip(steps, steps[1:], strict=False) if on.logged]
    direct = [sum(step.calls.values()) / step.work for step in logged]
    return {
        "steps": len(steps),
        "step_seconds": statistics.median(step.work for step in steps),
        "parts": parts,
        "direct": {"median": statistics.median(direct), "min": min(direct), "max": max(direct)},
        "paired": {"median": statistics.median(pairs) - 1, "quartiles": [q - 1 for q in statistics.quantiles(pairs)]},
        "recipe": sum(share / rates[name] for name, share in parts.items()),
    }


def recipe_of(options: argparse.Namespace, folder: Path) -> tuple[Any, dict[str, int]]:
    """The demo's recipe, logging everything at each step; and the rates that it would log at."""
    from demo import dataset
    from demo.world.scene import SPLIT_SEEDS
    from rl.recipe import GRPORecipe
    from stage.recipe import config

    dataset.prompts(folder / "data/grpo", SPLIT_SEEDS["grpo"], options.prompts)
    given = [
        f"model.path={options.model}",
        f"data.train.0.path={folder}/data/grpo/prompts.jsonl",
        f"output={folder}/run",
        f"training.max_steps={options.steps}",
        "tracking.project=logging-cost",
        "tracking.mode=offline",
        f"tracking.report_to=[{options.tracker}]",
        *options.override,
    ]
    path = ROOT / "recipes/demo/grpo.yaml"
    recipe = config.load(path, GRPORecipe, given)
    rates = {"log": recipe.training["logging_steps"], "table": recipe.tracking.samples.every}
    return config.load(path, GRPORecipe, [*given, "training.logging_steps=1", "tracking.samples.every=1"]), rates


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import rewards
    from rl.stage import train
    from stage.trainer import finish

    recipe, rates = recipe_of(options, folder)
    meter, follow, used = Meter(), finish.follow, {}

    def followed(trainer: Any, *rest: Any) -> None:
        show = trainer.show_samples
        trainer.show_samples = lambda samples: (show(samples), meter.watch(trainer))
        follow(trainer, *rest)
        used["outside"] = _outside(before)

    functions = [rewards.resolve(reward.use, **reward.options) for reward in recipe.rewards]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    begun = time.process_time()
    with mock.patch.object(finish, "follow", followed):
        train(recipe, functions, rewards.check_data)
    used["trainer"] = time.process_time() - begun
    found = figures(meter.steps, rates) | {"outside": used["outside"] / used["trainer"], "rates": rates}
    lines = len((folder / "run/samples.jsonl").read_text().splitlines())
    logs = len((folder / "run/metrics.jsonl").read_text().splitlines())
    return found | {"tables": lines // recipe.tracking.samples.rows, "logs": logs}


def _outside(before: set[int]) -> float:
    """CPU seconds of the processes that this one has started since it had those of `before`."""
    children = psutil.Process().children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in children if child.pid not in before)


def table(found: dict[str, Any]) -> str:
    parts, rates = found["parts"], found["rates"]
    quartiles = found["paired"]["quartiles"]
    return "\n".join(
        [
            f"A step without logging: {found['step_seconds']:.3f} s (median of {found['steps']} steps).",
            "",
            "| cost, of a step | |",
            "|---|---:|",
            f"| a log (every step) | {parts['log']:.2%} |",
            f"| a table of completions (every step) | {parts['table']:.2%} |",
            f"| both, in every step | {found['direct']['median']:.2%} |",
            f"| both, at the recipe's rates (1 in {rates['log']}, 1 in {rates['table']}) | {found['recipe']:.2%} |",
            f"| paired steps, in every step (quartiles {quartiles[0]:+.1%}, {quartiles[2]:+.1%}) | "
            f"{found['paired']['median']:+.2%} |",
            f"| CPU of wandb's own processes | {found['outside']:.2%} |",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=44, help=f"of which the first {WARM} and the last are not counted")
    parser.add_argument("--prompts", type=int, default=400, help="rows of data")
    parser.add_argument("--model", default="demo/base", help="checkpoint")
    parser.add_argument("--tracker", default="wandb", help="wandb, or nothing for the run folder alone")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("override", nargs="*", metavar="key.sub=value", help="changes to the demo's recipe")
    options = parser.parse_args(argv)
    os.environ.setdefault("WANDB_SILENT", "true")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    told = found | {"machine": machine(argparse.Namespace(device="cpu", threads=1))}
    (options.out / "logging_cost.json").write_text(json.dumps(told, indent=2) + "\n")
    (options.out / "logging_cost.md").write_text(table(found) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
