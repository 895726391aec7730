"""What a GRPO plan says about score models in the training process."""

import pytest

from rewards.score.reward.score import Score
from rewards.score.training.planned import resident
from vlm.common.errors import RecipeError
from vlm.sections import ModelSection

POLICY = ModelSection(path="Qwen/Qwen2-VL-7B-Instruct", dtype="bfloat16", attention="sdpa")
BACKBONE_7B = 8_291_375_616 - 152_064 * 3_584 + 3_584
"""Qwen2-VL-7B-Instruct's published parameter count, a head of one row in place of the LM head."""


@pytest.mark.parametrize(
    ("path", "said"), [("runs/score/Qwen2-VL-7B-stage3/final", []), ("PumpkinCat/ScoreRS", ["not here"])]
)
def test_a_score_model_is_counted_whole_in_its_own_dtype(path, said):
    total, remarks = resident([Score(model=path)], POLICY)
    assert total == 2 * BACKBONE_7B
    assert len(remarks) == len(said) and all(word in remark for word, remark in zip(said, remarks, strict=True))
    assert resident([Score(model=path, dtype="float32")], POLICY)[0] == 4 * BACKBONE_7B


def test_services_and_other_scorers_take_nothing_here():
    total, remarks = resident([Score(urls=["http://127.0.0.1:1"]), Score(scorer=object())], POLICY)
    assert total == 0 and len(remarks) == 1 and "elsewhere" in remarks[0]
    assert resident([], POLICY) == (0, [])


def test_an_option_of_the_wrong_type_is_the_recipe_s_fault():
    with pytest.raises(RecipeError, match=r"score model PumpkinCat/ScoreRS: `revision`: found 5 \(int\), expected str"):
        resident([Score(model="PumpkinCat/ScoreRS", revision=5)], POLICY)
