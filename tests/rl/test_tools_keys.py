"""Recipe keys about tools that must agree with one another, refused before anything is loaded; and what is planned."""

import pytest

from rl.recipe import GRPORecipe
from stage.recipe import config
from tests.support.sights import sight
from vlm.common.errors import RecipeError
from vlm.sections import ImageSection, ToolSection, TurnSection
from vlm.tools.tool import Tool
from vlm.tools.toolbox import Toolbox

RECIPE = "recipes/rscovlm/zoom/grpo.yaml"
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


def test_what_tools_may_say_is_planned():
    """A picture of 28² · 100 pixels is 100 tokens, a crop of at most 28² · 25 is 25, and 32 more stand in each turn."""
    seen = sight(ImageSection(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 100))
    zoom = ToolSection(use="zoom", options={"max_pixels": 28 * 28 * 25})
    box = Toolbox.of([zoom], TurnSection(limit=3), seen)
    assert box.most_tokens(seen) == 3 * (25 + 32)
    unknown = Tool("measure", {}, lambda arguments, context: "7 m")
    assert Toolbox([*box.tools.values(), unknown], TurnSection(limit=3)).most_tokens(seen) == 3 * (100 + 32)
