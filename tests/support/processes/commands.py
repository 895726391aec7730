"""Running the launchers as a user does, in processes of their own, and what every such test needs around it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
"""`accelerate launch`, by the interpreter that runs the tests."""
LETTERS = """
def letters(completions, **columns):
    return [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]
"""
"""A reward, to be written into a file and named as `FILE.py:letters`: random models spread in it."""
LIMIT = 300
"""Seconds after which a command counts as hung; the slowest takes half a minute on two free cores."""


def two_processes(config: str = "cpu2") -> list:
    """`accelerate launch` with two processes on the CPU, which meet at a free port. config: of recipes/accelerate."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = ROOT / f"recipes/accelerate/{config}.yaml"
    return [*ACCELERATE, "--config_file", file, "--num_processes", 2, "--main_process_port", port]


def environment(**more: str) -> dict[str, str]:
    """The tests' environment without what the launchers set for themselves, and with progress bars off."""
    dropped = ("WANDB_", "HF_HUB_DISABLE_TELEMETRY", "HF_UPDATE_DOWNLOAD_COUNTS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "COLUMNS": "100", **more}


def run(command: list, cwd: Path = ROOT, expect: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fails with its whole output where the exit code is not `expect`."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def errors(output: str) -> list[str]:
    """The lines in which a launcher reports the user's error."""
    return [line for line in output.splitlines() if line.startswith("error: ")]


def grpo(model: str | Path, data: Path, output: Path, *more: str) -> list[str]:
    """Recipe and overrides of a GRPO run of seconds: 2 steps, 2 prompts × 2 completions of 12 tokens."""
    return [
        str(ROOT / "recipes/demo/grpo.yaml"),
        f"model.path={model}",
        f"data.train.0.path={data}/grpo/prompts.jsonl",
        f"output={output}",
        "training.max_steps=2",
        "training.logging_steps=1",
        "training.num_generations=2",
        "training.per_device_train_batch_size=4",
        "training.max_completion_length=12",
        *more,
    ]


def sft(model: str | Path, data: Path, output: Path, *more: str) -> list[str]:
    """Recipe and overrides of an SFT run of seconds: 2 steps of 4 traces."""
    return [
        str(ROOT / "recipes/demo/sft.yaml"),
        f"model.path={model}",
        f"data.train.0.path={data}/sft/traces.json",
        f"output={output}",
        "training.max_steps=2",
        "training.logging_steps=1",
        "training.per_device_train_batch_size=4",
        *more,
    ]


def evaluation(model: str | Path, data: Path, output: Path, *more: str) -> list[str]:
    """Recipe and overrides of an evaluation of seconds: four files of 4 questions, answers of 12 tokens."""
    files = ("vg_test.json", "vqa_test.jsonl", "choice_test.jsonl", "caption_test.jsonl")
    return [
        str(ROOT / "recipes/demo/eval.yaml"),
        f"model.path={model}",
        *(f"data.eval.{number}.path={data}/test/{file}" for number, file in enumerate(files)),
        f"output={output}",
        "generation.max_new_tokens=12",
        *more,
    ]
