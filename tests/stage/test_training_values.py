"""`training:` means what it says, or is refused in a dry run: in YAML and on the command line, quoted and not."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import yaml

from rl.recipe import GRPORecipe
from stage.cli import launch
from stage.recipe import config

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
