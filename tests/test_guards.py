"""Who stands still, what is short of memory, what can no longer be read: the messages, and what the run does then."""

from __future__ import annotations

import io
import json
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from rl import stage as grpo
from rl.recipe import GRPORecipe
from sft import stage as sft
from sft.recipe import SFTRecipe
from tests.support.commands import ROOT
from tests.support.commands import sft as sft_arguments
from vlm import config, rows, unreadable
from vlm.cli import EXIT_USER_ERROR, launch
from vlm.errors import RESUMABLE, DataError, RecipeError
from vlm.guards import out_of_memory, peers, watchdog
from vlm.guards.progress import Progress
from vlm.guards.sections import GuardSection, WatchdogSection
from vlm.memory import GIB
from vlm.recipe import ImageSection, PromptSection
from vlm.resizing import Resizing
from vlm.samples import Sample

pytestmark = pytest.mark.xdist_group("sft")


# --- the watchdog, on a clock of the test's ---


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def pack(tmp_path):
    """(ranks, section) → [(dog, progress)], one clock for all, and the list of exit codes."""

    def make(ranks, minutes=10.0, abort=False):
        clock, codes = Clock(), []
        section = WatchdogSection(minutes, abort)
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
        (lambda event: spaces[1]["ask"](lambda e: e.wait(), event), ("test_guards.py", False)),
    ):
        event, started = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda c=call, s=started, e=event: (s.set(), c(e)), daemon=True)
        thread.start()
        started.wait()
        found = ("", False)
        while not found[0].startswith(expected[0]):  # until the thread has come to its wait
            found = watchdog.place(sys._current_frames()[thread.ident])
        assert found[1] is expected[1]
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
    for section in (WatchdogSection(0), GuardSection(skip=-1), GuardSection(dumps=-1)):
        with pytest.raises(RecipeError):
            section.check()


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


# --- memory ---


def r1(*overrides) -> GRPORecipe:
    return config.load(ROOT / "recipes/r1.yaml", GRPORecipe, overrides)


@pytest.fixture
def eight(monkeypatch, tiny_model):
    """Plans for 8 processes, on the real shape of a 7B model, which needs no weights."""
    monkeypatch.setenv("WORLD_SIZE", "8")


def test_the_three_largest_savings_are_what_the_plan_says(eight, monkeypatch):
    recipe = r1("model.path=Qwen/Qwen2-VL-7B-Instruct", "sharding.zero=2")
    plan = lambda changed: grpo.planned(changed, 2**30)  # noqa: E731
    base = plan(recipe)
    found = out_of_memory.savings(recipe, plan, base)
    assert len(found) == 3 and [saved for saved, _ in found] == sorted((s for s, _ in found), reverse=True)
    for saved, changes in found:
        by_hand = plan(r1("model.path=Qwen/Qwen2-VL-7B-Instruct", "sharding.zero=2", *changes))
        assert saved == base.peak - by_hand.peak > GIB / 10
    for changes in out_of_memory.candidates(recipe, base):  # no other single change saves more than the third
        peak = out_of_memory._peak(plan, recipe, changes)
        if peak is not None and not any(set(changes) & set(named) for _, named in found):
            keys = {change.partition("=")[0] for change in changes}
            taken = any(keys & {change.partition("=")[0] for change in named} for _, named in found)
            assert taken or base.peak - peak <= found[2][0]


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …", "DefaultCPUAllocator"])
def test_out_of_memory_in_a_run(tiny_model, demo_data, tmp_path, monkeypatch, capsys, said, log_levels):
    """A tiny run whose third micro-batch does not fit: exit code 2, advice, and a run folder that is whole."""
    from sft.trainer import SFTTrainer

    error = torch.OutOfMemoryError(said) if said.startswith("CUDA") else RuntimeError(f"[enforce fail] {said}: can't")
    observed = SFTTrainer.observed

    def full(self, inputs, loss):
        if self.state.global_step == 1:
            raise error
        return observed(self, inputs, loss)

    monkeypatch.setattr(SFTTrainer, "observed", full)
    argv = sft_arguments(
        tiny_model, demo_data, tmp_path / "run", "training.save_strategy=steps", "training.save_steps=1"
    )
    assert launch(SFTRecipe, sft.train, sft.plan, argv) == EXIT_USER_ERROR
    told = capsys.readouterr().err
    message = told[told.index("error: ") :]
    assert message.startswith("error: out of memory in update, step 2: ") and (
        "Tried to" in message or "DefaultCPUAllocator" in message
    )
    lines = [line for line in message.splitlines() if " saves " in line]
    assert 1 <= len(lines) <= 3 and any("per_device_train_batch_size=" in line for line in lines)
    assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / "run/metrics.jsonl").exists() and not (tmp_path / "run/finished.json").exists()
    with pytest.raises(ZeroDivisionError):  # nothing else is taken for it
        out_of_memory.advised(lambda recipe: None)(lambda recipe: 1 / 0)(None)


# --- pictures that could be read before ---


@pytest.fixture
def table(tmp_path):
    """(rows, policy) → a table of that many rows with a picture each, of which no. 1 is damaged after the checks."""

    def make(count=4, on_fault="error", sizes=None, make=rows.prompt_rows):
        rows._decoded.cache_clear()
        samples = []
        for n in range(count):
            Image.new("RGB", (56, 56), (n, 0, 0)).save(tmp_path / f"{n}.png")
            turns = [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]
            samples.append(Sample([str(tmp_path / f"{n}.png")], turns, "vqa", answer="a", source="s.jsonl", id=str(n)))
        found = make(samples, PromptSection(), sizes, on_fault)
        buffer = io.BytesIO()
        Image.effect_noise((56, 56), 60).save(buffer, "PNG")
        (tmp_path / "1.png").write_bytes(buffer.getvalue()[:200])
        return found

    return make


@pytest.mark.parametrize("make", [rows.prompt_rows, rows.chat_rows])
def test_row_and_file_are_named(table, tmp_path, make):
    found = table(make=make)
    with pytest.raises(DataError, match=rf"s.jsonl: row '1': image {tmp_path}/1.png: cannot be read"):
        found.__getitems__([0, 1, 2])
    assert found[2]["images"][0].getpixel((0, 0)) == (2, 0, 0)


@pytest.mark.parametrize("sizes", [None, Resizing(ImageSection(min_pixels=56 * 56, max_pixels=56 * 56))])
@pytest.mark.parametrize("make", [rows.prompt_rows, rows.chat_rows])
def test_the_next_row_stands_in(table, caplog, sizes, make):
    found = table(on_fault="skip", sizes=sizes, make=make)
    got = found.__getitems__([0, 1, 1, 3])
    assert [row["id"] for row in got] == ["0", "2", "2", "3"]
    assert [row["images"][0].getpixel((0, 0))[0] for row in got] == [0, 2, 2, 3]
    assert found[1]["id"] == "2" and set(found[1]) == set(found[0])
    if make is rows.prompt_rows:
        assert [row["copy"] for row in got] == [0, unreadable.STANDS_IN, unreadable.STANDS_IN, 0]
        assert found[1]["prompt"] == found[2]["prompt"]
    assert caplog.text.count("s.jsonl: row '1': image") == 1


def test_a_disk_that_has_gone_ends_the_run(table, tmp_path):
    found = table(on_fault="skip")
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="100 rows one after another cannot be read; the last: s.jsonl: row"):
        found[0]


def test_an_image_that_is_damaged_while_training(tiny_model, demo_data, tmp_path, monkeypatch):
    """By policy: the run ends and names it, or goes on to its end without it."""
    import shutil

    for policy in ("error", "skip"):
        data = tmp_path / policy
        shutil.copytree(demo_data, data)
        pictures = sorted(path for path in (data / "sft").rglob("*") if path.suffix in (".png", ".jpg"))
        begun = sft.mixture.show_and_note

        def damage(run, found, pictures=pictures, begun=begun):
            begun(run, found)
            rows._decoded.cache_clear()
            pictures[0].write_bytes(b"gone")

        monkeypatch.setattr(sft.mixture, "show_and_note", damage)
        steps = ("training.max_steps=4", f"data.on_fault={policy}")
        recipe = config.load(*_recipe(sft_arguments(tiny_model, data, tmp_path / f"run-{policy}", *steps)))
        if policy == "error":
            with pytest.raises(DataError, match=rf"traces: row .*image {pictures[0]}: cannot be read"):
                sft.train(recipe)
        else:
            sft.train(recipe)
            assert (tmp_path / "run-skip/finished.json").exists()


def _recipe(argv):
    return argv[0], SFTRecipe, argv[1:]


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
