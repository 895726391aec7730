"""Checkpoints appear whole or not at all; what is not whole is never taken for one."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import signal
from collections import deque

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from PIL import Image
from safetensors.torch import save_file
from transformers import TrainerCallback

from sft.recipe import SFTRecipe
from stage.checkpoints import folders, manifest
from stage.checkpoints.packing import pack, unpack
from stage.guards import disk
from tests.rl.test_grpo import LIMITS, dataset, recipe
from tests.support.tiny_checkpoints import section
from vlm.common.errors import UserError

pytestmark = pytest.mark.xdist_group("resume")


# what a state may hold


def test_a_state_comes_back_without_code_from_the_file(tmp_path):
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    state = {
        "numbers": (1, -0.1, float("inf"), True, None), 7: b"\x00\xff", "nothing": b"", "text": "ü",
        "rows": deque([torch.ones(2, dtype=torch.bfloat16), [np.float32(0.5)]]), "picture": picture,
    }  # fmt: skip
    torch.save(pack(state), tmp_path / "state.pt")
    found = unpack(torch.load(tmp_path / "state.pt", weights_only=True))
    assert found["picture"].tobytes() == picture.tobytes() and found["picture"].size == (4, 4)
    assert found["rows"][0].dtype == torch.bfloat16 and found["rows"][0].tolist() == [1, 1]
    assert found["rows"][1] == [0.5]
    rest = {name: found[name] for name in ("numbers", 7, "nothing", "text")}
    assert rest == {name: state[name] for name in rest}


def test_what_cannot_be_stored_is_named():
    with pytest.raises(UserError, match=r"cannot hold rewards\.0\.model, a Linear"):
        pack({"0": {"model": torch.nn.Linear(1, 1)}}, "rewards")
    with pytest.raises(UserError, match=r"the key \(1, 2\) of state"):
        pack({(1, 2): 0})


# which ones are whole


@pytest.fixture
def checkpoint(tmp_path):
    """Two shards with an index, a torch file and a JSON file, finished and in place as step 20 of the run tmp_path."""
    folder = folders.begin(tmp_path, 20)
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    for name, file in names.items():
        save_file({name: torch.arange(64.0)}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    torch.save({"exp_avg": torch.ones(64)}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text('{"global_step": 20}')
    manifest.write(folder, 20, 2, True)
    return folders.commit(tmp_path, folder)


def test_a_finished_one_is_found(checkpoint, tmp_path):
    found = manifest.latest(tmp_path)
    assert (found.path, found.step, found.processes, found.resumable) == (checkpoint, 20, 2, True)
    assert found.bytes == sum(path.stat().st_size for path in checkpoint.iterdir() if path.name != "manifest.json")
    assert found.packages["torch"] == torch.__version__.partition("+")[0] or found.packages["torch"]
    assert not (tmp_path / folders.ASIDE).exists()


FILES = ("model-1.safetensors", "model.safetensors.index.json", "optimizer.pt", "trainer_state.json", "manifest.json")


# The manifest has no digest of itself: what a changed one says of the files does not fit them, or is no JSON.
DAMAGES = [(file, damage) for file in FILES for damage in ("gone", "cut", "empty", "changed")]
DAMAGES.remove(("manifest.json", "changed"))


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_one_is_passed_over_for_the_one_before(checkpoint, tmp_path, caplog, file, damage):
    shutil.copytree(checkpoint, tmp_path / "checkpoint-5")
    content = json.loads((tmp_path / "checkpoint-5/manifest.json").read_text())
    (tmp_path / "checkpoint-5/manifest.json").write_text(json.dumps(content | {"step": 5}))
    path = checkpoint / file
    before = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        flipped = before[:-3] + bytes([before[-3] ^ 1]) + before[-2:]
        path.write_bytes({"cut": before[:-7], "empty": b"", "changed": flipped}[damage])
    with caplog.at_level(logging.WARNING, "stage"):
        assert manifest.latest(tmp_path).step == 5
    assert len(caplog.records) == 1 and str(checkpoint) in caplog.text


@pytest.mark.parametrize("file", FILES[:-1])
def test_what_was_cut_while_it_was_written_is_not_finished(checkpoint, file):
    """The last check before the rename does not know the sizes: each format tells by itself."""
    path = checkpoint / file
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(manifest.Unwhole, match=file):
        manifest.write(checkpoint, 20, 2, True)


def test_a_shard_that_the_index_names_must_hold_its_tensors(checkpoint):
    save_file({"c": torch.zeros(1)}, checkpoint / "model-2.safetensors")
    with pytest.raises(manifest.Unwhole, match="lacks b"):
        manifest.write(checkpoint, 20, 2, True)
    (checkpoint / "model-2.safetensors").unlink()
    with pytest.raises(manifest.Unwhole, match="model-2.safetensors, which is not there"):
        manifest.write(checkpoint, 20, 2, True)


def test_names_alone_say_nothing(tmp_path):
    (tmp_path / "checkpoint-99").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert manifest.latest(tmp_path) is None
    with pytest.raises(manifest.Unwhole, match=r"checkpoint-99 has no manifest.json"):
        manifest.read(tmp_path / "checkpoint-99")


def test_the_last_ones_and_the_best_are_kept(checkpoint, tmp_path):
    for step in (3, 100, 9, 30):
        shutil.copytree(checkpoint, tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-40").mkdir()  # not whole: neither counted nor deleted
    folders.prune(tmp_path, None, None)
    assert len(manifest.folders(tmp_path)) == 6
    folders.prune(tmp_path, 2, "/elsewhere/checkpoint-9")
    assert [path.name for path in manifest.folders(tmp_path)] == [
        "checkpoint-9", "checkpoint-30", "checkpoint-40", "checkpoint-100"
    ]  # fmt: skip
    assert not (tmp_path / folders.ASIDE).exists()


# a full disk


def test_how_a_full_disk_is_told():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert disk.is_full(full) and disk.is_full(OSError(errno.EDQUOT, "quota"))
    assert not disk.is_full(OSError(errno.EACCES, "no")) and not disk.is_full(RuntimeError("CUDA out of memory"))
    assert not disk.is_full(KeyError("no space left"))


def trainer_at(tiny_model, data, output, **training):
    from sft.trainer import SFTTrainer
    from stage.trainer.arguments import arguments
    from vlm.loading import load_model, load_processor

    made = recipe(tiny_model, output, SFTRecipe)
    made.training = {"max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1}
    made.training |= {"gradient_checkpointing": False, "learning_rate": 1e-3, **training}
    args = arguments(trl.SFTConfig, made, assistant_only_loss=True, max_length=None)
    words = load_processor(tiny_model, LIMITS)
    return SFTTrainer(load_model(section(tiny_model)), args, train_dataset=data, processing_class=words)


@pytest.fixture
def chats(tmp_path):
    rows = dataset(tmp_path, 4)
    said = [{"role": "assistant", "content": "yes"}]
    return Dataset.from_list([{"messages": [*row["prompt"], *said], "images": row["images"]} for row in rows])


class At(TrainerCallback):
    """Does something after a step, before its checkpoint."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def test_a_full_disk_leaves_the_run_alive(tiny_model, chats, small_disk, tmp_path, caplog, monkeypatch):
    """Full while the first checkpoint is written; room for the second; none for the third, as is known beforehand; and
    not known at the fourth. The second is then as it was, and the run goes on from it to the same weights."""
    (small_disk / "others").write_bytes(bytes(44 * 2**20))
    trainer = trainer_at(tiny_model, chats, small_disk / "run")
    trainer.add_callback(At(2, (small_disk / "others").unlink))
    trainer.add_callback(At(4, lambda: monkeypatch.setattr(folders, "room", lambda run: 2**40)))
    with caplog.at_level(logging.WARNING, "stage"):
        trainer.train()
    assert trainer.state.global_step == 4
    told = [record.getMessage() for record in caplog.records if record.name.startswith("stage.checkpoints")]
    assert [message.partition(":")[0] for message in told] == [f"no checkpoint at step {n}" for n in (1, 3, 4)]
    assert all("could not be written" in told[n] for n in (0, 2)) and "bytes are free" in told[1]
    assert "there is none yet" in told[0] and f"the last one is {small_disk}/run/checkpoint-2" in told[2]
    assert [path.name for path in manifest.folders(small_disk / "run")] == ["checkpoint-2"]
    assert not (small_disk / "run" / folders.ASIDE).exists()
    other = trainer_at(tiny_model, chats, tmp_path / "other", save_strategy="no")
    other.train(resume_from_checkpoint=str(small_disk / "run/checkpoint-2"))
    expected = trainer.model.state_dict()
    assert all(value.equal(expected[name]) for name, value in other.model.state_dict().items())


def test_the_first_one_is_compared_with_the_plan(tiny_model, chats, tmp_path, caplog):
    """And later ones with the one before them (above)."""
    trainer = trainer_at(tiny_model, chats, tmp_path / "run", max_steps=1)
    trainer.planned_bytes = 2**60
    with caplog.at_level(logging.WARNING, "stage"):
        trainer.train()
    assert f"bytes are free, the plan says {2**60:,}. Training continues; there is none yet" in caplog.text
    assert not manifest.folders(tmp_path / "run")


@pytest.mark.parametrize("limit", [10**6, 2 * 10**7])
def test_a_write_that_fails_anywhere(tiny_model, chats, tmp_path, caplog, limit):
    """The kernel refuses to let any file grow beyond `limit` bytes: neither the weights', nor the optimiser's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = trainer_at(tiny_model, chats, tmp_path / "run", max_steps=3)

    def limited(to):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (to, before[1]))

    for step, to in ((2, limit), (3, before[0])):
        trainer.add_callback(At(step, limited(to)))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with caplog.at_level(logging.WARNING, "stage"):
            trainer.train()
    finally:
        limited(before[0])()
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in manifest.folders(tmp_path / "run")] == ["checkpoint-1", "checkpoint-3"]
    assert all(manifest.read(path) for path in manifest.folders(tmp_path / "run"))
    assert "no checkpoint at step 2" in caplog.text and "checkpoint-1" in caplog.text


@pytest.mark.parametrize("place", ["state", "manifest", "card"])
def test_the_small_files_fail(tiny_model, chats, tmp_path, caplog, monkeypatch, place):
    """Everything fits but the last few bytes."""
    trainer = trainer_at(tiny_model, chats, tmp_path / "run", max_steps=2)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = {"state": (trainer, "kept_state"), "manifest": (manifest, "write"), "card": (trainer, "create_model_card")}
    place = where[place]
    if place[1] == "create_model_card":  # what it calls
        place = ("trl.trainer.base_trainer.generate_model_card",)
    trainer.add_callback(At(1, lambda: monkeypatch.setattr(*place, full)))
    trainer.add_callback(At(2, monkeypatch.undo))
    with caplog.at_level(logging.WARNING, "stage"):
        trainer.train()
    assert [path.name for path in manifest.folders(tmp_path / "run")] == ["checkpoint-2"]
    assert "no checkpoint at step 1: it could not be written (OSError: [Errno 28]" in caplog.text


def test_other_errors_while_saving_are_raised(tiny_model, chats, tmp_path, monkeypatch):
    trainer = trainer_at(tiny_model, chats, tmp_path / "run", max_steps=1)

    def broken():
        raise ValueError("a fault of the code")

    monkeypatch.setattr(trainer, "kept_state", broken)
    with pytest.raises(ValueError, match="a fault of the code"):
        trainer.train()
    assert manifest.latest(tmp_path / "run") is None
