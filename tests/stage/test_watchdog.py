"""Who stands still, in which phase, where; and an error that only says that another process has gone."""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from stage.guards import peers, watchdog
from stage.guards.progress import Progress
from stage.parallel import agreement
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


def meets_late(rank, folder, waits):
    """Rank 0 waits in a collective call where no frame of torch shows, as in `.item()`; rank 1 has not come to it."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    clock = Clock()
    here = Progress(clock)
    dog = watchdog.Watchdog(WatchdogSection(minutes=10), folder, rank, here, 2, clock)
    here.at("rewards", step=3)
    torch.distributed.all_reduce(torch.ones(1))
    alone = torch.distributed.new_group([0])  # its calls say nothing of the others
    if rank == 0:
        torch.distributed.all_reduce(torch.ones(1), group=alone)
    work = torch.distributed.all_reduce(torch.ones(1), async_op=True) if rank == 0 else waits.wait(60)
    clock.now += 700
    dog.look()
    waits.set()
    if rank == 1:
        work = torch.distributed.all_reduce(torch.ones(1), async_op=True)
    work.wait()


def test_who_has_begun_fewer_collectives_is_whom_the_others_wait_for(tmp_path):
    fork = multiprocessing.get_context("fork")
    waits = fork.Event()
    running = [fork.Process(target=meets_late, args=(rank, tmp_path, waits)) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    states = [json.loads((tmp_path / f"heartbeats/rank-{rank}.json").read_text()) for rank in range(2)]
    assert [(state["collectives"], state["waits"]) for state in states] == [(2, False), (1, False)]
    told = (tmp_path / "heartbeats/rank-1.txt").read_text()
    assert "look first at rank 1 in rewards; who has begun fewest collectives is whom the others wait for\n" in told
    assert "rewards for 12 min, waiting for other processes; 2 collectives begun" in told


def test_collectives_are_compared():
    """By hand: whoever is ahead waits, whatever its code looks like; equal numbers name nobody."""

    def told(*states):
        more = {"host": "a", "pid": 1, "step": 3, "phase": "update", "at": "", "silent": 0}
        return watchdog.report({rank: more | state for rank, state in enumerate(states)}, 0, 600).splitlines()[0]

    still, moves = {"seconds": 700, "waits": False}, {"seconds": 5, "waits": True}
    assert "look first at rank 1 in update; who" in told(still | {"collectives": 8}, moves | {"collectives": 7})
    assert "look first at rank 0 in update; all have begun the same" in told(
        still | {"collectives": 8}, moves | {"collectives": 8}
    )
    assert told(still | {"collectives": None}, moves | {"collectives": 7}).endswith("look first at rank 0 in update")


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
    # gloo
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:41772",
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Read error [10.0.0.2]:5012: Connection reset by peer",
    "Timed out waiting 1800000ms for recv operation to complete",
    # torch's store: c10d/socket.cpp, TCPStore.cpp, TCPStoreLibUvBackend.cpp, Utils.hpp of 2.13
    "wait timeout after 300000ms, keys: /default_pg/0//cpu//0",
    "barrier timeout after 300000ms, key: 7",
    "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    "failed to recv, got 0 bytes",
    "Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
    "The client socket has timed out after 600000ms while trying to connect to (node-7, 29500).",
    "The client socket has failed to connect to any network address of (node-7, 29500).",
    "waitForInput: socket SocketImpl(fd=77, addr=[::1]:39732) timed out after 60000ms",
    "Socket Timeout", "Broken pipe",
    # ProcessGroupNCCL.cpp, NCCLUtils.cpp
    "NCCL error: remote process exited or there was a network error, NCCL version 2.27.5\nncclRemoteError: A call "
    "failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\nsocketProgress: "
    "Connection closed by remote peer node-7<45074>",
    "NCCL communicator was aborted on rank 1. ",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=547, OpType=ALLREDUCE, NumelIn=1, NumelOut="
    "1, Timeout(ms)=600000) ran for 600081 milliseconds before timing out.",
    "[3] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value store by key '0', but "
    "store->get('0') got error: failed to recv, got 0 bytes",
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
    for own in ("NCCL error in: x.cpp:1, unhandled cuda error\nncclUnhandledCudaError: Call to CUDA function failed.",
                "ncclInvalidUsage: This usually reflects invalid usage of NCCL library."):  # fmt: skip
        with pytest.raises(torch.distributed.DistBackendError), peers.watched(0, here):
            raise torch.distributed.DistBackendError(own)
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


def test_who_has_begun_fewer_collectives_is_late(monkeypatch, tmp_path):
    """Though its place in the code looks like a wait, as others' in `.item()` looks like work."""
    here = Progress()
    state = {"host": "a", "pid": 1, "step": 4, "phase": "update", "seconds": 20, "at": "", "time": time.time()}
    monkeypatch.setattr(peers, "joined", lambda: True)
    monkeypatch.setattr(peers, "begun", lambda: 8)  # of rank 0; its last heartbeat is older
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, (begun, waits) in enumerate(((7, True), (8, False), (7, True))):
        beat = state | {"rank": rank, "collectives": begun, "waits": waits}
        (tmp_path / f"rank-{rank}.json").write_text(json.dumps(beat))
    with pytest.raises(peers.PeerLate, match="for rank 2, which is late") as told, peers.watched(0, here, tmp_path, 20):
        raise RuntimeError("Timed out waiting 20000ms for recv operation to complete")
    assert "rank 1" not in str(told.value)


def test_groups_that_deepspeed_makes_wait_as_long(tmp_path, monkeypatch):
    """torch gives a new group 10 minutes under NCCL, 30 under gloo, whatever the first one has."""
    c10d = torch.distributed.distributed_c10d
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        monkeypatch.setattr(c10d, name, getattr(c10d, name))  # put back afterwards
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        before = torch.distributed.new_group([0])
        agreement.limit(77)
        groups = [torch.distributed.group.WORLD, before, torch.distributed.new_group([0])]
        spans = {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}
        assert spans == {77} and c10d._get_default_timeout("nccl").total_seconds() == 77
    finally:
        torch.distributed.destroy_process_group()


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
