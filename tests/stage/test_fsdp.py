"""FSDP2 in two processes (gloo) takes the trajectory of one process: SFT and GRPO; checkpoints, resume, export.

DDP does, too (tests/stage/test_processes.py), so the two are equal. SGD makes an update linear in the gradient.
"""

from __future__ import annotations

import inspect
import json
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer
from trl.trainer.utils import add_fused_lm_head

from stage.parallel.fsdp import FullySharded
from stage.parallel.sharding import check_launch
from stage.recipe.sections import ShardingSection
from stage.runs import read_metrics
from tests.stage.test_distributed import SAVING, TRAINING, state
from tests.support.processes import forked
from tests.support.processes.commands import LETTERS, ROOT, grpo, sft, two_processes
from tests.support.processes.common_numbers import go
from tests.support.sample_rows import dump, shown_and_told
from vlm.common.errors import RecipeError

TOLERANCE = 1e-5
"""Of weights, and relative of metrics, in float32; measured 1.2e-7. Weights move by more than 1e-2."""
PAIRS = ["grpo", "mixed", "plain", "adapter", "sft", "shown"]
"""Jobs that run in one process and under FSDP."""
SPOILING = """
from rl.trainer import GRPOTrainer
observed = GRPOTrainer.observed

def spoiled(self, loss):
    if self.state.global_step == 2 and self.args.process_index == 1:
        loss = loss * float("nan")
    return observed(self, loss)

GRPOTrainer.observed = spoiled
"""
"""Rank 1's loss of step 3 is NaN."""


def jobs(model, data, folder, processes: int) -> list:
    """Jobs of tests/support/processes/common_numbers.py, whose output folders end in the number of processes."""
    (folder / "letters.py").write_text(LETTERS)
    (folder / "spoiling.py").write_text(SPOILING + LETTERS)
    own = [f"training.{key}={value}" for key, value in TRAINING.items()]
    one = ["training.max_steps=1", "training.num_iterations=1"]
    alone = [
        "training.num_generations=2",
        "data.shuffle=false",
        f"data.train.0.path={dump(folder / 'rows.jsonl', shown_and_told(data))}",
    ]
    sgd = ["optim=sgd", "learning_rate=0.5", "lr_scheduler_type=constant", "warmup_steps=0"]
    sgd = ["training.per_device_train_batch_size=2", *(f"training.{key}" for key in sgd)]

    single = ["training.max_steps=1", "training.per_device_train_batch_size=1", "training.gradient_checkpointing=true"]
    single += ["data.shuffle=false", f"data.train=[{{path: {folder}/rows.jsonl}}]"]

    def accumulated(steps: int) -> str:
        return f"training.gradient_accumulation_steps={steps * 2 // processes}"

    def rl(job, *more, rewards="letters"):
        rewards = f"rewards=[{{use: {folder}/{rewards}.py:letters}}]"
        return ["grpo", grpo(model, data, folder / f"{job}-{processes}", *own, rewards, accumulated(1), *more)]

    both = [
        rl("grpo"),
        rl("mixed", *one, *alone, "training.gradient_checkpointing=true"),
        rl("plain", *one, *alone, "share_prefix=false"),
        rl("adapter", *one, "share_prefix=false", "model.lora={dropout: 0.0}"),
        ["sft", sft(model, data, folder / f"sft-{processes}", *sgd, accumulated(2), "model.freeze=[vision_tower]")],
        ["sft", sft(model, data, folder / f"shown-{processes}", *sgd, accumulated(1), *single)],
    ]
    if processes == 1:
        return both
    adam = ["optim=adamw_torch", "learning_rate=1e-3", "max_steps=4", "num_iterations=4", "save_total_limit=4"]
    adam = [f"training.{key}" for key in adam]
    spoiled = rl("spoiled", *SAVING, *adam, rewards="spoiling")
    return [*both, spoiled, rl("resumed", *adam, f"resume={folder}/spoiled-2/checkpoint-1", rewards="spoiling")]


@pytest.fixture(scope="module")
def trained(tiny_model, demo_data, tmp_path_factory):
    """Folder of the runs `JOB-1` and `JOB-2`, and what those of two processes said."""
    folder = tmp_path_factory.mktemp("fsdp")
    orders = json.dumps(jobs(tiny_model, demo_data, folder, 2))
    done = forked.run([*two_processes("fsdp2"), ROOT / "tests/support/processes/fsdp_cpu.py", orders], cwd=folder)
    go(jobs(tiny_model, demo_data, folder, 1))
    return folder, done.stdout


def metrics(folder) -> list[dict]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


def weights(folder) -> dict:
    whole = folder / "model.safetensors"
    return load_file(whole if whole.is_file() else folder / "adapter_model.safetensors")


def apart(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((value - b[name]).abs().max().item() for name, value in a.items())


def test_weights_were_split(trained):
    """2 + 4 layers, embeddings, LM head and the rest are units; every weight is split, adapters too."""
    folder, said = trained
    # not by lines: two processes share the pipe, and print writes a text and its newline apart
    counted = re.findall(r"units: (\d+ on \d+ processes, \d+ of \d+ split)", said)
    assert counted.count("10 on 2 processes, 94 of 94 split") == 2 * 7
    (adapted,) = set(counted) - {"10 on 2 processes, 94 of 94 split"}
    assert len(counted) == 2 * 8 and adapted.split()[4] == adapted.split()[6]
    for job in PAIRS:
        one, two = (json.loads((folder / f"{job}-{n}/record.json").read_text()) for n in (1, 2))
        assert (two["processes"]["type"], two["processes"]["world_size"]) == ("FSDP", 2)
        assert one["model"] == two["model"]  # both begin with the same weights, drawn adapters too


@pytest.mark.parametrize("job", PAIRS)
def test_the_same_trajectory(trained, tiny_model, job):
    folder, _ = trained
    one, two = (metrics(folder / f"{job}-{n}") for n in (1, 2))
    assert len(one) == len(two) == (2 if job in ("grpo", "sft") else 1)
    for key in ("loss", "grad_norm", *(() if job in ("sft", "shown") else ("entropy", "kl", "reward", "reward_std"))):
        expected = [row[key] for row in one if key in row]
        assert [row[key] for row in two if key in row] == pytest.approx(expected, rel=TOLERANCE, abs=1e-6), key
        assert expected, key
    expected, found = (weights(folder / f"{job}-{n}/final") for n in (1, 2))
    assert apart(expected, found) < TOLERANCE
    if job == "adapter":
        moved = max(value.abs().max().item() for name, value in expected.items() if "lora_B" in name)  # from 0
    else:
        moved = apart(expected, load_file(f"{tiny_model}/model.safetensors"))
    assert moved > 1000 * TOLERANCE


def test_the_export_loads(trained, tiny_model):
    """Strictly, under the published names, with the class's own name; transformers alone writes others."""
    final = trained[0] / "sft-2/final"
    assert load_file(final / "model.safetensors").keys() == load_file(f"{tiny_model}/model.safetensors").keys()
    assert json.loads((final / "config.json").read_text())["architectures"] == ["Qwen2VLForConditionalGeneration"]
    assert state(final).keys() == state(tiny_model).keys()
    assert (final / "chat_template.jinja").is_file() and (final / "processor_config.json").is_file()


def test_a_resumed_run_ends_as_the_whole_one(trained):
    """To the bit: AdamW's moments, and the rest of a generation block, with its reference."""
    folder, _ = trained
    expected, found = folder / "spoiled-2", folder / "resumed-2"
    assert apart(weights(expected / "checkpoint-1"), weights(expected / "final")) > 10 * TOLERANCE
    assert apart(weights(expected / "final"), weights(found / "final")) == 0
    assert [row["step"] for row in metrics(found)] == [2, 3, 4]
    for row, other in zip(metrics(expected)[1:], metrics(found), strict=True):
        assert [str(row[key]) for key in ("loss", "grad_norm")] == [str(other[key]) for key in ("loss", "grad_norm")]
    files = {path.name for path in (expected / "checkpoint-2").iterdir()}
    assert {"optimizer_0.pt", "optimizer_1.pt", "scheduler.pt", "run_state_1.pt", "model.safetensors"} <= files
    assert not any("fsdp" in name for name in files)  # transformers' second copy of the weights


def test_nan_in_one_process_is_skipped_in_both(trained):
    folder = trained[0] / "spoiled-2"
    assert [row["guards/skipped_steps"] for row in metrics(folder)] == [0, 0, 1, 1]
    facts = json.loads((folder / "dumps/step-3/dump.json").read_text())["ranks"]
    assert facts[1]["loss"] == ["nan"] and facts[0]["loss"] != ["nan"]
    assert all(len(found["parameters"]) > 30 for found in facts)
    second, third, last = (weights(folder / f"checkpoint-{step}") for step in (2, 3, 4))
    assert apart(second, third) == 0
    assert apart(third, last) > 10 * TOLERANCE and all(value.isfinite().all() for value in last.values())


def recipe(**changes) -> SimpleNamespace:
    """What `check_launch` reads of one."""
    model = SimpleNamespace(dtype=changes.pop("dtype", "bfloat16"), quantization=None)
    kept = {"stage": "grpo", "sharding": ShardingSection(), "training": {}, "model": model}
    return SimpleNamespace(**{**kept, **changes})


@pytest.fixture
def launched(monkeypatch):
    """The environment that accelerate makes of recipes/accelerate/fsdp2.yaml."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", str(ROOT / "recipes/accelerate/fsdp2.yaml"), "launch/sft.py"]
    args = _validate_launch_command(launch_command_parser().parse_args(words))[0]
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)


@pytest.mark.versions
def test_what_is_tested_is_let_through(launched):
    for dtype in ("bfloat16", "float32"):
        check_launch(recipe(dtype=dtype))
    config = yaml.safe_load((ROOT / "recipes/accelerate/fsdp2.yaml").read_text())
    assert config["num_processes"] == 8 and config["distributed_type"] == "FSDP"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sharding": ShardingSection(zero=3)}, "sharding.zero is 3 in the recipe: write sharding.zero=0"),
        ({"stage": "score"}, "score models are not tested"),
        ({"dtype": "float16"}, "write bfloat16 or float32"),
        ({"training": {"sync_ref_model": True}}, "sync_ref_model does not work"),
    ],
)
def test_what_is_not_is_refused(launched, changes, message):
    with pytest.raises(RecipeError, match=message):
        check_launch(recipe(**changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FSDP_VERSION", "1"), ("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT"), ("FSDP_OFFLOAD_PARAMS", "true"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true"), ("FSDP_ACTIVATION_CHECKPOINTING", "true"),
        ("FSDP_AUTO_WRAP_POLICY", "NO_WRAP"), ("ACCELERATE_MIXED_PRECISION", "fp16"),
    ],
)  # fmt: skip
def test_other_launches_are_refused(launched, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=f"mixed_precision is {value}" if "MIXED" in name else f"{name}={value}"):
        check_launch(recipe())


def test_without_gpus_it_says_so(launched):
    """accelerate would let each process train by itself."""

    class Base:
        is_fsdp_enabled = False

        def create_accelerator_and_postprocess(self):
            pass

    class Alone(FullySharded, Base):
        pass

    with pytest.raises(RecipeError, match="recipes/accelerate/cpu2.yaml where there is no GPU"):
        Alone().create_accelerator_and_postprocess()


def test_bfloat16_is_for_computing_alone(launched):
    """Gradients are summed in float32; log-probabilities and loss stay what they are."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.bfloat16, torch.bfloat16)  # accelerate's
    plugin = SimpleNamespace(mixed_precision_policy=policy)

    class Base:
        is_fsdp_enabled = True
        accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))

        def create_accelerator_and_postprocess(self):
            pass

    class Trained(FullySharded, Base):
        pass

    Trained().create_accelerator_and_postprocess()
    found = plugin.mixed_precision_policy
    kept = (found.param_dtype, found.reduce_dtype, found.output_dtype, found.cast_forward_inputs)
    assert kept == (torch.bfloat16, torch.float32, None, False)


@pytest.mark.versions
def test_the_upstream_methods_are_as_they_were():
    """What `stage.parallel.fsdp` overrides or relies on; raise the pins only with this test."""
    for name, expected in {
        "create_accelerator_and_postprocess": "(self) -> None",
        "_prepare_for_training": "(self, max_steps, train_dataloader, resume_from_checkpoint)",
        "_get_grad_norm": "(self, model, grad_norm=None)",
        "_save_optimizer_and_scheduler": "(self, output_dir: str) -> None",
        "_load_optimizer_and_scheduler": "(self, checkpoint: str | None) -> None",
        "_save": "(self, output_dir: str | None = None, state_dict: dict | None = None) -> None",
    }.items():
        assert str(inspect.signature(getattr(Trainer, name))) == expected, name
        assert name in vars(FullySharded)
    # the head's weight is used without the head's forward pass, and gathered without the gradients of others
    head = inspect.getsource(add_fused_lm_head)
    assert "weight = weight.full_tensor()" in head and "grad_placements" not in head
