"""Launching on several nodes: the Slurm script with stand-ins for Slurm and accelerate, and docs/clusters.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest

from tests.support.processes import stand_ins
from tests.support.processes.commands import ROOT

SCRIPT = ROOT / "recipes/slurm/train.sh"
PAGE = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
FAKES = {
    # each node runs the command, as srun does
    "srun": 'shift; for rank in 0 1; do SLURM_PROCID=$rank "$@" || exit $?; done',
    "accelerate": 'printf "%s\\n" $SLURM_PROCID $PET_SIGNALS_TO_HANDLE $TORCH_ELASTIC_SHUTDOWN_TIMEOUT "$@" '
    '> "$LOGS/node-$SLURM_PROCID"; exit ${CODE:-0}',
    "scontrol": 'if [ "$1" = show ]; then printf "node-7\\nnode-8\\n"; else echo "$*" > "$LOGS/scontrol"; fi',
}


@pytest.fixture
def submit(tmp_path):
    """(arguments, variables) → the script's exit code, run as a job of two nodes in `tmp_path`."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node-[7-8]"}
    run = stand_ins.install(tmp_path, FAKES)
    return lambda *arguments, **variables: run(SCRIPT, *arguments, **{**job, **variables})


def accelerate(words: list[str]):
    """accelerate's own reading of the words after `accelerate launch`."""
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser().parse_args(words)


def test_the_script_is_a_script():
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0
    assert os.access(SCRIPT, os.X_OK)
    options = re.findall(r"^#SBATCH (--\S+)$", SCRIPT.read_text(), re.MULTILINE)
    assert "--requeue" in options and "--signal=USR1@900" in options and "--ntasks-per-node=1" in options


def test_what_accelerate_gets_on_each_node(submit, tmp_path):
    assert submit("grpo", "recipes/r1.yaml", "runs/r1", "seed=3", "model.path=a folder") == 0
    for rank in range(2):
        said, signals, patience, launch, *words = (tmp_path / f"node-{rank}").read_text().splitlines()
        found = accelerate(words)
        assert (said, launch) == (str(rank), "launch")
        assert (signals, patience) == ("SIGTERM,SIGINT,SIGUSR1", "800")
        assert (found.num_machines, found.num_processes, found.machine_rank) == (2, 16, rank)
        assert (found.main_process_ip, found.main_process_port, found.multi_gpu) == ("node-7", 24711, True)
        assert found.training_script == "launch/grpo.py" and (ROOT / found.training_script).is_file()
        overrides = ["output=runs/r1", "resume=auto", "seed=3", "model.path=a folder"]
        assert found.training_script_args == ["recipes/r1.yaml", *overrides]
    assert not (tmp_path / "scontrol").exists()


def test_the_launcher_hands_on_the_signals(monkeypatch):
    """By the variables that the script exports, which accelerate's launcher takes from torch's."""
    from accelerate.utils.launch import _filter_args
    from torch.distributed.run import get_args_parser

    found = accelerate(["--multi_gpu", "launch/sft.py"])
    assert (
        _filter_args(found, get_args_parser(), ["--module", "x"]).signals_to_handle == "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
    )
    monkeypatch.setenv("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGUSR1")
    assert _filter_args(found, get_args_parser(), ["--module", "x"]).signals_to_handle == "SIGTERM,SIGINT,SIGUSR1"


def test_the_overrides_are_a_recipe_s(monkeypatch):
    from rl.recipe import GRPORecipe
    from stage.recipe import config

    monkeypatch.chdir(ROOT)
    found = config.load("recipes/r1.yaml", GRPORecipe, ["output=runs/r1", "resume=auto", "gpus=8xA100-80G"])
    assert (found.output, found.resume) == ("runs/r1", "auto")


def test_a_run_that_a_signal_stopped_is_queued_again(submit, tmp_path):
    (tmp_path / "runs/r1").mkdir(parents=True)
    (tmp_path / "runs/r1/interrupted.json").write_text("{}")
    assert submit("sft", "recipes/sft.yaml", "runs/r1", CODE="1", SLURM_GPUS_ON_NODE="4") == 1
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n"


def test_a_run_that_failed_is_not(submit, tmp_path):
    assert submit("sft", "recipes/sft.yaml", "runs/r1", CODE="1") == 1
    assert not (tmp_path / "scontrol").exists()


def commands(start: str) -> list[list[str]]:
    """Words of the page's commands that begin so; variables stand for numbers."""
    text = re.sub(r"\\\n\s*", "", "\n".join(re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL)))
    lines = [re.sub(r"\$\w+", "0", line.partition("  #")[0]) for line in text.splitlines() if line.startswith(start)]
    return [shlex.split(line)[len(start.split()) :] for line in lines]


def test_the_page_s_commands_are_ones():
    found = [accelerate(words) for words in commands("accelerate launch")]
    assert len(found) >= 4
    for one in found:
        assert (ROOT / one.training_script).is_file() and (ROOT / one.training_script_args[0]).is_file()
        assert one.config_file is None or (ROOT / one.config_file).is_file()
    from torch.distributed.run import get_args_parser

    torchrun = [get_args_parser().parse_args(words) for words in commands("torchrun")]
    assert torchrun and all((ROOT / one.training_script).is_file() for one in torchrun)
    scripts = [words[-4:] for words in commands("sbatch")]
    assert scripts and all((ROOT / words[0]).is_file() and (ROOT / words[2]).is_file() for words in scripts)
