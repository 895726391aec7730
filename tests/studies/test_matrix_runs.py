"""Stages of a matrix run: once each, in order, past failures, after signals and kill -9. The launcher is a fake one."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from studies import study
from studies.matrix import marks
from tests.support.processes.commands import LIMIT, ROOT, environment
from tests.support.runs import matrices
from tests.support.runs.matrices import main, plan, started
from tests.support.scores.score_servers import until

SMALL = """
stage: ablation
output: out
stages:
  sft: {launch: fake, recipe: base.yaml}
  grpo: {launch: fake, recipe: base.yaml, set: {model.path: '{sft}/final', training.lr: 0.2}}
axes:
  score: {with: {}, without: {grpo: no_score.yaml}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch, log_levels):
    monkeypatch.chdir(matrices.folder(tmp_path, SMALL))
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    return tmp_path


def outputs(here: Path) -> list[str]:
    return [line["output"] for line in started(here / "journal")]


SFT, WITH, WITHOUT = "out/with/seed-0/sft", "out/with/seed-0/grpo", "out/without/seed-0/grpo"


def test_every_stage_once_and_a_second_time_nothing(here, capfd):
    assert main("matrix.yaml") == 0
    assert outputs(here) == [SFT, WITH, WITHOUT]
    assert main("matrix.yaml") == 0
    assert len(outputs(here)) == 3
    said = capfd.readouterr().out
    assert said.count("all stages have finished") == 2 and said.count("nothing is left to do") == 1
    assert said.endswith("next: python launch/report.py out --compare; python launch/table.py out\n")
    log = Path(f"{WITHOUT}.log").read_text()
    assert "resume=auto" in log and f"model.path={SFT}/final" in log and "rewards=[rules]" in log
    record = json.loads(Path(f"{WITHOUT}.json").read_text())
    assert list(record["inputs"]) == ["with/seed-0/sft"] and [a["exit_code"] for a in record["attempts"]] == [0]


def test_a_dry_run_writes_nothing(here, capfd):
    before = sorted(here.rglob("*"))
    assert main("matrix.yaml", "seeds=[0, 1]", "--dry-run") == 0
    assert sorted(here.rglob("*")) == before
    said = capfd.readouterr().out
    assert "out: 4 runs" in said and "as with" in said and "6 stages to do" in said


def test_the_study_can_be_read(here):
    assert main("matrix.yaml", "seeds=[0, 1]", "--only", "with") == 0
    shutil.move("out", "elsewhere")
    found = study.read("elsewhere")
    assert found.axes == {"score": ["with", "without"]} and found.seeds == [0, 1]
    assert found.labels() == ["with", "without"] and [run.seed for run in found.runs] == [0, 0, 1, 1]
    last = found.runs[-1]
    assert last.values == {"score": "without"} and last.stages["sft"] == Path("elsewhere/with/seed-1/sft")
    done = [run for run in found.runs if all((stage / "finished.json").is_file() for stage in run.stages.values())]
    assert [(run.label, run.seed) for run in done] == [("with", 0), ("with", 1)]


def test_one_that_fails_does_not_stop_the_others(here, capfd):
    fails = "axes.score.with={grpo: {training.act: fail}}"
    chain = "stages.eval={launch: fake, recipe: base.yaml, seeded: false, set: {model.path: '{grpo}/final'}}"
    assert main("matrix.yaml", fails, chain) == 1
    assert Counter(outputs(here)) == Counter([SFT, WITH, WITHOUT, "out/without/seed-0/eval"])
    said = capfd.readouterr().err
    assert "failed: with/seed-0/grpo (exit code 3; of with/seed-0)\n  log: out/with/seed-0/grpo.log" in said
    assert "| error: told to fail" in said and "not run: with/seed-0/eval" in said
    # tried again, and only what is left is run
    assert str(marks.state(plan(fails, chain).runs[0].stages["grpo"])) == "begun, failed"
    assert main("matrix.yaml", fails, chain) == 1
    assert outputs(here)[4:] == [WITH]


def test_killed_by_the_system_is_a_failure(here, capfd):
    assert main("matrix.yaml", "stages.grpo.set={training.act: die}", "--only", "without") == 1
    assert "failed: without/seed-0/grpo (exit code -9" in capfd.readouterr().err
    assert outputs(here) == [SFT, WITHOUT]  # of the run that was asked for


def reached(fifo: Path) -> None:
    """Wait until a stage has opened it; a stage that fails before does not hold the tests for ever."""
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    came = poll.poll(LIMIT * 1000)
    os.close(end)
    assert came, "no stage is under way"


def pausing(here: Path) -> list[str]:
    """Words of a command whose grpo stages wait for a signal; the FIFO tells when the first one does."""
    os.mkfifo(here / "ready")
    setting = f"stages.grpo.set={{training.act: pause, training.wait: {here / 'ready'}}}"
    return ["matrix.yaml", setting]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_handed_on(here, number, capfd):
    argv = pausing(here)

    def send():
        reached(here / "ready")
        os.kill(os.getpid(), number)

    helper = threading.Thread(target=send)
    helper.start()
    assert main(*argv) == 75
    helper.join()
    caught = json.loads(Path(WITH, "interrupted.json").read_text())["signal"]
    assert caught == ("SIGINT" if number == signal.SIGINT else "SIGTERM")
    assert outputs(here) == [SFT, WITH]  # nothing was started after it
    said = capfd.readouterr().err
    assert "not run: without/seed-0/grpo" in said and "to continue: the same command" in said
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, signal.SIG_IGN)
    assert main(*argv, "--only", "with") == 0  # the fake one finishes, where it was interrupted
    assert outputs(here) == [SFT, WITH, WITH]


def test_killed_with_its_stage_left_running(here):
    """kill -9 of the ablation alone: its stage goes on, the next ablation waits for it and starts nothing twice."""
    argv = [*pausing(here), "--only", "with"]
    command = [sys.executable, "-m", "tests.support.runs.matrices", *argv]
    variables = environment(JOURNAL=str(here / "journal"), PYTHONPATH=str(ROOT))
    ours = [subprocess.Popen(command, cwd=here, env=variables, stdout=subprocess.PIPE, text=True)]
    reached(here / "ready")
    ours[0].kill()
    ours[0].wait(LIMIT)
    stage = plan(*argv[1:2]).runs[0].stages["grpo"]
    assert str(marks.state(stage)) == "running"
    ours.append(subprocess.Popen(command, cwd=here, env=variables, stdout=subprocess.PIPE, text=True))
    for line in ours[1].stdout:
        if "waiting for it" in line:
            break
    journal = started(here / "journal")
    assert [line["output"] for line in journal] == [SFT, WITH]
    os.kill(journal[-1]["pid"], signal.SIGTERM)  # its checkpoint is written, and the waiting one goes on from there
    assert ours[1].wait(LIMIT) == 0
    assert outputs(here) == [SFT, WITH, WITH] and Path(WITH, "finished.json").is_file()


def test_gpus_are_shared_out(here):
    os.mkfifo(here / "ready")  # both are under way at the same time before either ends
    waits = f"stages.grpo.set={{training.wait: {here / 'ready'}}}"
    journal, held = here / "journal", []

    def let_go() -> None:
        until(lambda: journal.exists() and journal.read_text().count("\n") == 3)
        held.append((here / "ready").open())  # stays open, so that neither waits for a reader of its own

    reader = threading.Thread(target=let_go, daemon=True)
    reader.start()
    assert main("matrix.yaml", "per_run=1", "stages.sft.accelerate=null", waits, "--gpus", "3,5") == 0
    reader.join(LIMIT)
    held[0].close()
    lines = started(here / "journal")
    assert lines[0]["gpus"] == "3" and sorted(line["gpus"] for line in lines[1:]) == ["3", "5"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--gpus", "0,1,2", "per_run=2"], "--gpus 0,1,2: expected different GPUs, a multiple of per_run = 2"),
        (["--gpus", "0,0"], "expected different GPUs"),
        (["--gpus", "0", "--jobs", "2"], "leave --jobs out"),
        (["--jobs", "0"], "--jobs 0; expected at least 1"),
        (["--only", "R1-*"], "--only R1-*: no run is called so; expected one of with, without"),
        (["--stage", "with/seed-0/eval"], "expected one of with/seed-0/sft, with/seed-0/grpo, without/seed-0/grpo"),
        (["--stage", "with/seed-0/grpo"], "with/seed-0/grpo needs with/seed-0/sft, which has not finished"),
        (["slurm={array: 1-2}", "--slurm", "jobs.sh"], "slurm.array is set by launch/ablate.py"),
    ],
)
def test_what_is_asked_in_vain(here, argv, expected, capfd):
    assert main("matrix.yaml", *argv) == 2
    assert expected in capfd.readouterr().err and not (here / "journal").exists()


def test_what_was_made_from_another_start_is_refused(here, capfd):
    assert main("matrix.yaml", "--only", "with") == 0
    shutil.rmtree(SFT)
    assert main("matrix.yaml") == 2
    assert f"{WITH} was made from {SFT}, which is not there any more" in capfd.readouterr().err
    assert main("matrix.yaml", "--stage", "with/seed-0/sft") == 2  # nor by the side door
    shutil.rmtree(WITH)
    Path(f"{WITH}.json").unlink()
    assert main("matrix.yaml") == 0


def test_a_command_is_a_stage(here):
    data = "stages.data={command: [touch, '{data}']}"
    needs = "stages.sft.set={data.train: [{path: '{data}'}]}"
    assert main("matrix.yaml", data, needs) == 0
    assert Path("out/with/seed-0/data").is_file()
    made = Path("out/with/seed-0/data").stat().st_mtime_ns
    assert main("matrix.yaml", data, needs) == 0
    assert Path("out/with/seed-0/data").stat().st_mtime_ns == made
    assert outputs(here) == [SFT, WITH, WITHOUT]
