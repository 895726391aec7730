"""The recipe's `resume:`: from where a run begins, and what its recipe may have changed."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys

import pytest

from sft.recipe import SFTRecipe
from stage.checkpoints import folders, manifest
from stage.checkpoints.beginning import begin
from stage.recipe import config
from stage.signals import watching
from tests.support.processes.commands import ROOT
from vlm.common.errors import RecipeError, UserError


@pytest.fixture
def recipe(tmp_path):
    """(overrides) → an SFT recipe with the output tmp_path/run."""

    def make(*overrides):
        given = ["model.path=m", "data.train.0.path=d.json", f"output={tmp_path}/run", "training.max_steps=50"]
        return config.load(ROOT / "recipes/demo/sft.yaml", SFTRecipe, [*given, *overrides])

    return make


@pytest.fixture
def checkpoint(recipe, tmp_path):
    """(step, keys of the manifest) → a whole checkpoint of the run, with its recipe."""

    def make(step, run=tmp_path / "run", **changes):
        folder = folders.begin(run, step)
        config.save(recipe(), folder / "recipe.yaml")
        manifest.write(folder, step, 1, True)
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folders.commit(run, folder)

    return make


def test_without_resume_nothing_is_looked_for(recipe, checkpoint):
    checkpoint(10)
    found = begin(recipe())
    assert (found.checkpoint, found.finished, found.path) == (None, None, None)


def test_auto_takes_the_last_whole_one(recipe, checkpoint, tmp_path):
    assert begin(recipe("resume=auto")).checkpoint is None
    for step in (5, 30, 200):
        checkpoint(step)
    (tmp_path / "run/checkpoint-200/recipe.yaml").write_text("cut")
    found = begin(recipe("resume=auto"))
    assert found.checkpoint.step == 30 and found.path == str(tmp_path / "run/checkpoint-30")


def test_a_finished_run_is_left_as_it_is(recipe, checkpoint, tmp_path, caplog):
    checkpoint(50)
    (tmp_path / "run/finished.json").write_text('{"steps": 50}')
    with caplog.at_level(logging.INFO, "stage"):
        assert begin(recipe("resume=auto")).finished == 50
    assert "has finished at step 50; there is nothing to do" in caplog.text
    longer = begin(recipe("resume=auto", "training.max_steps=80", "training.lr_scheduler_type=cosine"))
    assert longer.finished is None and longer.checkpoint.step == 50
    assert "the shorter one's learning rates" in caplog.text


NEUTRAL = ("training.logging_steps=7", "training.save_steps=3", "tracking.tags=[a]", "gpus=8xA100-80G")


@pytest.mark.parametrize("change", NEUTRAL)
def test_what_changes_no_weight_may_be_changed(recipe, checkpoint, change):
    checkpoint(10)
    assert begin(recipe("resume=auto", change)).checkpoint.step == 10


CHANGES = {
    "training.learning_rate=1e-3": "training.learning_rate was 0.0001 and is 0.001",
    "seed=1": "seed was 0 and is 1",
    "model.path=other": "model.path was 'm' and is 'other'",
    "data.shuffle=false": "data.shuffle was True and is False",
    "training.max_steps=49": "training.max_steps was 50 and is 49 .it may only be raised",
    "training.optim=sgd": "training.optim was '<absent>' and is 'sgd'",
    "training.label_smoothing_factor=0.1": "training.label_smoothing_factor",
    "model.lora={}": "model.lora was None",
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_changes_are_refused_by_name(recipe, checkpoint, change):
    checkpoint(10)
    with pytest.raises(RecipeError, match=f"not the one that wrote.*checkpoint-10: .*{CHANGES[change]}"):
        begin(recipe("resume=auto", change))


def test_a_run_without_a_checkpoint_begins_anew_with_its_own_recipe_only(recipe, tmp_path):
    config.save(recipe(), tmp_path / "run/recipe.yaml")
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1}\n')
    assert begin(recipe("resume=auto")).checkpoint is None
    with pytest.raises(RecipeError, match="seed was 0 and is 3"):
        begin(recipe("resume=auto", "seed=3"))


def test_a_checkpoint_by_its_path(recipe, checkpoint, tmp_path):
    """Of this run only the last one, for the later ones would be of another course; of another run any."""
    first, last = checkpoint(10), checkpoint(20)
    assert begin(recipe(f"resume={last}")).checkpoint.step == 20
    with pytest.raises(RecipeError, match="also holds checkpoint-20.*another output"):
        begin(recipe(f"resume={first}"))
    assert begin(recipe(f"resume={first}", f"output={tmp_path}/branch")).checkpoint.path == first
    with pytest.raises(UserError, match="has no manifest.json"):
        begin(recipe(f"resume={tmp_path}/nowhere"))


def test_what_cannot_be_gone_on_from(recipe, checkpoint, monkeypatch):
    with pytest.raises(RecipeError, match="resumed or replaced"):
        begin(recipe("resume=auto", "overwrite=true"))
    checkpoint(10, processes=4)
    with pytest.raises(UserError, match="written by 4 processes, and this run has 1"):
        begin(recipe("resume=auto"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert begin(recipe("resume=auto")).checkpoint.processes == 4


def test_other_versions_are_said(recipe, checkpoint, caplog):
    checkpoint(10, packages={"torch": "1.0", "trl": manifest.packages()["trl"]})
    begin(recipe("resume=auto"))
    said = [record.getMessage() for record in caplog.records if "was written with" in record.getMessage()]
    assert len(said) == 1 and "torch 1.0" in said[0]


# signals


def test_a_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with watching() as watch:
        assert watch.received is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # at once: the launcher hands on what the terminal has sent
        assert watch.received is signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_leaves_at_once(monkeypatch):
    clock = iter([10.0, 10.4, 11.5])
    monkeypatch.setattr("stage.signals.time.monotonic", lambda: next(clock))
    with watching(), pytest.raises(KeyboardInterrupt):  # noqa: PT012 (the last of the three raises)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_workers_of_the_data_loader_go_on():
    """A forked process inherits the handler, and leaves the decision to its owner."""
    code = """
import os, signal
from stage.signals import watching
with watching() as watch:
    if not (pid := os.fork()):
        signal.raise_signal(signal.SIGINT)
        os._exit(7 if watch.received is None else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), watch.received)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "None"]
