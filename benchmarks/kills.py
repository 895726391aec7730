"""kill -9 at random moments in the demo's SFT and GRPO, resumed each time:  python -m benchmarks.kills [--kills 20]

An uninterrupted run first; then the same run is killed at a moment drawn by the seed, started again with resume=auto,
killed again, and so on to its end; then another one, until there were as many kills as asked for. After each kill every
checkpoint must be complete, and at each end the weights must be the uninterrupted run's to the bit (CPU, float32).
The exit code is 1 where one is not. GRPO starts from the SFT's model, so that its rewards differ.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from benchmarks.support.common import ROOT
from stage.checkpoints import manifest

# Before it is killed a process writes where it is; the handler runs immediately, whatever the process does.
WRAPPED = (
    "import faulthandler, runpy, signal, sys; sys.argv = sys.argv[1:]; "
    "faulthandler.register(signal.SIGUSR2, open(sys.argv.pop(0), 'w'), all_threads=False); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
PHASES = (
    ("_save_checkpoint", "saving"), ("save_model", "final model"), ("draw", "curves"),
    ("_calculate_rewards", "rewards"),
    ("_generate_single_turn", "rollout"), ("_generate_and_score_completions", "reference, preparation"),
    ("backward", "backward"), ("compute_loss", "forward"), ("clip_grad_norm_", "clipping"), ("step", "optimiser"),
    ("get_batch_samples", "data"), ("_maybe_log_save_evaluate", "logging"), ("_inner_training_loop", "training loop"),
    ("__init__", "building the trainer"),
)  # fmt: skip
"""Function on the stack → phase; the first that is found counts."""
STEPS = 12
SAVING = (
    "training.save_strategy=steps",
    "training.save_steps=2",
    "training.save_total_limit=2",
    f"training.max_steps={STEPS}",
    "training.logging_steps=1",
)


@dataclass
class Stage:
    name: str
    argv: list[str]
    plain: Path
    first: float = 0.0
    "Seconds until the uninterrupted run had measured its first step."
    seconds: float = 0.0
    "Seconds until its end."

    def moment(self, steps: int, draw: random.Random) -> float:
        """Seconds to let a run live that continues from this step: mostly into what is left of its training."""
        left = (1 - steps / STEPS) * (self.seconds - self.first)
        return draw.uniform(0.9 * self.first, self.first + left)


def command(stage: Stage, output: Path, trace: Path) -> list[str]:
    launcher = str(ROOT / f"launch/{stage.name}.py")
    return [sys.executable, "-c", WRAPPED, str(trace), launcher, *stage.argv, f"output={output}", "resume=auto"]


def start(stage: Stage, output: Path, trace: Path, log: Path) -> subprocess.Popen:
    trace.write_text("")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command(stage, output, trace), cwd=ROOT, stdout=file, stderr=file, env=environment)


def phase(trace: Path) -> str:
    """What the stack in `trace` was doing."""
    stack = trace.read_text()
    return next((name for function, name in PHASES if f" in {function}\n" in stack), "starting")


def kill_once(stage: Stage, output: Path, folder: Path, delay: float) -> tuple[str, bool]:
    """Run and kill after `delay` seconds: (phase, whether it was still there to be killed)."""
    trace = folder / "trace.txt"
    process = start(stage, output, trace, folder / "log.txt")
    try:
        code = process.wait(delay)
        if code:
            sys.exit(f"{stage.name} ended with exit code {code}; see {folder}/log.txt")
        return "", False
    except subprocess.TimeoutExpired:
        process.send_signal(12)  # SIGUSR2; a process that has not got to its first line yet dies of it
        time.sleep(0.1)
        process.kill()
        process.wait()
        return phase(trace), True


def uninterrupted(stage: Stage, folder: Path) -> None:
    """Run it, and note how long it takes."""
    begun = time.monotonic()
    process = start(stage, stage.plain, folder / "trace.txt", folder / "log.txt")
    while process.poll() is None:
        time.sleep(0.1)
        if not stage.first and (stage.plain / "metrics.jsonl").exists():
            stage.first = time.monotonic() - begun
    if process.returncode:
        sys.exit(f"{stage.name}: the uninterrupted run failed; see {folder}/log.txt")
    stage.seconds = time.monotonic() - begun


def same(output: Path, plain: Path) -> bool:
    found, expected = (load_file(path / "final/model.safetensors") for path in (output, plain))
    return found.keys() == expected.keys() and all(found[name].equal(expected[name]) for name in expected)


def torment(stage: Stage, kills: int, draw: random.Random, folder: Path, table: Table) -> bool:
    """Whether every checkpoint was whole and every end the same."""
    well, done, turn = True, 0, 0
    while done < kills:
        turn += 1
        output = folder / f"{stage.name}-{turn}"
        alive, last = True, 0
        while alive:
            delay = stage.moment(last, draw) if done < kills else 10 * stage.seconds + 600
            at, alive = kill_once(stage, output, folder, delay)
            done += alive
            paths = manifest.folders(output)
            whole = all(manifest.read(path) for path in paths)  # raises where one is not
            numbers = [int(path.name.rpartition("-")[2]) for path in paths]
            last, steps = max(numbers, default=0), ", ".join(map(str, numbers)) or "none"
            if alive:
                table.add_row(stage.name, str(done), f"{delay:.1f}", at, steps, "yes" if whole else "NO")
                print(f"{stage.name}: kill {done} after {delay:.1f} s in {at}; checkpoints {steps}", flush=True)
        equal = same(output, stage.plain)
        well = well and equal
        print(f"{stage.name}: run {turn} has come to its end: {'the same' if equal else 'ANOTHER ONE'}", flush=True)
        table.add_row(stage.name, f"end {turn}", "", "", steps, "bit-identical" if equal else "DIFFERENT")
    return well


def stages(folder: Path) -> list[Stage]:
    """The demo's data, SFT and GRPO of STEPS steps; GRPO in blocks of 4 micro-batches, each used twice."""
    data = folder / "data"
    if not data.exists():
        subprocess.run(
            [sys.executable, "-m", "demo.dataset", str(data), "--prompts", "64", "--test", "4"], cwd=ROOT, check=True
        )
    sft = [str(ROOT / "recipes/demo/sft.yaml"), f"data.train.0.path={data}/sft/traces.json", *SAVING]
    block = {"per_device_train_batch_size": 16, "steps_per_generation": 4, "num_iterations": 2}
    grpo = [
        str(ROOT / "recipes/demo/grpo.yaml"), f"data.train.0.path={data}/grpo/prompts.jsonl",
        f"model.path={folder}/sft-plain/final", *SAVING, *(f"training.{key}={value}" for key, value in block.items()),
    ]  # fmt: skip
    return [Stage("sft", sft, folder / "sft-plain"), Stage("grpo", grpo, folder / "grpo-plain")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    arguments = parser.parse_args()
    folder = arguments.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(
        "stage", "kill", "after, s", "phase", "checkpoints", "complete / weights", title=f"seed {arguments.seed}"
    )
    well = True
    for stage in stages(folder):
        uninterrupted(stage, folder)
        well = torment(stage, arguments.kills, random.Random(arguments.seed), folder, table) and well
    Console(width=110).print(table)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
