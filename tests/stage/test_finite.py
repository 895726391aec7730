"""Steps whose loss or gradient is not finite: what moves, what is counted, what is kept (CPU, float32)."""

from __future__ import annotations

import inspect
import json
import logging
import math
from pathlib import Path

import pytest
import torch
import trl
from transformers import Trainer, TrainerCallback

import rl
from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from sft.trainer import SFTTrainer
from stage.checkpoints.packing import unpack
from stage.guards.finite import FiniteSteps, NonFinite
from stage.recipe.sections import GuardSection
from stage.replay import replaying
from stage.replay.dumps import ROWS, Dumping
from stage.trainer.arguments import arguments
from tests.rl.test_grpo import LIMITS, dataset, recipe
from tests.support.tiny_checkpoints import section
from vlm.loading import load_model, load_processor

pytestmark = pytest.mark.xdist_group("finite")


class Spoiling:
    """Spoils what `bad` names: (step, micro-batch) → "loss" or "gradient"."""

    bad: dict = {}
    micro = 0

    def observed(self, loss):
        if self.bad.get((self.state.global_step + 1, self.micro % self.args.gradient_accumulation_steps)) == "loss":
            loss = loss.detach() * math.nan + 0 * loss  # whose own gradient is 0
        return super().observed(loss)

    def training_step(self, *positional, **named):
        micro = self.micro % self.args.gradient_accumulation_steps
        loss = super().training_step(*positional, **named)
        self.micro += 1
        if self.bad.get((self.state.global_step + 1, micro)) == "gradient":
            next(p for p in self.model.parameters() if p.grad is not None).grad.view(-1)[3] = math.inf
        return loss


class GRPO(Spoiling, rl.GRPOTrainer):
    pass


class SFT(Spoiling, SFTTrainer):
    pass


class Watch(TrainerCallback):
    """Weights, optimiser state and learning rate after each step."""

    def __init__(self):
        self.seen = {}

    def on_step_end(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **kwargs):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        moments = [
            {name: value.clone() for name, value in kept.items()} for kept in optimizer.state_dict()["state"].values()
        ]
        self.seen[state.global_step] = weights, moments, lr_scheduler.get_last_lr()


def unchanged(a, b):
    weights = all(value.equal(b[0][name]) for name, value in a[0].items())
    moments = all(
        value.equal(other[name]) for one, other in zip(a[1], b[1], strict=True) for name, value in one.items()
    )
    return [weights, moments, a[2] == b[2]]


@pytest.fixture
def train(tiny_model, tmp_path):
    """(class, spoiled micro-batches, guards, training keys) → (trainer, what `Watch` saw), after training."""

    def run(cls, bad, guards=None, finish=True, **training):
        data = dataset(tmp_path, 8)
        keys = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 3, **training}
        keys |= {"lr_scheduler_type": "linear", "learning_rate": 1e-3}
        config = trl.GRPOConfig if issubclass(cls, rl.GRPOTrainer) else trl.SFTConfig
        own = {} if config is trl.GRPOConfig else {"assistant_only_loss": True, "max_length": None}
        kind = GRPORecipe if config is trl.GRPOConfig else SFTRecipe
        args = arguments(config, recipe(tiny_model, tmp_path / "run", kind, **keys), **own)
        model, words = load_model(section(tiny_model)), load_processor(tiny_model, LIMITS)
        if config is trl.GRPOConfig:
            args.num_completions_to_print = 0
            made = cls(
                model, lambda completions, **_: [float(n % 2) for n in range(len(completions))], args, data,
                processing_class=words,
            )  # fmt: skip
        else:
            made = cls(model, args, train_dataset=chats(tmp_path), processing_class=words)
        made.bad, made.guards, watch = bad, guards or GuardSection(), Watch()
        made.add_callback(watch)
        if finish:
            made.train()
        return made, watch.seen

    return run


def chats(folder):
    from samples import Sample
    from samples.rows import chat_rows
    from vlm.sections import PromptSection

    turns = [[{"role": "user", "content": f"ship {n}?"}, {"role": "assistant", "content": "yes" * n}] for n in (1, 2)]
    samples = [
        Sample([str(folder / f"{n}.png")], turns[n % 2], "vqa", answer="a", source="s", id=str(n)) for n in range(8)
    ]
    return chat_rows(samples, PromptSection(system="Think."))


@pytest.mark.parametrize(("cls", "kind"), [(GRPO, "loss"), (GRPO, "gradient"), (SFT, "loss")])
def test_the_step_does_not_happen(train, caplog, kind, cls):
    """Step 2 is spoiled, in the first of its two micro-batches. Nothing moves in it, and everything in the others."""
    with caplog.at_level(logging.WARNING, "stage.guards.finite"):
        trainer, seen = train(cls, {(2, 0): kind})
    assert unchanged(seen[1], seen[2]) == [True, True, True]
    assert unchanged(seen[2], seen[3]) == [False, False, False]
    assert trainer.state.global_step == 3 and all(v.isfinite().all() for v in trainer.model.state_dict().values())
    assert [row["guards/skipped_steps"] for row in trainer.state.log_history if "loss" in row] == [0, 1, 1]
    (facts,) = dumped(trainer)
    assert len(facts["rows"]) == 4
    assert facts["loss"][0] == "nan" if kind == "loss" else facts["grad_norm"] in ("inf", "nan")
    assert len(facts["parameters"]) == (1 if kind == "gradient" else len(facts["parameters"])) > 0
    (message,) = [record.getMessage() for record in caplog.records if record.name == "stage.guards.finite"]
    assert message.startswith("step 2: loss ") and facts["rows"][0] in message and "dumps/step-2" in message


def dumped(trainer):
    """What rank 0 says of each step that was not finite."""
    headers = [
        json.loads(path.read_text()) for path in sorted(Path(trainer.args.output_dir).glob("dumps/step-*/dump.json"))
    ]
    assert all(header["reason"] == "not finite" for header in headers)
    return [header["ranks"][0] for header in headers]


def test_the_dump_holds_the_batch(train, tmp_path):
    """Computed again from the files, each micro-batch has the loss that the trainer computes from the batch itself.

    tests/stage/test_replay.py does it by the command.
    """
    trainer, _ = train(GRPO, {(1, 1): "loss"}, max_steps=1)
    entries = replaying.read(tmp_path / "run", 1).ranks[0]["micro_batches"]
    assert [entry["loss"].isfinite().item() for entry in entries] == [True, False]
    trainer.bad = {}
    held, written = trainer._buffered_inputs, [trainer.held_inputs(unpack(entry)["inputs"]) for entry in entries]
    for ours, theirs, entry in zip(held, written, entries, strict=True):
        assert set(ours) - {ROWS} == set(theirs)
        assert all(value.equal(theirs[key]) for key, value in ours.items() if isinstance(value, torch.Tensor))
        assert ours[ROWS] == entry["rows"]
    losses = [[trainer.compute_loss(trainer.model, dict(batch)).item() for batch in found] for found in (held, written)]
    assert losses[0] == losses[1] and all(map(math.isfinite, losses[0]))


def test_after_so_many_in_a_row_it_stops(train, tmp_path):
    bad = {(step, 0): "gradient" for step in (1, 3, 4, 5)}
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6}
    told = (
        r"3 steps one after another.*guards.skip is 2.*step 5: loss .*gradient norm (inf|nan), first in .*row '\d'.*"
        r"not dumped \(guards.dumps is 2\).*checkpoint-4"
    )
    with pytest.raises(NonFinite, match=told):
        train(SFT, bad, GuardSection(skip=2, dumps=2), **saving)
    assert len(list((tmp_path / "run/dumps").iterdir())) == 2
    trainer, _ = train(SFT, {}, finish=False, **saving)
    trainer.train(resume_from_checkpoint=True)  # mended, it goes on from before the step that ended it
    assert trainer.state.global_step == 6 and trainer.skipped == 3
    weights = [load_model(section(f"{tmp_path}/run/checkpoint-{step}")).state_dict() for step in (2, 4, 6)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())  # the last good ones
    assert any(not value.equal(weights[2][name]) for name, value in weights[0].items())


def test_skip_0_stops_at_the_first(train):
    with pytest.raises(NonFinite, match="a step has a loss or gradient"):
        train(SFT, {(1, 1): "loss"}, GuardSection(skip=0, dumps=0))


def test_upstream_goes_on_with_nan(train):
    """Why the guard is there: transformers' own step spoils every weight."""

    class Unguarded(Spoiling, trl.SFTTrainer):
        pass

    trainer, _ = train(Unguarded, {(2, 0): "gradient"})
    weights = list(trainer.model.parameters())
    assert sum(not weight.isfinite().all() for weight in weights) > len(weights) / 2


def test_the_score_models_training_is_guarded(tmp_path, monkeypatch):
    """And its dump names the preferences."""
    from PIL import Image

    from rewards.score.training import stage
    from rewards.score.training.preferences import Preference, write
    from rewards.score.training.trainer import PreferenceTrainer
    from tests.rewards.test_score_training import recipe as score_recipe

    class Spoiled(Spoiling, PreferenceTrainer):
        bad = {(1, 0): "loss"}

    Image.new("RGB", (112, 112), (200, 30, 30)).save(tmp_path / "a.png")
    asked = [Preference([str(tmp_path / "a.png")], "Which?", ["red", "blue"], source="s", id=str(n)) for n in range(2)]
    write(tmp_path / "train.jsonl", asked)
    write(tmp_path / "eval.jsonl", asked)
    monkeypatch.setattr("rewards.score.training.trainer.PreferenceTrainer", Spoiled)
    stage.train(score_recipe(tmp_path, tmp_path / "run", training={"max_steps": 1}))
    (facts,) = json.loads((tmp_path / "run/dumps/step-1/dump.json").read_text())["ranks"]
    assert facts["loss"] == ["nan"] and sorted(facts["rows"]) == ["s: row '0'", "s: row '1'"]


def test_float16_finds_its_scale(train):
    """An overflow at a loss scale above 1 is its answer, and no fault; a loss that is not finite is one."""
    trainer, _ = train(SFT, {}, finish=False)
    trainer.args.fp16 = True

    class Scaler:
        scale = 65536.0

        def get_scale(self):
            return self.scale

    trainer.accelerator.scaler = scaler = Scaler()
    finite, spoiled = {"loss": torch.tensor(0.5)}, {"loss": torch.tensor(math.nan)}
    found = []
    for scaler.scale, trainer._window in ((65536.0, [finite] * 2), (65536.0, [finite, spoiled]), (1.0, [finite])):
        found.append(trainer._finds_its_scale())
    assert found == [True, False, False]


def test_a_finite_loss_keeps_every_bit():
    """And its gradient; one that is not finite has no finite gradient, whatever it depends on."""
    guard, weight = FiniteSteps(), torch.randn(5, requires_grad=True)
    guard._window = [{}]
    loss = (weight.sin() * 0.3).sum()
    expected = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    watched = guard.observed(loss)
    assert watched.equal(loss) and torch.autograd.grad(watched, weight)[0].equal(expected)
    for value in (math.nan, math.inf, -math.inf):
        spoiled = guard.observed((weight * 0).sum() + value)
        assert torch.autograd.grad(spoiled, weight)[0].isnan().all()


@pytest.mark.versions
def test_the_upstream_methods_are_as_they_were():
    """What `stage.guards.finite` overrides or relies on; raise the pins only with this test."""
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.scheduler import AcceleratedScheduler
    from accelerate.utils import DeepSpeedOptimizerWrapper

    for name, expected in {
        "compute_loss": "(self, model: torch.nn.modules.module.Module, inputs: dict[str, torch.Tensor | typing.Any], "
        "return_outputs: bool = False, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor | "
        "tuple[torch.Tensor, typing.Any]",
        "_get_grad_norm": "(self, model, grad_norm=None)",
        "log": "(self, logs: dict[str, float], start_time: float | None = None) -> None",
    }.items():
        assert str(inspect.signature(getattr(Trainer, name))) == expected, name
        assert name in (vars(Dumping) if name == "compute_loss" else vars(FiniteSteps))
    names = ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]
    for trainer in (trl.GRPOTrainer, trl.SFTTrainer):
        assert list(inspect.signature(trainer.compute_loss).parameters) == names
    epoch = inspect.getsource(Trainer._run_epoch)
    order = ["self._get_grad_norm(model, grad_norm=grad_norm)", "self.optimizer.step()", "optimizer_step_was_skipped",
             "self.lr_scheduler.step()", "self.state.global_step += 1"]  # fmt: skip
    assert sorted(order, key=epoch.index) == order
    assert "return self._is_overflow" in inspect.getsource(AcceleratedOptimizer.step_was_skipped.fget)
    assert "if opt.step_was_skipped" in inspect.getsource(AcceleratedScheduler.step)
    assert "self.optimizer.overflow" in inspect.getsource(DeepSpeedOptimizerWrapper.step_was_skipped.fget)


@pytest.mark.parametrize(("stage", "cls"), [("grpo", GRPO), ("sft", SFT)])
def test_the_peaks_of_gpu_memory_are_logged(train, monkeypatch, stage, cls):
    """Of the time since the log before, in every training stage."""
    from stage.guards import gpu_memory
    from stage.metrics import find

    trainer, _ = train(cls, {}, finish=False)
    resets = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    for name, value in (
        ("is_available", True),
        ("max_memory_allocated", 3 * 2**30),
        ("max_memory_reserved", 5 * 2**30),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = gpu_memory.peaks()
    assert found == {"memory/peak_gib": 3, "memory/reserved_gib": 5} and resets == [1]
    assert all(find(name, stage) for name in found)
    trainer.model.train()
    trainer.log({"loss": 0.5})
    assert found.items() <= trainer.state.log_history[-1].items() and resets == [1, 1]
