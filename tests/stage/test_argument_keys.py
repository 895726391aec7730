"""The keys of TRL's argument classes under each version of transformers that is supported (`vlm.common.versions`)."""

from __future__ import annotations

import json

import pytest
import trl

from rewards.score.training.recipe import ScoreRecipe
from rl.recipe import GRPORecipe
from samples.sections import DataSection, SourceSection
from sft.recipe import SFTRecipe
from stage.recipe import config, stored
from stage.recipe.arguments import OWNED, STORED
from stage.recipe.sections import ShardingSection
from stage.trainer.arguments import arguments, checkpointing
from vlm.common.errors import RecipeError
from vlm.sections import LoraSection, ModelSection

pytestmark = pytest.mark.versions
NEWER = {"activation_checkpointing", "activation_checkpointing_kwargs"}
"""What 5.17 lacks; 5.23 has it beside the older names."""
CLASSES = {"SFTConfig": SFTRecipe, "RewardConfig": ScoreRecipe, "GRPOConfig": GRPORecipe}


def recipe(**fields) -> GRPORecipe:
    data = DataSection(train=[SourceSection(path="nowhere.jsonl")])
    return GRPORecipe(model=ModelSection(path="nowhere", dtype="float32"), output="runs/run", data=data, **fields)


def of(table: dict, name: str) -> dict:
    """Key → type, enumeration and default; the descriptions differ."""
    return {key: schema | {"description": ""} for key, schema in (table["shared"] | table[name]).items()}


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_recipe_may_say_every_version_knows(name):
    """The table of keys is stored, and made with the newest."""
    here, there = of(stored.installed(), name), of(json.loads(STORED.read_text()), name)
    assert there.keys() - here.keys() in (set(), NEWER) and not here.keys() - there.keys()
    assert here == {key: there[key] for key in here}
    assert OWNED.keys() >= NEWER
    written = set(CLASSES[name].arguments().model_fields)
    assert written <= here.keys() and not written & NEWER


@pytest.mark.parametrize("key", sorted(NEWER))
def test_one_name_for_checkpointing(key):
    values = config.to_dict(recipe()) | {"training": {key: None}}
    older = key.replace("activation", "gradient")
    with pytest.raises(RecipeError, match=rf"`training.{key}` is set by Nadir; write `training.{older}` instead"):
        config.build(values, GRPORecipe)


def test_a_key_that_trl_does_not_have_is_our_error():
    with pytest.raises(TypeError, match="GRPOConfig has no center_rewards_coefficient, no_such_key"):
        arguments(trl.GRPOConfig, recipe(), no_such_key=1, center_rewards_coefficient=0.1)


def test_what_a_stage_says_stands_above_a_recipe():
    assert arguments(trl.GRPOConfig, recipe(training={"loss_type": "grpo"}), loss_type="bnpo").loss_type == "bnpo"


def test_adapters_under_zero_3_are_trained_by_reentrant_checkpointing(monkeypatch):
    """Under the name that transformers' Trainer reads, old or new; TRL's trainers write the old one too late."""
    lora = ModelSection(path="nowhere", dtype="float32", lora=LoraSection())
    split = recipe(training={"gradient_checkpointing_kwargs": {"every_n_layers": 2}})
    split = split.model_copy(update={"model": lora, "sharding": ShardingSection(zero=3)})
    wanted = {"every_n_layers": 2, "use_reentrant": True}
    assert checkpointing(split) == {"gradient_checkpointing_kwargs": wanted}
    for other in ({"model": recipe().model}, {"sharding": ShardingSection(zero=2)}):
        assert checkpointing(split.model_copy(update=other)) == {}
    made = trl.GRPOConfig("runs/run", use_cpu=True, bf16=False, **checkpointing(split))
    assert made.gradient_checkpointing_kwargs == wanted
    assert getattr(made, "activation_checkpointing_kwargs", wanted) == wanted
    for off in (False, None):
        values = config.to_dict(split) | {"training": {"gradient_checkpointing_kwargs": {"use_reentrant": off}}}
        with pytest.raises(RecipeError, match=f"use_reentrant = {off} with sharding.zero = 3 and model.lora"):
            config.build(values, GRPORecipe)
