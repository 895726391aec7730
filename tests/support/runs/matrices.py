"""Matrices of the fake launcher, and launch/ablate.py with it: in this process, or by `python -m` this module."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stage.cli import guarded
from stage.recipe import config
from studies.matrix import command, planning
from studies.matrix.recipe import Launcher, MatrixRecipe
from tests.support.processes import fake_launcher
from tests.support.processes.fake_launcher import FakeRecipe

FAKE = {"fake": Launcher(str(fake_launcher.HERE), FakeRecipe)}
BASE = "stage: fake\noutput: nowhere\nmodel: {path: base}\nrewards: [rules, score]\ntraining: {act: finish, lr: 0.1}\n"
ROADS = """
stage: ablation
output: out
stages:
  sft: {launch: fake, recipe: base.yaml}
  grpo: {launch: fake, recipe: base.yaml, set: {model.path: '{sft}/final', training.lr: 0.2}}
  eval: {launch: fake, recipe: base.yaml, seeded: false, set: {model: {path: '{grpo}/final'}}}
axes:
  road:
    Zero: {grpo: {model.path: base}}
    SFT: {eval: {model.path: '{sft}/final'}}
    R1: {}
  score:
    with: {}
    without: {grpo: no_score.yaml}
seeds: [0, 1]
"""
"""The shape of recipes/ablation.yaml."""


def folder(path: Path, matrix: str = ROADS) -> Path:
    """A folder with `matrix.yaml`, what it names, and a FIFO."""
    (path / "base.yaml").write_text(BASE)
    (path / "no_score.yaml").write_text("base: base.yaml\noutput: elsewhere\nrewards: [rules]\ntraining: {lr: 0.3}\n")
    (path / "matrix.yaml").write_text(matrix)
    return path


def plan(*overrides: str, file: str = "matrix.yaml") -> planning.Plan:
    """Of the matrix in the current directory."""
    return planning.plan(config.load(file, MatrixRecipe, overrides), Path(file), FAKE)


def started(journal: Path) -> list[dict]:
    """What the fake launcher was started for, in order."""
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


def main(*argv: str) -> int:
    """launch/ablate.py with the fake launcher; the exit code."""
    codes: list[int] = []
    arguments = command.parser("").parse_intermixed_args(argv)
    return guarded(lambda: codes.append(command.main(arguments, FAKE))) or codes[0]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
