"""Recipe keys about tools that must agree with one another, refused before anything is loaded."""

import pytest

from rl.recipe import GRPORecipe
from stage.recipe import config
from vlm.common.errors import RecipeError

RECIPE = "recipes/zoom/grpo.yaml"
PLAIN = "rewards.1={use: zoom}"
FAULTS = [
    (["tools=[]"], "zoom without the tool that it judges"),
    (["rewards.1={use: zoom, options: {least: 192}}"], "least = 192, and the tool shows at least 256 pixels a side"),
    (["tools=[{use: zoom, options: {least: 100}}]", PLAIN], "write `options: {least: 100}` there"),
    (["sharding.zero=3", "training.ds3_gather_for_generation=false"], "ds3_gather_for_generation = false with tools"),
    (["training.use_vllm=true", "training.vllm_mode=server"], "write vllm_mode: colocate"),
]


@pytest.mark.parametrize(("overrides", "words"), FAULTS)
def test_keys_that_contradict_each_other_are_refused(overrides, words):
    with pytest.raises(RecipeError) as refused:
        config.load(RECIPE, GRPORecipe, overrides)
    assert words in str(refused.value)


@pytest.mark.parametrize("overrides", [[], [PLAIN]])
def test_the_reward_and_the_tool_agree_by_default(overrides):
    assert config.load(RECIPE, GRPORecipe, overrides).zooms
