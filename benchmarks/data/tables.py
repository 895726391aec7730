"""A start on millions of rows: seconds to the first batch, and memory of its own, in each process.

    python -m benchmarks.data.tables                                   # SFT, 4,000,000 rows
    python -m benchmarks.data.tables --stage grpo --rows 200000

A file of rows with short texts about sixteen small pictures is written, and a tiny model with random weights. The
stage's own `train` runs to its first batch in a process of its own, and stops there. Measured are: 1,000 rows; all
rows, for the first time; again; and two processes at once that find nothing kept. Seconds count from the start of the
process, its imports included; beside them the CPU's, for a machine with other work. RssAnon is what a process has for
itself (mapped files are no part of it): at the first batch, and after 10,000 more orders were taken from the sampler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTIONS = ("How many ships lie at the pier?", "Is there a road beside the field?", "What covers most of the area?")
PICTURES = 16
TRAINERS = {
    "sft": ("sft.stage", "sft.trainer", "SFTTrainer", "sft.recipe", "SFTRecipe"),
    "grpo": ("rl.stage", "rl.trainer", "GRPOTrainer", "rl.recipe", "GRPORecipe"),
    "score": (
        "rewards.score.training.stage", "rewards.score.training.trainer", "PreferenceTrainer",
        "rewards.score.training.recipe", "ScoreRecipe",
    ),
}  # fmt: skip
"""Of each stage: modules of `train`, of its trainer and of its recipe."""


def write_rows(path: Path, count: int, stage: str) -> None:
    """Conversations that end in a reply (GRPO drops it), or preferences, with pictures of 56 × 56 beside them."""
    random = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = random.integers(0, 255, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path.parent / f"{number}.png")
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            asked, said = QUESTIONS[number % 3], f"It is {number % 97}."
            row: dict[str, Any] = {"images": [f"{number % PICTURES}.png"], "id": str(number)}
            if stage == "score":
                row |= {"question": asked, "ranked": [said, "It is not known."]}
            else:
                turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
                row |= {"messages": turns[: 1 if stage == "grpo" else 2], "task": "vqa", "answer": str(number % 97)}
            file.write(json.dumps(row) + "\n")


def own_memory() -> int:
    """RssAnon of this process in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


class Reached(Exception):
    """The first batch is there."""


def start(stage: str, data: str, model: str, output: str) -> None:
    """Train to the first batch, say what that took, and stop. In a process of its own."""
    from stage.recipe import config
    from vlm.common.processes import rank

    stage_module, trainer_module, trainer, recipe_module, recipe = TRAINERS[stage]

    def stop(self: Any, *_: Any, **named: Any) -> None:
        found = {
            "seconds": time.time() - float(os.environ["STARTED"]),
            "cpu": time.process_time(),
            "memory": own_memory(),
        }
        orders = iter(self.get_train_dataloader().batch_sampler)
        for _ in range(10_000):
            next(orders, None)
        found["later"] = own_memory()
        (Path(output).parent / f"{rank()}.json").write_text(json.dumps(found))
        raise Reached

    getattr(import_module(trainer_module), trainer).training_step = stop
    training: dict[str, Any] = {"use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 4}
    asked: dict[str, Any] = {
        "stage": stage,
        "model": {"path": model, "dtype": "float32", "attention": "eager"},
        "data": {"train": [{"path": data}]},
        "output": output,
        "images": {"min_pixels": 784, "max_pixels": 3136},
    }
    given: list[Any] = []
    if stage == "grpo":
        training |= {"num_generations": 2, "max_completion_length": 4}
        asked["rewards"] = [{"use": "gated"}]
        given = [[no_reward], lambda rewards, columns: None]
    asked["training"] = training
    made = config.build(asked, getattr(import_module(recipe_module), recipe), where="benchmark")
    with contextlib.suppress(Reached):
        import_module(stage_module).train(made, *given)


def no_reward(completions: Sequence[Any], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def measured(name: str, given: list[str], folder: Path, cache: Path, processes: int = 1) -> list[dict[str, Any]]:
    """Start the stage in this many processes; what each has said. given: of `start`, but for the output."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = ["-m", "benchmarks.data.tables", "--child", *given, f"{output}/run"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command = [*launcher, *command]
        here = {"NADIR_CACHE": str(cache), "STARTED": str(time.time()), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *command], env=os.environ | here, capture_output=True, text=True)
        found = [json.loads(path.read_text()) for path in sorted(Path(output).glob("[0-9].json"))]
    if len(found) != processes:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-6000:]}")
    for one in found:
        memory = f"{one['memory'] / 1e6:,.0f} MB | {one['later'] / 1e6:,.0f} MB"
        print(f"| {name} | {one['seconds']:.1f} s | {one['cpu']:.1f} s | {memory} |", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--stage", choices=TRAINERS, default="sft")
    parser.add_argument("--folder", type=Path, help="where data, model and cache lie for the time")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        return start(*given.child)
    from demo import tiny

    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        tiny.build(folder / "model", seed=1)
        few, all_rows = folder / "few.jsonl", folder / "all.jsonl"
        write_rows(few, 1000, given.stage)
        write_rows(all_rows, given.rows, given.stage)
        rest = [str(folder / "model")]
        print("| run | first batch after | CPU | RssAnon | later |\n| --- | --- | --- | --- | --- |")
        for path in (few, all_rows):
            for again in ("first start", "second start"):
                count = "1,000" if path is few else f"{given.rows:,}"
                measured(f"{count} rows, {again}", [given.stage, str(path), *rest], folder, folder / "cache")
        for again in ("first", "second"):
            said = f"two processes, {again} start"
            measured(said, [given.stage, str(all_rows), *rest], folder, folder / "cache-of-two", 2)
            tables = list((folder / "cache-of-two" / "tables").glob("*/*/rows.arrow"))
            print(f"tables kept: {len(tables)} of {sum(table.stat().st_size for table in tables):,} bytes")


if __name__ == "__main__":
    main()
