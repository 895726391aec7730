"""Who stands still, in which phase, where; and an error that only says that another process has gone."""

from __future__ import annotations

import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from stage.guards import peers, watchdog
from stage.guards.progress import Progress
from stage.recipe.sections import GuardSection, WatchdogSection
from vlm.common.errors import RESUMABLE


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def pack(tmp_path):
    """(ranks, section) → [(dog, progress)], one clock for all, and the list of exit codes."""

    def make(ranks, minutes=10.0, abort=False):
        clock, codes = Clock(), []
        section = WatchdogSection(minutes=minutes, abort=abort)
        found = [Progress(clock) for _ in range(ranks)]
        dogs = [
            watchdog.Watchdog(section, tmp_path, n, here, ranks, clock, codes.append) for n, here in enumerate(found)
        ]
        return clock, dogs, found, codes

    return make


def test_it_is_silent_while_something_happens(pack, capfd):
    clock, (dog,), (here,), _ = pack(1)
    for _ in range(5):
        clock.now += 9 * 60
        with here.within("rollout"):
            dog.look()
    assert capfd.readouterr().err == "" and json.loads(dog.file.read_text())["phase"] == "rollout"


def test_it_names_rank_phase_and_place_once(pack, capfd, tmp_path):
    clock, dogs, heres, codes = pack(2)
    for here in heres:
        here.at("update", step=7)
    clock.now += 60
    with heres[1].within("rewards"):
        for dog in dogs:
            dog.look()
        clock.now += 9 * 60  # rank 0 has done nothing for ten minutes, rank 1 for nine
        dogs[1].look()
        assert capfd.readouterr().err == ""
        dogs[0].look()
        told = capfd.readouterr().err
        assert "nothing has happened for 10 min; look first at rank 0 in update\n" in told
        assert "rank 1" in told and "step 7, rewards for 9 min" in told
        assert "test_it_names_rank_phase_and_place_once" in (tmp_path / "heartbeats/rank-0.txt").read_text()
        clock.now += 120
        for dog in dogs:
            dog.look()
        told = capfd.readouterr().err
        assert "watchdog: the threads of rank 1" in told  # its stack; the table is rank 0's, which has spoken
        assert "look first" not in told
    heres[0].moved()
    dogs[0].look()
    clock.now += 11 * 60
    dogs[0].look()
    assert "look first at" in capfd.readouterr().err  # it moved, and stands again
    assert codes == []


def test_who_waits_for_others_is_not_to_blame(pack, capfd, monkeypatch):
    clock, dogs, heres, _ = pack(3)
    waiting = {0: ("", True), 1: ("judge.py:31 in ask", False), 2: ("", True)}
    for rank, (dog, here) in enumerate(zip(dogs, heres, strict=True)):
        monkeypatch.setattr(watchdog, "place", lambda frame, rank=rank: waiting[rank])
        here.at("rewards", step=3)
        dog.look()
    clock.now += 30  # rank 2 is silent from now on: killed, or blocked in C
    for rank in (1, 0):
        monkeypatch.setattr(watchdog, "place", lambda frame, rank=rank: waiting[rank])
        dogs[rank].look()
    clock.now += 11 * 60
    for rank in (1, 0):
        monkeypatch.setattr(watchdog, "place", lambda frame, rank=rank: waiting[rank])
        dogs[rank].look()
    told = capfd.readouterr().err
    assert "look first at rank 2 in rewards, rank 1 in rewards\n" in told
    assert "rank 0" in told and "rewards for 12 min, waiting for other processes" in told
    assert "at judge.py:31 in ask" in told and "silent for 12 min" in told


def test_a_wait_in_torch_distributed_is_told_from_work(tmp_path):
    """By the frames of a thread: a module in torch/distributed that waits, and one of the user's."""
    folder = tmp_path / "site-packages/torch/distributed"
    folder.mkdir(parents=True)
    (folder / "c10d.py").write_text("def wait(event):\n    event.wait()\n")
    (tmp_path / "judge.py").write_text("def ask(wait, event):\n    wait(event)\n")
    spaces = [{}, {}]
    for space, path in zip(spaces, (folder / "c10d.py", tmp_path / "judge.py"), strict=True):
        exec(compile(path.read_text(), str(path), "exec"), space)  # noqa: S102
    for call, expected in (
        (lambda event: spaces[1]["ask"](spaces[0]["wait"], event), ("judge.py:2 in ask", True)),
        (lambda event: spaces[1]["ask"](lambda e: e.wait(), event), ("test_watchdog.py", False)),
    ):
        event, started = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda c=call, s=started, e=event: (s.set(), c(e)), daemon=True)
        thread.start()
        started.wait()
        for _ in range(100_000):  # until the thread has come to its wait
            found = watchdog.place(sys._current_frames()[thread.ident])
            if found[0].startswith(expected[0]) and found[1] is expected[1]:
                break
        assert found[0].startswith(expected[0]) and found[1] is expected[1]
        event.set()
        thread.join()


def test_it_ends_the_process_only_when_asked(pack, capfd):
    clock, (dog,), _, codes = pack(1, abort=True)
    clock.now += 601
    dog.look()
    assert codes == [RESUMABLE] and "look first at rank 0 in start" in capfd.readouterr().err


def test_ranks_of_an_earlier_larger_run_are_not_missed(pack, capfd, tmp_path):
    clock, (dog,), _, _ = pack(1)
    (tmp_path / "heartbeats").mkdir()
    (tmp_path / "heartbeats/rank-5.json").write_text('{"rank": 5, "seconds": 0, "time": 0}')
    clock.now += 601
    dog.look()
    assert "rank 5" not in capfd.readouterr().err


def test_impossible_sections_are_refused():
    for section, wrong in (
        (WatchdogSection, {"minutes": 0}),
        (GuardSection, {"skip": -1}),
        (GuardSection, {"dumps": -1}),
    ):
        with pytest.raises(ValidationError, match=f"{next(iter(wrong))} = "):
            section(**wrong)


# --- another process has gone ---


@pytest.mark.parametrize("said", [
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:41772",
    "NCCL error: remote process exited or there was a network error",
    "Timed out waiting 1800000ms for recv operation to complete",
])  # fmt: skip
def test_what_only_says_that_another_process_went(monkeypatch, said):
    here = Progress()
    here.at("update", 4)
    with pytest.raises(RuntimeError, match="CUDA error"), peers.watched(0, here):
        raise RuntimeError("CUDA error: device-side assert")
    with pytest.raises(RuntimeError) as alone, peers.watched(0, here):
        raise RuntimeError(said)
    assert not isinstance(alone.value, peers.UserError)  # a process that runs alone has lost nobody
    monkeypatch.setattr(peers, "joined", lambda: True)
    told = "rank 0 has lost another process of this run, in update of step 4"
    with pytest.raises(peers.PeerLost, match=told), peers.watched(0, here):
        raise RuntimeError(said)


def test_a_late_process_is_not_called_lost(monkeypatch, tmp_path):
    """By its heartbeat: one that is at work was only slow; one that waits, too, or is silent, does not answer."""
    here = Progress()
    here.at("rewards", 4)
    state = {"host": "a", "pid": 1, "step": 4, "phase": "rewards (judge)", "seconds": 20, "at": "judge.py:31 in ask"}
    monkeypatch.setattr(peers, "joined", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = "Timed out waiting 20000ms for recv operation to complete"
    for waits, ago, error, told in (
        (False, 0, said, r"rank 0 has waited 20 s \(training.ddp_timeout\) in rewards of step 4 for rank 1, which is "
         r"late: step 4, rewards \(judge\) for 2\d s, at judge.py:31 in ask. Raise"),
        (True, 0, said, "has lost another process"),
        (False, 600, said, "has lost another process"),
        (False, 0, "Connection closed by peer", "has lost another process"),
    ):  # fmt: skip
        beat = state | {"rank": 1, "waits": waits, "time": time.time() - ago}
        (tmp_path / "rank-1.json").write_text(json.dumps(beat))
        with pytest.raises(peers.UserError, match=told), peers.watched(0, here, tmp_path, 20):
            raise RuntimeError(error)


def test_an_error_knows_its_phase():
    here = Progress()
    here.at("update", 4)
    with pytest.raises(RuntimeError), here.within("generation"), here.within("rewards"):
        raise RuntimeError
    assert (here.phase, here.broken) == ("update", "rewards")
    here.at("update", 5)
    assert here.broken == "update"


def test_the_phases_of_a_trainer():
    here = Progress()
    phases, state = watchdog.Phases(here), SimpleNamespace(global_step=4)
    idle, saves = (SimpleNamespace(should_evaluate=False, should_save=save) for save in (False, True))
    seen = []
    for event, control in (("on_step_begin", idle), ("on_step_end", idle), ("on_step_end", saves), ("on_save", saves)):
        getattr(phases, event)(None, state, control)
        seen.append((here.phase, here.step))
    assert seen == [("update", 5), ("next batch", 5), ("save", 5), ("next batch", 5)]
