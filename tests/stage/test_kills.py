"""kill -9 at every place that matters, signals, and `resume: auto` by the launchers themselves.

Each chain is one run: it is killed, started again with the same command, killed at the next place, and so on to its
end. Whole checkpoints are all that may lie there in between, and the end must be that of the run nobody killed.
benchmarks/kills.py does the same to the demo at random moments.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stage.checkpoints import manifest
from stage.runs import read_metrics
from tests.support.processes import commands, forked
from tests.support.processes.commands import LETTERS
from tests.support.processes.dying import begun, run

pytestmark = pytest.mark.xdist_group("kills")
SAVING = (
    "training.save_strategy=steps",
    "training.save_steps=1",
    "training.save_total_limit=2",
    "training.max_steps=6",
)
BLOCK = ("gradient_accumulation_steps=2", "steps_per_generation=4", "num_iterations=2", "per_device_train_batch_size=2")
CHAINS = {
    # the place, and the call at which this process dies there; each process makes some progress
    "grpo": [
        ("rewards", 1), ("backward", 3), ("writing", 2), ("renaming", 1), ("rollout", 1), ("deleting", 3), ("final", 1),
    ],
    "sft": [("optimiser", 2), ("manifest", 2), ("renamed", 1), ("log", 1)],
}  # fmt: skip


@pytest.fixture(scope="module")
def command(tiny_model, demo_data, tmp_path_factory):
    """(stage, folder name, overrides) → the launcher's arguments and the run folder."""
    base = tmp_path_factory.mktemp("kills")
    (base / "letters.py").write_text(LETTERS)
    reward = f"rewards=[{{use: {base}/letters.py:letters}}]"

    def make(stage, name, *more):
        own = [*(f"training.{key}" for key in BLOCK), reward] if stage == "grpo" else []
        argv = getattr(commands, stage)(tiny_model, demo_data, base / f"{stage}-{name}", *SAVING, *own, *more)
        return argv, base / f"{stage}-{name}"

    return make


@pytest.fixture(scope="module", params=CHAINS)
def plain(request, command):
    """The stage, and the run that nobody killed."""
    argv, folder = command(request.param, "plain")
    assert run(request.param, argv) == 0
    return request.param, folder


def check_same(folder: Path, expected: Path) -> None:
    """Weights to the bit, metrics but for the clock's."""
    found, right = (load_file(path / "final/model.safetensors") for path in (folder, expected))
    assert [name for name in right if not found[name].equal(right[name])] == []
    clock = ("time", "throughput/", "train_", "step_time")
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(clock)} for row in read_metrics(path / "metrics.jsonl")]
        for path in (folder, expected)
    ]
    assert rows[0] == rows[1]


def test_killed_everywhere(plain, command):
    stage, expected = plain
    argv, folder = command(stage, "killed", "resume=auto")
    last = 0
    for place, call in CHAINS[stage]:
        assert run(stage, argv, place, call) == -signal.SIGKILL, place
        paths = manifest.folders(folder)
        assert all(manifest.read(path) for path in paths), place
        latest = manifest.latest(folder)
        assert (latest.step if latest else 0) >= last, place
        last = latest.step if latest else 0
        assert not (folder / "finished.json").exists()
    assert run(stage, argv) == 0
    check_same(folder, expected)
    assert not (folder / ".unfinished").exists() and len(manifest.folders(folder)) == 2
    if stage == "grpo":
        return
    # the same command once more
    before = (folder / "final/model.safetensors").stat().st_mtime_ns
    assert run(stage, argv) == 0
    assert (folder / "final/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("plain", ["sft"], indirect=True)
def test_signals_save_at_the_next_step_and_ask_to_be_started_again(plain, command):
    """The last start runs to the end, which is the same. (GRPO, in two processes: test_distributed.)"""
    stage, expected = plain
    argv, folder = command(stage, "stopped", "resume=auto", "training.save_strategy=no")
    for turn, number in enumerate([signal.SIGUSR1, signal.SIGINT], 1):
        assert run(stage, argv, "backward", 2, number) == 75
        told = json.loads((folder / "interrupted.json").read_text())
        assert (told["step"], told["signal"], told["exit_code"]) == (2 * turn, number.name, 75)
        assert manifest.latest(folder).step == 2 * turn
    assert run(stage, argv) == 0
    assert not (folder / "interrupted.json").exists()
    check_same(folder, expected)


@pytest.mark.parametrize("plain", ["sft"], indirect=True)
def test_a_requeued_run_beside_its_old_self(plain, command):
    """Started while the first one trains: refused in one line, or, with `resume=auto`, as long waiting as it lives.
    Then it goes on from its checkpoint, to the same end."""
    stage, expected = plain
    argv, folder = command(stage, "twice")
    with begun(stage, argv, "backward", 3, signal.SIGSTOP) as first:
        first.stopped()
        refused = forked.run([sys.executable, commands.ROOT / f"launch/{stage}.py", *argv], expect=2)
        (line,) = commands.errors(refused.stderr)
        assert line.startswith(f"error: {folder}: another run writes there: process {first.pid} on ")
        with begun(stage, [*argv, "resume=auto"], said=folder.with_suffix(".log")) as second:
            second.says(f"another run writes there: process {first.pid}")
            os.kill(first.pid, signal.SIGKILL)
            assert second.end() == 0
    check_same(folder, expected)


@pytest.mark.parametrize("plain", ["sft"], indirect=True)
def test_a_cut_checkpoint_is_passed_over(plain, command):
    """The one before is taken (with a warning, see test_checkpoints), and the end is the same."""
    stage, expected = plain
    argv, folder = command(stage, "cut", "resume=auto")
    assert run(stage, argv, "renamed", 4) == -signal.SIGKILL
    weights = folder / "checkpoint-4/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert run(stage, argv) == 0
    check_same(folder, expected)
