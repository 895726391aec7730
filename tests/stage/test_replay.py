"""A step computed again from its dump: the loss to the bit, and what cannot be computed again is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from stage.guards.finite import NonFinite
from stage.runs import read_metrics
from tests.support.processes.commands import LETTERS, ROOT, grpo, sft
from tests.support.scores.pairs import coloured_pairs

COMMON = [
    "training.max_steps=3", "training.gradient_accumulation_steps=2", "training.learning_rate=1e-2",
    "training.warmup_steps=0", "training.lr_scheduler_type=constant", "training.max_grad_norm=0.5",
]  # fmt: skip
LOGGED = ["dump.steps=[2]", "training.logging_steps=1"]


def launcher(name: str):
    """`launch/NAME.py` as a module, with its `main`."""
    spec = importlib.util.spec_from_file_location(f"launcher_{name}", ROOT / f"launch/{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def train(stage: str, argv: list[str]) -> None:
    from stage.recipe import config

    module = launcher(stage)
    classes = {"grpo": "GRPORecipe", "sft": "SFTRecipe", "score": "ScoreRecipe"}
    recipe = config.load(argv[0], getattr(module, classes[stage]), argv[1:])
    (module.train if stage == "grpo" else module.stage.train)(recipe)


@pytest.fixture(scope="module")
def runs(tiny_model, demo_data, tmp_path_factory):
    """Holds `grpo` (beta, two iterations, checkpoints), `sft` (LoRA with dropout, weights in the dump) and `score`."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "letters.py").write_text(LETTERS)
    rollouts = ["training.num_iterations=2", "training.beta=0.1", f"rewards=[{{use: {folder}/letters.py:letters}}]"]
    saved = ["training.save_strategy=steps", "training.save_steps=2", "dump.every=1"]
    train("grpo", grpo(tiny_model, demo_data, folder / "grpo", *COMMON, *rollouts, *saved))
    adapted = ["model.lora={r: 4, alpha: 8, dropout: 0.2}", "dump.steps=[2]", "dump.weights=true"]
    train("sft", sft(tiny_model, demo_data, folder / "sft", *COMMON, *adapted))
    train("score", [*score(folder), "training.save_strategy=steps", "training.save_steps=1", *LOGGED])
    return folder


def score(folder) -> list[str]:
    """Two micro-batches of two preferences a step, from a fresh head."""
    coloured_pairs(folder)
    settings = ["output=" + str(folder / "score"), f"data.train=[{{path: {folder}/pairs.jsonl}}]", "data.eval=[]"]
    return [str(ROOT / "recipes/demo/score.yaml"), *settings, "training.per_device_train_batch_size=2", *COMMON]


@pytest.fixture
def replay(monkeypatch, capsys, log_levels):
    """(run folder, step) → exit code and what was printed."""

    def go(run, step: int) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["replay.py", str(run), "--step", str(step)])
        code = launcher("replay").main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return go


@pytest.mark.parametrize(
    ("stage", "step", "weights"),
    [
        ("grpo", 1, "the base model"),
        ("grpo", 3, "checkpoint-2, written after step 2"),
        ("sft", 2, "the dump's own copy"),
        ("score", 2, "checkpoint-1, written after step 1"),
    ],
)
def test_the_loss_is_the_recorded_one_bit_by_bit(replay, runs, stage, step, weights):
    """And the gradient's norm is what the run has logged."""
    code, said = replay(runs / stage, step)
    assert code == 0 and "reproduced, bit by bit" in said and weights in said
    logged = next(row for row in read_metrics(runs / stage / "metrics.jsonl") if row["step"] == step)
    assert said.count("micro-batch") == 2 and abs(logged["loss"]) > 1e-9
    assert json.loads((runs / stage / f"dumps/step-{step}/dump.json").read_text())["loss"] == pytest.approx(
        logged["loss"], rel=1e-6, abs=1e-7
    )
    norm = float(said.partition("gradient norm ")[2].split()[0])
    assert norm == pytest.approx(logged["grad_norm"], rel=1e-6) and norm > 0.01


def test_without_its_weights_a_step_is_refused(replay, runs):
    code, said = replay(runs / "grpo", 2)
    assert code == 2 and "checkpoint-1 is not there" in said and "dump.weights=true" in said
    code, said = replay(runs / "grpo", 7)
    assert code == 2 and "has no dump of step 7; it has 1, 2, 3" in said


def test_a_step_that_was_not_finite_is_computed_again(replay, tiny_model, demo_data, tmp_path):
    """A model with an infinite weight: the run ends at step 1, and its dump says, and gives back, what was wrong."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    next(value for name, value in tensors.items() if name.endswith("norm.weight"))[3] = torch.inf
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFinite, match="dumped to .*dumps/step-1"):
        train("sft", sft(model, demo_data, tmp_path / "run", *COMMON, "guards.skip=0"))
    code, said = replay(tmp_path / "run", 1)
    assert code == 0 and "dumped because: not finite" in said and "reproduced, bit by bit" in said
    assert "rank 0 then: loss nan, nan; grad_norm nan; rows " in said and said.count("loss nan, recorded nan") == 2
    assert "gradients that are not finite" in said


@pytest.fixture
def copied(runs, tmp_path):
    shutil.copytree(runs / "sft", tmp_path / "sft")
    return tmp_path / "sft"


def test_other_weights_are_refused(replay, copied):
    path = copied / "dumps/step-2/weights/adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path)
    code, said = replay(copied, 2)
    assert code == 2 and "their digests differ" in said


def test_another_input_is_noticed(replay, copied):
    path = copied / "dumps/step-2/rank-0.pt"
    dump = torch.load(path, weights_only=True)
    inputs = dump["micro_batches"][1]["inputs"]
    inputs["pixel_values"] = -inputs["pixel_values"]
    torch.save(dump, path)
    code, said = replay(copied, 2)
    assert code == 1 and "NOT reproduced" in said
    assert "micro-batch 0" in said and said.count("difference 0\n") == 1


def test_a_file_that_is_missing_is_named(replay, copied):
    (copied / "dumps/step-2/rank-0.pt").unlink()
    code, said = replay(copied, 2)
    assert code == 2 and "rank-0.pt is missing" in said
