"""GRPO where prompts are not shared, of a family whose layers forbid it and of one without a file: as stock TRL."""

from __future__ import annotations

import pytest
import torch
import trl

from rl import stage
from rl.recipe import GRPORecipe
from samples.sections import DataSection, SourceSection
from tests.families.conftest import grpo, steps
from tests.support.sample_rows import dump
from tests.support.tiny_checkpoints import section
from vlm import loading
from vlm.common.errors import RecipeError
from vlm.prefix import rollout
from vlm.sections import ModelSection

pytestmark = pytest.mark.versions

KINDS = {"qwen3_5": "linear attention (Gated DeltaNet)", "idefics3": "no file in vlm/families"}


@pytest.mark.parametrize("kind", [pytest.param("qwen3_5", marks=pytest.mark.full), "idefics3"])
def test_two_steps_are_those_of_stock_trl(loaded, kind, questions, tmp_path, capsys):
    one, shown = loaded(kind), [sample for sample in questions if sample.images]
    stock = loading.load_model(section(one.path))
    stock.generation_config.top_k = stock.generation_config.top_p = None  # which ours does not heed
    banned = rollout.unsayable(stock.config, one.processor.tokenizer)
    one.processor.tokenizer.padding_side = "left"
    given = {"generation_kwargs": {"suppress_tokens": banned}, "cls": trl.GRPOTrainer}
    theirs = steps(grpo(stock, one.processor, shown, tmp_path, **given))
    capsys.readouterr()
    trainer = grpo(loading.load_model(section(one.path)), one.processor, shown, tmp_path)
    ours = steps(trainer)
    said = [line for line in capsys.readouterr().err.splitlines() if "share_prefix" in line]
    assert len(said) == 1 and KINDS[kind] in said[0] and "sliding" not in said[0] and not trainer.share_prefix
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("loss", "grad_norm", "reward", "reward_std", "kl", "completions/mean_length"):
            assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=1e-7), key
    assert ours[0]["grad_norm"] > 1e-3 and ours[1]["kl"] > 0


def test_rows_with_and_without_pictures_where_a_family_has_a_file(loaded, questions, tmp_path):
    """One step over both kinds: TRL's own processor call fails; here it learns what each kind alone would."""
    one = loaded("qwen3_5")
    trainer = grpo(
        loading.load_model(section(one.path)),
        one.processor,
        questions,
        tmp_path,
        per_device_train_batch_size=8,
        max_steps=1,
    )
    (found,) = steps(trainer)
    assert found["grad_norm"] > 1e-3 and torch.isfinite(torch.tensor(found["loss"]))


def test_they_are_refused_where_it_has_none(family_checkpoints, questions, tmp_path):
    dump(
        tmp_path / "rows.jsonl",
        [{"images": s.images, "messages": s.messages, "task": s.task, "answer": s.answer} for s in questions],
    )
    recipe = GRPORecipe(
        model=ModelSection(path=family_checkpoints("idefics3"), dtype="float32", attention="sdpa"),
        data=DataSection(train=[SourceSection(path=str(tmp_path / "rows.jsonl"), outside=True)]),
        output=str(tmp_path / "run"),
    )
    for go in (stage.plan, lambda told: stage.train(told, [], lambda *_: None)):
        with pytest.raises(RecipeError, match="data.train: some rows have pictures, and some have none: .* no file"):
            go(recipe)
