"""`training:` means what it says, or is refused in a dry run: in YAML and on the command line, quoted and not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import yaml

from rl.recipe import GRPORecipe
from stage.cli import launch
from stage.recipe import config
from stage.recipe.together import ENGINES

BASE = "model: {path: m}\noutput: o\nrewards: [{use: gated}]\ndata: {train: [{path: rows.jsonl}]}\n"


class Refused(NamedTuple):
    """What the message says after `found`."""

    words: str


def no(words: str) -> Refused:
    return Refused(words)


SAME = object()
"""Quoted as unquoted."""
TEXT = object()
"""Quoted: refused as the text that it then is."""

VALUES: list[tuple[str, str, Any, Any]] = [
    # key, value as it is typed, what it means, and what it means in quotes
    ("mask_truncated_completions", "no", False, TEXT),
    ("mask_truncated_completions", "off", False, TEXT),
    ("mask_truncated_completions", "yes", True, TEXT),
    ("mask_truncated_completions", "on", True, TEXT),
    ("mask_truncated_completions", "true", True, TEXT),
    ("mask_truncated_completions", "False", False, TEXT),
    ("mask_truncated_completions", "y", no("'y' (str), expected bool; write true or false"), TEXT),
    ("mask_truncated_completions", "0", no("0 (int), expected bool; write true or false"), TEXT),
    ("mask_truncated_completions", "nope", no("'nope' (str), expected bool; write true or false"), TEXT),
    ("gradient_checkpointing", "off", False, TEXT),
    ("gradient_checkpointing", "1", no("1 (int), expected bool"), TEXT),
    ("learning_rate", "1e-5", 1e-5, SAME),
    ("learning_rate", "1E-5", 1e-5, SAME),
    ("learning_rate", ".5", 0.5, SAME),
    ("learning_rate", "0", 0.0, SAME),
    ("learning_rate", "high", no("'high' (str), expected float ≥ 0"), SAME),
    ("learning_rate", "1e-4x", no("'1e-4x' (str), expected float ≥ 0"), SAME),
    ("learning_rate", "-1", no("-1 (int), expected float ≥ 0"), no("-1.0 (float), expected float ≥ 0")),
    ("learning_rate", "true", no("true (bool), expected float ≥ 0"), TEXT),
    ("learning_rate", "yes", no("'yes' (str), expected float ≥ 0"), SAME),
    ("learning_rate", ".nan", no("nan (float), expected float ≥ 0"), SAME),
    ("learning_rate", ".inf", no("inf (float), expected float ≥ 0"), SAME),
    ("learning_rate", "nan", no("'nan' (str), expected float ≥ 0"), SAME),
    ("learning_rate", "[1e-5]", no("a list, expected float ≥ 0"), TEXT),
    ("learning_rate", "1_000", no("'1_000' (str), expected float ≥ 0"), SAME),
    ("max_steps", "0", no("0 (int), expected -1 or int ≥ 1"), TEXT),
    ("max_steps", "-1", -1, TEXT),
    ("max_steps", "-5", no("-5 (int), expected -1 or int ≥ 1"), TEXT),
    ("max_steps", "7", 7, TEXT),
    ("max_steps", "007", 7, TEXT),
    ("max_steps", "two", no("'two' (str), expected -1 or int ≥ 1"), SAME),
    ("max_steps", "1.5", no("1.5 (float), expected -1 or int ≥ 1"), TEXT),
    ("max_steps", "1e3", no("1000.0 (float), expected -1 or int ≥ 1"), TEXT),
    ("num_train_epochs", "2", 2.0, SAME),
    ("num_train_epochs", "0", no("0 (int), expected float > 0"), no("0.0 (float), expected float > 0")),
    ("max_completion_length", "-1", no("-1 (int), expected int ≥ 1"), TEXT),
    ("max_completion_length", "0", no("0 (int), expected int ≥ 1"), TEXT),
    ("max_completion_length", "128", 128, TEXT),
    ("temperature", "0", no("0 (int), expected float > 0"), no("0.0 (float), expected float > 0")),
    ("temperature", "-1", no("-1 (int), expected float > 0"), no("-1.0 (float), expected float > 0")),
    ("temperature", "0.9", 0.9, SAME),
    ("top_p", "2", no("2 (int), expected float > 0 and ≤ 1"), no("2.0 (float), expected float > 0 and ≤ 1")),
    ("top_p", "0.95", 0.95, SAME),
    ("top_p", "1", 1.0, SAME),
    ("top_k", "-1", no("-1 (int), expected int ≥ 0"), TEXT),
    ("top_k", "1.5", no("1.5 (float), expected int ≥ 0"), TEXT),
    ("min_p", "0.05", 0.05, SAME),
    ("min_p", "~", None, TEXT),
    ("repetition_penalty", "0", no("0 (int), expected float > 0"), no("0.0 (float), expected float > 0")),
    ("beta", "-0.1", no("-0.1 (float), expected float ≥ 0"), SAME),
    ("beta", "high", no("'high' (str), expected float ≥ 0"), SAME),
    ("beta", "0.04", 0.04, SAME),
    ("loss_type", "foo", no("'foo' (str), expected one of grpo, bnpo, dr_grpo, dapo"), SAME),
    ("loss_type", "grp", no("'grp' (str), expected one of grpo, bnpo"), SAME),
    ("loss_type", "dr_grpo", "dr_grpo", SAME),
    ("loss_type", "nll", no("'nll' (str), expected one of grpo"), SAME),  # SFT's
    ("scale_rewards", "false", False, TEXT),
    ("scale_rewards", "off", False, TEXT),
    ("scale_rewards", "batch", "batch", SAME),
    ("scale_rewards", "none", "none", SAME),
    ("scale_rewards", "std", no("'std' (str), expected one of group, batch, none or bool"), SAME),
    ("importance_sampling_level", "sequence", "sequence", SAME),
    ("importance_sampling_level", "tokens", no("'tokens' (str), expected one of token"), SAME),
    ("lr_scheduler_type", "cosine", "cosine", SAME),
    ("lr_scheduler_type", "cosin", no("'cosin' (str), expected one of linear, cosine"), SAME),
    ("optim", "adamw", no("'adamw' (str), expected one of adamw_torch"), SAME),
    ("optim", "sgd", "sgd", SAME),
    ("eval_strategy", "no", "no", SAME),
    ("eval_strategy", "false", no("false (bool), expected one of no, steps, epoch"), TEXT),
    ("save_strategy", "off", no("'off' (str), expected one of no, steps, epoch, best"), SAME),
    ("per_device_train_batch_size", "0", no("0 (int), expected int ≥ 1"), TEXT),
    ("per_device_train_batch_size", "16", 16, TEXT),
    ("gradient_accumulation_steps", "0", no("0 (int), expected int ≥ 1"), TEXT),
    ("num_generations", "1", no("1 (int), expected int ≥ 2"), TEXT),
    ("num_generations", "4", 4, TEXT),
    ("num_iterations", "0", no("0 (int), expected int ≥ 1"), TEXT),
    ("logging_steps", "0", no("0 (int), expected"), no("0.0 (float), expected")),
    ("logging_steps", "5", 5, no("5.0 (float), expected")),
    ("logging_steps", "2.5", no("2.5 (float), expected int ≥ 1 or float > 0 and < 1"), SAME),
    ("save_steps", "0.25", 0.25, SAME),
    ("save_total_limit", "0", no("0 (int), expected int ≥ 1 or null"), TEXT),
    ("warmup_steps", "-3", no("-3 (int), expected float ≥ 0"), no("-3.0 (float), expected float ≥ 0")),
    ("max_grad_norm", "-1", no("-1 (int), expected float ≥ 0"), no("-1.0 (float), expected float ≥ 0")),
    ("adam_beta1", "1", no("1 (int), expected float ≥ 0 and < 1"), no("1.0 (float), expected float ≥ 0 and < 1")),
    ("weight_decay", "0.01", 0.01, SAME),
    ("vllm_gpu_memory_utilization", "80", no("80 (int), expected float > 0 and ≤ 1"), no("80.0 (float), expected")),
    ("vllm_server_port", "80000", no("80000 (int), expected int ≥ 1 and ≤ 65535"), TEXT),
    ("vllm_mode", "off", no("'off' (str), expected one of server, colocate"), SAME),
    ("vllm_server_host", "off", "off", SAME),
    ("vllm_server_host", "10", "10", SAME),
    ("lr_scheduler_kwargs", "min_lr", no("'min_lr' (str), expected a mapping"), SAME),
    ("lr_scheduler_kwargs", "{num_cycles: 2}", {"num_cycles": 2}, TEXT),
    ("generation_kwargs", "[1]", no("a list, expected a mapping"), TEXT),
    ("seed", "3", no("`training.seed` is set by Nadir; write `seed` instead"), SAME),
    ("shuffle_dataset", "false", no("`training.shuffle_dataset` is set by Nadir; write `data.shuffle` instead"), SAME),
    ("lr", "1e-5", no("unknown key `training.lr`"), SAME),
    ("num_generation", "4", no("unknown key `training.num_generation`"), SAME),
]  # fmt: skip


def ways(typed: str, plain: Any, quoted: Any):
    """(how, value as written, outcome)."""
    text = plain if quoted is SAME else no(f"{typed!r} (str), expected") if quoted is TEXT else quoted
    for how in ("yaml", "command line"):
        yield how, typed, plain
        yield how, f"'{typed}'", text


CASES = [
    pytest.param(key, how, written, outcome, id=f"{key}={written}-{how.split()[0]}")
    for key, typed, plain, quoted in VALUES
    for how, written, outcome in ways(typed, plain, quoted)
]


def dry_run(file, how: str, key: str, written: str, capsys) -> tuple[int, list[GRPORecipe], str]:
    """Exit code of `--dry-run`, the recipe that reached the plan, and what was said."""
    file.write_text(BASE + (f"training:\n  {key}: {written}\n" if how == "yaml" else ""))
    planned: list[GRPORecipe] = []
    words = [] if how == "yaml" else [f"training.{key}={written}"]
    code = launch(GRPORecipe, lambda _: pytest.fail("trained"), planned.append, [str(file), *words, "--dry-run"])
    return code, planned, capsys.readouterr().err


def test_there_are_enough():
    assert len(VALUES) >= 60 and len(CASES) == 4 * len(VALUES)


@pytest.mark.parametrize(("key", "how", "written", "outcome"), CASES)
def test_refused_or_meant(key, how, written, outcome, tmp_path, capsys, log_levels):
    file = tmp_path / "r.yaml"
    code, planned, said = dry_run(file, how, key, written, capsys)
    if isinstance(outcome, Refused):
        where = f"{file}, line 6: " if how == "yaml" else f"command line, training.{key}={written}: "
        assert code == 2 and planned == [] and said.startswith(f"error: {where}")
        assert outcome.words in said and (
            outcome.words.startswith(("`", "unknown")) or f"found {outcome.words}" in said
        )
        assert len(said.splitlines()) == 1
    else:
        assert code == 0, said
        found = planned[0].training[key]
        assert found == outcome and type(found) is type(outcome)


def test_what_is_taken_reaches_the_trainer(tmp_path):
    """Each value that is taken, in TRL's own object: as it was written, or as the enumeration of that name."""
    from trl import GRPOConfig

    from stage.trainer.arguments import arguments

    taken = [(key, outcome) for key, _, outcome, _ in VALUES if not isinstance(outcome, Refused)]
    assert len(taken) >= 35
    for key, value in taken:
        words = [f"training.{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"]
        if key == "per_device_train_batch_size":
            words.append("training.num_generations=2")
        recipe = config.build(
            yaml.safe_load(BASE) | {"output": str(tmp_path / "o")}, GRPORecipe, [*words, "model.dtype=float32"]
        )
        found = getattr(arguments(GRPOConfig, recipe), key)
        if key == "scale_rewards":
            found = {"group": True, "none": False}[found] if isinstance(value, bool) else found
        assert getattr(found, "value", found) == value or (value is None and found is None), key
        assert not (isinstance(found, float) and math.isnan(found))


TOGETHER = [
    ({"eval_strategy": "steps"}, "training.eval_strategy is set, but data.eval is empty"),
    ({"eval_on_start": True}, "training.eval_on_start is set, but data.eval is empty"),
    ({"lr_scheduler_type": "greedy"}, "training.lr_scheduler_type = greedy follows the evaluation"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "training.lr_scheduler_type = cosine_with_min_lr needs min_lr or"),
    (
        {"lr_scheduler_type": "warmup_stable_decay"},
        "training.lr_scheduler_type = warmup_stable_decay needs num_decay_steps",
    ),
    ({"load_best_model_at_end": True, "save_strategy": "steps"}, "training.load_best_model_at_end needs one strategy"),
    ({"dataloader_prefetch_factor": 2}, "training.dataloader_prefetch_factor needs workers"),
    ({"optim_target_modules": ["q_proj"]}, "training.optim_target_modules is for GaLore and APOLLO"),
    (
        {"bf16_full_eval": True, "fp16_full_eval": True},
        "training.bf16_full_eval and training.fp16_full_eval are both on",
    ),
    ({"sync_ref_model": True}, "training.sync_ref_model with beta = 0: there is no reference model"),
    ({"auto_find_batch_size": True}, "training.auto_find_batch_size would cut groups"),
    ({"use_transformers_paged": True}, "training.use_transformers_paged: transformers has it for text models only"),
    (
        {"generation_batch_size": 8, "steps_per_generation": 1},
        "training.generation_batch_size and training.steps_per_gen",
    ),
    ({"generation_batch_size": 12}, "training.generation_batch_size = 12; expected a multiple of the 8"),
    ({"generation_batch_size": 16, "num_generations": 3}, "training.num_generations = 3 does not divide training.gen"),
    ({"num_generations": 3}, "training.num_generations = 3 does not divide the 8 completions of a generation batch"),
    (
        {"generation_kwargs": {"typical_p": 0.9}, "full_determinism": True},
        "training.generation_kwargs: typical_p with full_determinism: transformers adds floats",
    ),
    *(
        ({"generation_kwargs": {key: value}}, f"training.generation_kwargs: {key} = {value}{words}")
        for key, value, words in (
            ("seed", 42, ": each request would begin with it"),
            ("n", 2, "; write training.num_generations"),
            ("logprobs", 5, ": TRL takes the first log-probability"),
            ("do_sample", False, ": a group needs completions that differ"),
            ("temperature", 0.0, "; write training.temperature"),
            ("max_tokens", 8, "; write training.max_completion_length"),
            ("max_new_tokens", 8, "; write training.max_completion_length"),
        )
    ),
    ({"generation_kwargs": {"logit_bias": {"ship": 1}}}, "training.generation_kwargs: logit_bias: found 'ship', exp"),
    (
        {"generation_kwargs": {"stop": ["</answer>"]}, "mask_truncated_completions": True},
        "training.mask_truncated_completions with generation_kwargs: stop: what ends there",
    ),
    (
        {"use_vllm": True, "vllm_max_model_length": 256, "max_completion_length": 256},
        "training.vllm_max_model_length = 256: nothing of it is left for a prompt",
    ),
    (
        {"use_vllm": True, "vllm_tensor_parallel_size": 2},
        "training.vllm_tensor_parallel_size = 2 on 1 processes; expected a divisor",
    ),
    ({"entropy_coef_min": 2.0}, "training.entropy_coef_min is above training.entropy_coef_max"),
]


@pytest.mark.parametrize(("training", "words"), TOGETHER, ids=[",".join(training) for training, _ in TOGETHER])
def test_what_cannot_go_together_is_refused_with_its_line(training, words, tmp_path, capsys, log_levels):
    file = tmp_path / "r.yaml"
    file.write_text(BASE + yaml.safe_dump({"training": training}))
    assert launch(GRPORecipe, pytest.fail, pytest.fail, [str(file), "--dry-run"]) == 2
    said = capsys.readouterr().err
    lines = file.read_text().splitlines()
    (line,) = (
        number for number, text in enumerate(lines, 1) if text.strip().startswith(words.split(".")[1].split(" ")[0])
    )
    assert said.startswith(f"error: {file}, line {line}: ") and words in said


def test_held_out_prompts_need_whole_groups(tmp_path):
    values = yaml.safe_load(BASE)
    values["data"]["eval"] = [{"path": "rows.jsonl"}]
    values["training"] = {"eval_strategy": "epoch", "per_device_eval_batch_size": 6}
    with pytest.raises(
        config.RecipeError, match="per_device_eval_batch_size = 6 on 1 processes; expected a multiple of the 8"
    ):
        config.build(values, GRPORecipe)
    begun = values | {"training": {"eval_on_start": True, "per_device_eval_batch_size": 6}}
    with pytest.raises(config.RecipeError, match="write per_device_eval_batch_size: 8"):
        config.build(begun, GRPORecipe)
    planned = config.build(values | {"gpus": "4xA100-80G"}, GRPORecipe)  # whose number of processes the plan knows
    with pytest.raises(config.RecipeError, match="per_device_eval_batch_size = 6 on 3 processes.*: 8$"):
        planned.check_evaluation(3)
    planned.check_evaluation(4)
    assert config.build(values, GRPORecipe, ["training.num_generations_eval=3"]).argument("num_generations_eval") == 3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "training.use_vllm=true",
            "training.use_vllm: vLLM is not installed here; pip install -e '.[vllm]', or write use_vllm: false",
        ),
        ("training.optim=adamw_8bit", "training.optim = adamw_8bit: the package bitsandbytes is not installed here"),
        ("training.optim=lomo", "training.optim = lomo: the package lomo_optim is not installed here"),
        ("model.liger=true", "model.liger: the package liger_kernel is not installed here"),
        ("tracking.report_to=[comet_ml]", "tracking.report_to names comet_ml, which is not installed"),
    ],
)
def test_an_engine_that_is_not_installed_is_refused(override, words, tmp_path, capsys, log_levels, monkeypatch):
    """In a dry run, too; a saved recipe of such a run still loads, for reports."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("stage.recipe.together.find_spec", lambda name: None)
    monkeypatch.setattr("vlm.common.versions.BUILDS", ())
    file = tmp_path / "r.yaml"
    file.write_text(BASE)
    assert launch(GRPORecipe, pytest.fail, pytest.fail, [str(file), override, "--dry-run"]) == 2
    assert words in capsys.readouterr().err
    config.load(file, GRPORecipe, [override])


def test_every_optimiser_of_another_package_is_known():
    """transformers' handlers name them: what is none of torch's own needs a package."""
    from transformers.training_args import OptimizerNames

    plain = "adamw_torch adamw_torch_fused adafactor sgd adagrad rmsprop"
    named = [name for names in ENGINES.values() for name in names.split()]
    assert sorted([*plain.split(), *named]) == sorted(one.value for one in OptimizerNames)
    assert len(set(named)) == len(named)
