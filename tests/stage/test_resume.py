"""A run that was stopped goes on as if it had not been: weights to the bit, metrics to the digit (CPU, float32)."""

from __future__ import annotations

import inspect
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trl
from transformers import Trainer
from trl.trainer.utils import RepeatSampler

import rl
from samples import mixture
from sft.recipe import SFTRecipe
from sft.trainer import SFTTrainer
from stage.checkpoints import manifest
from stage.checkpoints.resumable import Resumable
from stage.planning.estimate import training
from stage.planning.job import Job, Saving
from stage.recipe.sections import ShardingSection
from stage.runs import Run
from stage.tracking.attach import attach
from stage.tracking.section import SampleSection
from stage.trainer.arguments import arguments
from tests.rl.test_grpo import LIMITS, dataset, recipe
from tests.support.runs import planned_storage
from tests.support.tiny_checkpoints import section
from vlm.adapters import apply_lora
from vlm.common.errors import UserError
from vlm.loading import load_model, load_processor
from vlm.sections import ImageSection, LoraSection, ModelSection

pytestmark = pytest.mark.xdist_group("resume")
LORA = LoraSection(r=4, alpha=8, dropout=0.2)
CLOCK = ("time/", "throughput/", "train_", "step_time")
"""Metrics that measure the machine."""


class Moody:
    """A reward with a state of its own, which draws from python's and numpy's random numbers, too."""

    __name__ = "moody"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **_):
        self.calls += 1
        letters = [sum(c.isalpha() for c in turns[0]["content"]) / 20 for turns in completions]
        return [n + random.random() / 5 + float(np.random.rand()) / 5 + self.calls / 100 for n in letters]

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def snapshot(trainer):
    """Weights, and every log without what the clock says, by step."""
    logs = [{key: row[key] for key in row if not key.startswith(CLOCK)} for row in trainer.state.log_history]
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}, logs


def planned(tiny_model, output, **model):
    """What is planned for a checkpoint of the tiny model with AdamW."""
    model = ModelSection(path=str(tiny_model), dtype="float32", attention="sdpa", **model)
    given = {"model": model, "images": ImageSection(), "sharding": ShardingSection()}
    saving = Saving(output, save_strategy="steps", save_steps=1)
    return training(Job("sft", samples=16, per_device_batch=4, saving=saving, **given)).storage


def check_equal(found, expected):
    weights, logs = found
    assert [name for name in expected[0] if not weights[name].equal(expected[0][name])] == []
    assert weights.keys() == expected[0].keys() and logs == expected[1]


@pytest.fixture(scope="module")
def grpo(tiny_model, tmp_path_factory):
    """(run name, model, training keys) → a GRPO trainer: 4 prompts, blocks of 4 micro-batches × 2 iterations."""
    folder = tmp_path_factory.mktemp("grpo")
    data = dataset(folder, 4)
    block = {"num_iterations": 2, "steps_per_generation": 4, "per_device_train_batch_size": 2, "beta": 0.05}
    saving = {"gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 1, "logging_steps": 3}

    def make(name, model=None, **training):
        given = {"max_steps": 10, **block, **saving, **training}
        shared = given.pop("share_prefix", True)
        args = arguments(trl.GRPOConfig, told := recipe(tiny_model, folder / name, **given), log_completions=True)
        args.num_completions_to_print = 0
        model = model or load_model(section(tiny_model))
        words = load_processor(tiny_model, LIMITS)
        trainer = rl.GRPOTrainer(model, Moody(), args, data, processing_class=words, share_prefix=shared)
        told.tracking.samples = SampleSection(every=1, rows=4)
        attach(trainer, Run(folder / name), told)
        return trainer

    return make


@pytest.fixture(scope="module")
def whole_grpo(grpo):
    """An uninterrupted run of 10 steps, a checkpoint at each: the folder, and what came of it."""
    trainer = grpo("plain")
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    weights, logs = snapshot(trainer)
    assert max((weights[name] - start[name]).abs().max() for name in start) > 1e-3
    return trainer.args.output_dir, (weights, logs)


@pytest.mark.versions
@pytest.mark.parametrize("step", [3, 5, 8, 9])
def test_grpo_goes_on_from_any_step(grpo, whole_grpo, step):
    """In a block's first iteration, in its second, at the end of the epoch, in the second epoch, whose order of prompts
    is the sampler's second draw. Logs fall on steps 3, 6 and 9."""
    folder, expected = whole_grpo
    torch.manual_seed(step)  # a process that has drawn other numbers
    trainer = grpo(f"from-{step}", save_strategy="no")
    here, table = Path(trainer.args.output_dir, "samples.jsonl"), Path(folder, "samples.jsonl").read_text()
    here.write_text(table)  # as far as the run came before it was stopped
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-{step}")
    check_equal(snapshot(trainer), expected)
    assert here.read_text() == table  # once for each generation
    assert [json.loads(line)["step"] for line in table.splitlines()] == [1] * 4 + [9] * 4


@pytest.mark.versions
@pytest.mark.parametrize("way", ["plain path", "lora", "moving reference"])
def test_other_ways_to_train(grpo, tiny_model, way):
    """Without shared prefixes, where TRL splits the batches; adapters with dropout; a reference that follows the
    policy. Stopped and resumed in a block."""

    def made(name, **training):
        given = {"max_steps": 7, "save_steps": 6, **training}
        if way == "plain path":
            return grpo(name, share_prefix=False, **given)
        if way == "moving reference":
            return grpo(name, sync_ref_model=True, ref_model_sync_steps=2, **given)
        torch.manual_seed(1)  # of the adapters
        return grpo(name, apply_lora(load_model(section(tiny_model)), LORA), **given)

    plain = made(f"{way}-a")
    plain.train()
    other = made(f"{way}-b", save_strategy="no")
    other.train(resume_from_checkpoint=f"{plain.args.output_dir}/checkpoint-6")
    check_equal(snapshot(other), snapshot(plain))
    if way == "lora":
        planned_storage.check(Path(plain.args.output_dir, "checkpoint-6"), planned(tiny_model, "lora", lora=LORA))


@pytest.mark.versions
def test_a_checkpoint_of_the_last_step_is_not_trained_on(grpo, whole_grpo):
    """transformers 5.23 takes one step more where the last one is inside an epoch."""
    folder, expected = whole_grpo
    trainer = grpo("end", save_strategy="no")
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-10")
    check_equal(snapshot(trainer), expected)
    assert trainer.state.global_step == 10


@pytest.fixture(scope="module")
def sft(tiny_model, demo_data, tmp_path_factory):
    """(run name, training keys) → an SFT trainer: 16 rows, 4 steps an epoch, 7 steps."""
    from samples.rows import chat_rows
    from samples.sections import DataSection, SourceSection
    from vlm.sections import PromptSection

    folder = tmp_path_factory.mktemp("sft")
    source = [SourceSection(path=str(demo_data / "sft/traces.json"))]
    data = chat_rows(mixture.draw(DataSection(train=source), "train", 0).samples, PromptSection(system="Think."))

    def make(name, cls=SFTTrainer, **training):
        made = recipe(tiny_model, folder / name, SFTRecipe)
        made.training = {
            "max_steps": 7, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 3,
            "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 1, **training,
        }  # fmt: skip
        args = arguments(trl.SFTConfig, made, assistant_only_loss=True, max_length=None)
        words = load_processor(tiny_model, LIMITS)
        held_out = data.select(range(4)) if args.eval_strategy != "no" else None
        model = load_model(section(tiny_model))
        return cls(model, args, train_dataset=data, eval_dataset=held_out, processing_class=words)

    return make


@pytest.mark.parametrize("step", [2, 4, 6])
def test_sft_goes_on_from_any_step(sft, step, plain_sft, tiny_model):
    """Within an epoch, between two, within the second."""
    folder, expected = plain_sft
    torch.manual_seed(step)
    trainer = sft(f"from-{step}", save_strategy="no")
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-{step}")
    check_equal(snapshot(trainer), expected)
    planned_storage.check(Path(folder, f"checkpoint-{step}"), planned(tiny_model, "sft"))


@pytest.fixture(scope="module")
def plain_sft(sft):
    trainer = sft("plain")
    trainer.train()
    return trainer.args.output_dir, snapshot(trainer)


def test_upstream_restores_next_to_nothing(sft, plain_sft):
    """Why weights are loaded strictly here: transformers' own resume leaves almost every tensor as it was."""
    folder, (weights, _) = plain_sft
    stock = sft("stock", trl.SFTTrainer, save_strategy="no")
    start = {name: value.clone() for name, value in stock.model.state_dict().items()}
    stock._load_from_checkpoint(f"{folder}/checkpoint-4")
    changed = [name for name, value in stock.model.state_dict().items() if not value.equal(start[name])]
    assert 0 < len(changed) < len(start) / 10
    ours = sft("ours", save_strategy="no")
    ours._load_from_checkpoint(f"{folder}/checkpoint-7")
    assert all(value.equal(weights[name]) for name, value in ours.model.state_dict().items())


def test_weights_of_another_model_are_refused_untouched(sft, plain_sft, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _ = plain_sft
    stored = load_file(f"{folder}/checkpoint-4/model.safetensors")
    names = sorted(stored)
    trainer = sft("other", save_strategy="no")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    changes = [
        ({name: stored[name] for name in names[1:]}, f"lacks 1 tensors \\({names[0]}"),
        (stored | {"more": torch.zeros(1)}, "no place for 1 tensors \\(more"),
        (stored | {names[0]: stored[names[0]][:1].clone()}, f"has {names[0]} as"),
        (stored | {names[0]: stored[names[0]].half()}, f"has {names[0]} as torch.float16"),
    ]
    for tensors, message in changes:
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            trainer._load_from_checkpoint(str(tmp_path))
    assert all(value.equal(before[name]) for name, value in trainer.model.state_dict().items())


def test_the_best_checkpoint_is_the_model_in_the_end(sft):
    """load_best_model_at_end, which upstream loads as loosely: the weights of the step whose evaluation was best. The
    best is kept beyond `save_total_limit`, and saved where no save was due."""

    class Scored(SFTTrainer):
        values = iter([0.1, 0.9, 0.2, 0.3, 0.4, 0.1, 0.2])
        seen: dict = {}

        def evaluate(self, *_, **__):
            value = next(self.values)
            self.seen[self.state.global_step] = snapshot(self)[0]
            logs = {"eval_quality": value}
            self.log(logs)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
            return logs

    best = {"metric_for_best_model": "quality", "greater_is_better": True, "load_best_model_at_end": True}
    trainer = sft("best", Scored, eval_strategy="steps", eval_steps=1, save_steps=3, save_total_limit=1, **best)
    trainer.train()
    assert all(value.equal(trainer.seen[2][name]) for name, value in trainer.model.state_dict().items())
    assert trainer.state.best_model_checkpoint == f"{trainer.args.output_dir}/checkpoint-2"
    kept = [path.name for path in manifest.folders(Path(trainer.args.output_dir))]
    assert kept == ["checkpoint-2", "checkpoint-7"]  # transformers saves the last step, too


def test_another_number_of_processes_is_refused(sft, plain_sft, tmp_path):
    folder, _ = plain_sft
    shutil.copytree(f"{folder}/checkpoint-4", tmp_path / "checkpoint-4")
    path = tmp_path / "checkpoint-4/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 8}))
    with pytest.raises(UserError, match="written by 8 processes, and this run has 1.*--num_processes 8"):
        sft("eight", save_strategy="no").train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_model_without_its_optimiser_is_refused(sft):
    trainer = sft("model", save_only_model=True, max_steps=1)
    trainer.train()
    folder = f"{trainer.args.output_dir}/checkpoint-1"
    assert load_model(section(folder))
    with pytest.raises(UserError, match="holds the model only"):
        sft("model-b").train(resume_from_checkpoint=folder)


@pytest.mark.versions
def test_the_upstream_methods_are_as_they_were():
    """What `stage.checkpoints.resumable` overrides; raise transformers' pin only with this test."""
    for name, expected in {
        "train": "(self, resume_from_checkpoint: str | bool | None = None, trial: 'optuna.Trial | dict[str, Any] | "
        "None' = None, ignore_keys_for_eval: list[str] | None = None) -> transformers.trainer_utils.TrainOutput",
        "_save_checkpoint": "(self, model: torch.nn.modules.module.Module, trial: 'optuna.Trial | dict[str, Any] | "
        "None') -> None",
        "_get_output_dir": "(self, trial: 'optuna.Trial | dict[str, Any] | None') -> str",
        "_save": "(self, output_dir: str | None = None, state_dict: dict | None = None) -> None",
        "_determine_best_metric": "(self, metrics: dict[str, float], trial: 'optuna.Trial | dict[str, Any] | None') -> "
        "bool",
        "_load_from_checkpoint": "(self, resume_from_checkpoint: str, model: torch.nn.modules.module.Module | None = "
        "None) -> None",
        "_load_best_model": "(self) -> None",
        "_load_rng_state": "(self, checkpoint: str | None) -> None",
        "_run_epoch": "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, "
        "ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)",
        "_finalize_training": "(self, trial, num_train_samples, start_time)",
    }.items():
        assert str(inspect.signature(getattr(Trainer, name))) == expected, name
        assert name in vars(Resumable)
    source = inspect.getsource(Trainer)
    for held in ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged"):
        assert f"self.{held} = " in source, held
    assert ("self._initial_global_step = " in source) == ("self._initial_global_step" in source)  # 5.17 has none
    assert "self._load_rng_state(resume_from_checkpoint)" in inspect.getsource(Trainer._run_epoch)
    order = RepeatSampler(range(6), 1, 1, seed=3)
    first, second = list(order), list(order)  # one draw for each pass, which `catch_up` counts on
    fresh = RepeatSampler(range(6), 1, 1, seed=3)
    next(iter(fresh))
    assert first != second and list(fresh) == second
