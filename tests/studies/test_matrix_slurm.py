"""A matrix as jobs of Slurm and as a list of commands; and what it costs before it runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stage.recipe import config
from studies.matrix import cost, slurm
from studies.matrix.commands import overrides, words
from tests.support.processes import stand_ins
from tests.support.processes.commands import ROOT
from tests.support.processes.fake_launcher import FakeRecipe
from tests.support.runs import matrices
from tests.support.runs.matrices import FAKE, main, plan

WAVES = [
    # seed 0 first in each wave
    ["Zero-with/seed-0/grpo", "Zero-without/seed-0/grpo", "SFT/seed-0/sft"],
    ["Zero-with/seed-0/eval", "Zero-without/seed-0/eval", "SFT/seed-0/eval", "R1-with/seed-0/grpo",
     "R1-without/seed-0/grpo"],
    ["R1-with/seed-0/eval", "R1-without/seed-0/eval"],
]  # fmt: skip
FAKES = {
    "sbatch": 'echo "$*" >> "$LOGS/sbatch"; wc -l < "$LOGS/sbatch"',
    # srun runs the command, by the interpreter of the tests and with the fake launcher
    "srun": f'echo "$*" > "$LOGS/srun"; shift 3; exec {sys.executable} -m tests.support.runs.matrices "$@"',
    "scontrol": 'echo "$*" > "$LOGS/scontrol"',
}


@pytest.fixture
def here(tmp_path, monkeypatch, log_levels):
    monkeypatch.chdir(matrices.folder(tmp_path))
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    return tmp_path


@pytest.fixture
def job(here):
    """Runs the script in `here` with stand-ins for Slurm: variables → exit code."""
    run = stand_ins.install(here, FAKES)
    return lambda **variables: run("jobs/jobs.sh", PYTHONPATH=str(ROOT), **variables)


def test_the_waves(here):
    found = slurm.waves(plan("seeds=[0]").stages)
    assert [[stage.key for stage in wave] for wave in found] == WAVES


def test_the_script_submits_each_wave_after_the_one_before(here, job):
    options = "slurm={time: '01:00:00', partition: a b}"
    assert main("matrix.yaml", "seeds=[0]", "per_run=4", options, "--slurm", "jobs/jobs.sh") == 0
    assert subprocess.run(["bash", "-n", "jobs/jobs.sh"], check=False).returncode == 0
    lines = Path("jobs/jobs.sh").read_text().splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --gpus-per-node=4" in lines and "#SBATCH --requeue" in lines
    assert "#SBATCH --time=01:00:00" in lines and "#SBATCH --signal=TERM@900" in lines
    # sbatch stops reading options at the first command
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index("set -euo pipefail")
    assert job() == 0
    submitted = [line.split() for line in (here / "sbatch").read_text().splitlines()]
    # as many as the waves are long; the stand-in counts job ids from 1
    assert [words[:-1] for words in submitted] == [
        ["--parsable", "--array=0-2"],
        ["--parsable", "--array=3-7", "--dependency=afterany:1"],
        ["--parsable", "--array=8-9", "--dependency=afterany:2"],
    ]


def test_an_element_is_one_stage(here, job):
    assert main("matrix.yaml", "seeds=[0]", "--slurm", "jobs/jobs.sh") == 0
    assert job(SLURM_ARRAY_TASK_ID="2", SLURM_JOB_ID="4711") == 0
    said = shlex.split((here / "srun").read_text())
    assert said[1:] == ["python", str(ROOT / "launch/ablate.py"), "matrix.yaml", "seeds=[0]", "--stage", WAVES[0][2]]
    assert [line["output"] for line in matrices.started(here / "journal")] == ["out/SFT/seed-0/sft"]
    assert not (here / "scontrol").exists()


def test_an_element_that_a_signal_has_stopped_is_queued_again(here, job):
    (here / "bin/srun").write_text("#!/bin/bash\nexit 75\n")
    assert main("matrix.yaml", "--slurm", "jobs/jobs.sh") == 0
    assert job(SLURM_ARRAY_TASK_ID="0", SLURM_JOB_ID="4711") == 75
    assert (here / "scontrol").read_text() == "requeue 4711\n"


def test_the_list_of_commands(here, capfd):
    assert main("matrix.yaml", "seeds=[0]", "--commands") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line[0] == "#"] == [f"# wave {n} of 3" for n in (1, 2, 3)]
    commands = [shlex.split(line) for line in lines if line[0] != "#"]
    stages = {stage.key: stage for stage in plan("seeds=[0]").stages}
    assert len(commands) == 10
    for (interpreter, script, recipe, *given), key in zip(
        commands, [key for wave in WAVES for key in wave], strict=True
    ):
        assert (interpreter, recipe) == ("python", "base.yaml") and Path(script).name == "fake_launcher.py"
        found = config.load(recipe, FakeRecipe, given)
        assert found.output == f"out/{key}" and found.resume == "auto"
        assert found.rewards == stages[key].recipe.rewards and found.training == stages[key].recipe.training
        assert found.tracking.group == "out" and found.tracking.name == key
    axes = {
        key: config.load("base.yaml", FakeRecipe, overrides(stage, plan())).tracking.axes
        for key, stage in stages.items()
    }
    assert axes["R1-without/seed-0/grpo"] == {"road": "R1", "score": "without", "seed": "0", "stage": "grpo"}
    assert axes["SFT/seed-0/sft"] == {"seed": "0", "stage": "sft"}  # what those that share it have in common


@pytest.mark.parametrize("configuration", [None, "recipes/accelerate/cpu2.yaml"])
def test_accelerate_takes_the_words(here, configuration):
    from accelerate.commands.launch import launch_command_parser

    more = [] if configuration is None else [f"stages.sft.accelerate={ROOT / configuration}"]
    found = plan("per_run=2", "seeds=[0]", *more)
    first, second, *rest = words(found.runs[2].stages["sft"], found, FAKE)
    assert (first, second) == ("accelerate", "launch")
    read = launch_command_parser().parse_args(rest)
    assert read.num_processes == 2 and read.main_process_port == 0 and read.training_script_args[0] == "base.yaml"
    assert (read.multi_gpu, read.config_file) == (configuration is None, configuration and str(ROOT / configuration))


def test_counted_work():
    """8 × 2 rows a step in 2 processes: 32 of 100 rows, 4 steps an epoch. GRPO: 32 completions a step, of 8 prompts."""
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe

    data = {"train": [{"path": "nowhere.jsonl", "limit": 100}]}
    training = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 3}
    plain = {"model": {"path": "x"}, "output": "y", "data": data, "training": training}
    counter = cost.Counter(2)
    assert counter.work(config.build(plain, SFTRecipe)) == cost.Work(steps=12)
    grouped = plain | {"training": training | {"num_generations": 4}}
    assert counter.work(config.build(grouped, GRPORecipe)) == cost.Work(steps=36, completions=36 * 32)
    twice = plain | {"training": training | {"num_generations": 4, "num_iterations": 2}}
    assert counter.work(config.build(twice, GRPORecipe)) == cost.Work(steps=72, completions=36 * 32)
    unknown = plain | {"data": {"train": [{"path": "nowhere.jsonl"}]}}
    assert counter.work(config.build(unknown, SFTRecipe)) == cost.Work()
    fixed = unknown | {"training": training | {"num_generations": 4, "max_steps": 5}}
    assert counter.work(config.build(fixed, GRPORecipe)) == cost.Work(steps=5, completions=5 * 32)


def test_how_long_it_takes(here):
    """By hand: one after another it is the sum; all at once the longest road."""
    stages = plan("seeds=[0]").stages
    seconds = {stage: {"sft": 100.0, "grpo": 260.0, "eval": 25.0}[stage.name] for stage in stages}
    assert cost.makespan(stages, seconds, 1) == 100 + 4 * 260 + 5 * 25
    # on two: both Zero's GRPO to 260 and evaluations to 285; SFT alone to 385; its evaluation to 410 beside R1-with's
    # GRPO; then that of R1-without to 670, and its evaluation
    assert cost.makespan(stages, seconds, 2) == 385 + 25 + 260 + 25
    assert cost.makespan(stages, seconds, 99) == 100 + 260 + 25
    done = stages[0]  # what has finished is waited for by nobody
    assert cost.makespan(stages[1:], {k: v for k, v in seconds.items() if k is not done}, 99) == 385
