"""One run in a folder at a time: real processes that hold it, wait for it, are refused, and die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from stage.checkpoints.beginning import begin
from stage.guards import lock
from stage.recipe import config
from stage.runs import Run
from tests.support.processes import commands
from vlm.common.errors import UserError

HOLD = """
import sys
from stage.guards import lock
lock.LOOK = 0.05
{before}
sys.stdin.readline()
try:
    lock.hold({folder!r}, wait={wait})
    print("held", flush=True)
    sys.stdin.readline()
    {inside}
except lock.UserError as error:
    print(error, flush=True)
"""


@pytest.fixture
def holder(tmp_path):
    """(wait, code inside) → a process that tries to hold tmp_path/run once a line is sent, and until the next one."""
    begun = []

    def begin(wait=False, inside="", before=""):
        code = HOLD.format(folder=str(tmp_path / "run"), wait=wait, inside=inside, before=before)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen([sys.executable, "-c", code], cwd=commands.ROOT, **pipes))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def foreign(folder, **changes):
    """A claim of a process on another machine."""
    folder.mkdir(exist_ok=True)
    claim = replace(lock.Claim.mine(), host="node7", machine="another", held=True, **changes)
    path = folder / ".lock-0.json"
    path.write_text(json.dumps(asdict(claim)))
    return path


def test_of_several_at_once_one_holds_it(holder, tmp_path):
    """And the others say who does. What is left when all have ended is no lock, and no folder that nobody wrote to."""
    processes = [holder() for _ in range(5)]
    for process in processes:
        go(process)
    said = {process.pid: process.stdout.readline() for process in processes}
    (owner,) = [pid for pid, line in said.items() if line == "held\n"]
    refused = f"{tmp_path}/run: another run writes there: process {owner} on "
    assert all(line.startswith(refused) for pid, line in said.items() if pid != owner), said
    go(next(process for process in processes if process.pid == owner))
    for process in processes:
        process.wait(30)
    assert not (tmp_path / "run").exists()


def test_the_empty_folder_goes_with_its_last_holder_whoever_made_it(tmp_path):
    """Of several that come together, one makes the folder, gives way and ends; another holds it then."""
    folder = tmp_path / "run"
    lock._make(folder)
    lock.hold(folder)
    lock.release(folder)
    assert not folder.exists()
    lock.hold(folder)
    (folder / "written").touch()
    lock.release(folder)
    assert [path.name for path in folder.iterdir()] == ["written"]


def test_an_empty_folder_of_the_users_own_stays(tmp_path):
    lock.hold(tmp_path)
    lock.release(tmp_path)
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def test_one_that_waits_gets_it_when_the_owner_dies(holder, tmp_path):
    first, second = holder(), holder(wait=True)
    go(first)
    assert first.stdout.readline() == "held\n"
    go(second)
    told = second.stderr.readline()
    assert f"another run writes there: process {first.pid}" in told and "waiting until it ends" in told
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "held\n"
    (left,) = (tmp_path / "run").glob(".lock-*.json")  # the dead one's is gone
    assert json.loads(left.read_text())["pid"] == second.pid


def test_a_process_of_that_number_that_began_at_another_time_is_another_one(tmp_path):
    folder = tmp_path / "run"
    path = foreign(folder)
    claim = lock.Claim.mine()
    path.write_text(json.dumps(asdict(replace(claim, pid=os.getppid(), held=True, started="1"))))
    lock.hold(folder)
    assert not path.exists()
    lock.release(folder)


def test_another_machine_lives_by_its_heartbeat(tmp_path):
    """Told by the file system's clock: the claim was touched some seconds before or after the limit."""
    folder = tmp_path / "run"
    path = foreign(folder)
    now = lock._clock(folder)
    os.utime(path, (now, now - lock.STALE + 20))
    with pytest.raises(UserError, match="another run writes there: process .* on node7, since .*start again after 300"):
        lock.hold(folder)
    os.utime(path, (now, now - lock.STALE - 1))
    lock.hold(folder)
    assert not path.exists()
    held = next(folder.glob(".lock-*.json"))
    os.utime(held, (now, now - 1000))
    lock.touch()  # the heartbeat
    assert abs(held.stat().st_mtime - now) < 100
    lock.hold(folder)  # once more by the same process
    lock.release(folder)
    assert not list(folder.glob(".*"))


def test_an_owner_that_was_taken_for_dead_ends(holder, tmp_path):
    """As after a suspend: its claim is gone, and another's is there."""
    process = holder(inside="lock.touch()\n    print('goes on')")
    go(process)
    assert process.stdout.readline() == "held\n"
    next((tmp_path / "run").glob(".lock-*.json")).unlink()
    foreign(tmp_path / "run")
    out, err = process.communicate("\n", timeout=30)
    assert process.returncode == 2 and out == "" and "this run was taken for dead" in err and "on node7" in err


def test_the_other_processes_of_a_launch_wait_with_their_main_one(tmp_path, monkeypatch):
    """They claim nothing: where another launch holds the folder they are refused, where their own does they go on."""
    monkeypatch.setenv("RANK", "1")
    lock.hold(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    foreign(tmp_path / "run", launch="other")
    with pytest.raises(UserError, match="on node7"):
        lock.hold(tmp_path / "run")
    foreign(tmp_path / "run", launch=lock._launch())
    lock.hold(tmp_path / "run")


def test_a_claim_that_is_none(tmp_path):
    (tmp_path / ".lock-x.json").write_text("{")
    with pytest.raises(UserError, match=r"\.lock-x\.json: found no claim of a run"):
        lock.hold(tmp_path)


@pytest.fixture
def held(tmp_path):
    return foreign(tmp_path / "run").parent


def test_no_stage_begins_in_a_folder_that_is_held(held, tiny_model, demo_data):
    """Before anything is written. (The launcher's one line: test_kills.)"""
    from evals import stage as evaluation
    from evals.recipe import EvalRecipe
    from rewards.curate import stage as curation
    from rewards.curate.recipe import CurateRecipe
    from rewards.prefer import stage as preferences
    from rewards.prefer.recipe import PreferRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe

    corpus = {"train": [{"path": str(demo_data / "grpo/prompts.jsonl")}]}
    curated = config.build({"output": str(held), "data": corpus, "by": "random"}, CurateRecipe)
    preferred = config.build({"output": str(held), "data": [{"path": "no"}]}, PreferRecipe)

    def recipe(make, cls):
        argv = make(tiny_model, demo_data, held)
        return config.load(argv[0], cls, argv[1:])

    begins = [
        lambda: begin(recipe(commands.sft, SFTRecipe)),
        lambda: begin(recipe(commands.grpo, GRPORecipe)),
        lambda: evaluation.run(recipe(commands.evaluation, EvalRecipe)),
        lambda: curation.run(curated),
        lambda: preferences.run(preferred),
        lambda: Run.create(held, {}, overwrite=True),
    ]
    for one in begins:
        with pytest.raises(UserError, match="another run writes there: process .* on node7"):
            one()
    assert [path.name for path in held.iterdir()] == [".lock-0.json"]


def test_a_folder_that_cannot_be_made_is_an_error_and_no_loop(tmp_path, monkeypatch):
    """As below /proc, where mkdir says that nothing is there."""
    monkeypatch.setattr(lock, "_make", lambda folder: (_ for _ in ()).throw(FileNotFoundError(2, "No such file")))
    with pytest.raises(UserError, match="cannot be written to .*No such file.*; choose another output"):
        lock.hold(tmp_path / "out")
