"""How many workers prepare pictures where the recipe does not say, what is said of it, and that none is left over."""

from __future__ import annotations

import multiprocessing
import os
from types import SimpleNamespace

import pytest

from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from stage.signals import watching
from stage.trainer import models, workers

MIB = 2**20
DATA = {"train": [{"path": "rows.jsonl"}]}


def recipe(cls=SFTRecipe, **training):
    """4 pictures of 1024²: a batch of 4 · 1024² · 24 bytes = 96 MiB, 288 MiB of each worker."""
    images = {"min_pixels": 3136, "max_pixels": 1024 * 1024}
    section = {"path": "m"}
    training = {"per_device_train_batch_size": 4} | training
    return cls(model=section, output="o", data=DATA, images=images, training=training)


@pytest.fixture
def machine(monkeypatch):
    """(cores of this process, free MiB of /dev/shm, processes here) for what follows."""

    def make(cores, free, processes):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(workers.shutil, "disk_usage", lambda place: SimpleNamespace(free=free * MIB))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    return make


@pytest.mark.parametrize(
    ("cores", "free", "processes", "count", "said"),
    [
        (16, 10**6, 1, 4, ""),
        (96, 10**6, 8, 4, ""),
        (24, 10**6, 8, 2, ""),
        (8, 10**6, 8, 0, "1 cores for each of 8 processes leave none"),
        (16, 64, 1, 0, "0 workers a process: batches of up to 96 MiB, 3 of each worker in 1 processes, are more than"),
        (96, 8 * 288 * 3, 8, 3, "3 workers a process: batches of up to 96 MiB, 3 of each worker in 8 processes"),
    ],
)
def test_by_cores_and_shared_memory(machine, capsys, cores, free, processes, count, said):
    machine(cores, free, processes)
    assert workers.settled(recipe(), accelerator=True) == {"dataloader_num_workers": count}
    told = capsys.readouterr().err
    assert said in told and bool(told) == bool(said)


def test_the_recipe_wins_and_a_cpu_or_a_rollout_has_none(machine, capsys):
    machine(96, 10**6, 1)
    assert workers.settled(recipe(dataloader_num_workers=0), accelerator=True) == {}
    assert workers.settled(recipe(), accelerator=False) == {}
    grpo = recipe(GRPORecipe, num_generations=4)
    assert workers.settled(grpo, accelerator=True) == {}
    planned = [workers.planned(one) for one in (recipe(dataloader_num_workers=7), grpo, recipe())]
    assert planned == ["7", "0", "up to 4 with a GPU, by the cores and /dev/shm of its machine"]
    assert capsys.readouterr().err == ""


def test_the_trainer_gets_what_the_machine_gives(machine, monkeypatch, tmp_path):
    """Through the training arguments; tokenizers are told before anything is forked."""
    import torch
    from trl import SFTConfig

    from stage.trainer.arguments import arguments

    machine(96, 10**6, 1)
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    made = recipe().model_copy(update={"output": str(tmp_path)})
    made.model.dtype = "float32"
    assert arguments(SFTConfig, made).dataloader_num_workers == 4
    assert os.environ.pop("TOKENIZERS_PARALLELISM") == "false"
    made.training["use_cpu"] = True
    assert arguments(SFTConfig, made).dataloader_num_workers == 0 and "TOKENIZERS_PARALLELISM" not in os.environ


def asleep(ready, end):
    ready.set()
    end.wait(60)


def test_a_worker_lets_a_signal_pass_until_its_owner_is_done():
    """Then SIGTERM ends it: multiprocessing sends that at the interpreter's end, and waits for it without end."""
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    with watching():
        worker = context.Process(target=asleep, args=(ready, end), daemon=True)
        worker.start()
        assert ready.wait(60)
        worker.terminate()  # as the scheduler does, to all processes of the job
        worker.join(0.3)
        assert worker.is_alive()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 1


@pytest.mark.parametrize(
    ("device", "zero", "fsdp", "expected"),
    [
        ("cuda:3", 0, "", "cuda:3"),
        ("cuda:3", 2, "", "cuda:3"),
        ("cuda:3", 3, "", None),
        ("cuda:3", 0, "true", None),
        ("cpu", 0, "", None),
    ],
)
def test_weights_go_to_the_gpu_of_their_process_unless_they_are_split(monkeypatch, device, zero, fsdp, expected):
    import torch
    from transformers.integrations import HfDeepSpeedConfig

    monkeypatch.setenv("ACCELERATE_USE_FSDP", fsdp or "false")
    engine = HfDeepSpeedConfig({"zero_optimization": {"stage": zero}}) if zero else None  # transformers looks for it
    found = models.own_device(SimpleNamespace(device=torch.device(device)))
    del engine
    assert (found and str(found)) == expected
