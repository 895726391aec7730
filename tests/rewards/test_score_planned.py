"""What a GRPO plan says about score models in the training process, and a score model's own plan of its data."""

import pytest

from rewards.score.reward.score import Score
from rewards.score.training import planned, stage
from rewards.score.training.planned import resident
from rewards.score.training.recipe import ScoreRecipe
from rewards.score.training.stage import planner
from stage.recipe import config
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from vlm.common.errors import DataError, RecipeError
from vlm.loading import load_processor
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


ASKED = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A port."},
    {"role": "user", "content": "How many ships?"},
]


def recipe_of(folder, train, held_out):
    data = {"train": [{"path": str(dump(folder / "train.jsonl", train))}]}
    data["eval"] = [{"path": str(dump(folder / "test.jsonl", held_out))}]
    model = {"path": str(ROOT / "demo/base"), "dtype": "float32", "attention": "sdpa"}
    return config.build({"model": model, "output": str(folder / "run"), "data": data}, ScoreRecipe)


def test_the_longest_exchange_is_measured(tmp_path):
    """As the checkpoint's own processor has it: the turns that are asked, and the longest candidate."""
    short = {"question": "Q", "ranked": ["yes", "no"]}
    texts = ["Two ships.", "Five ships lie there, and " + "many " * 40 + "more."]
    recipe = recipe_of(tmp_path, [short, {"messages": ASKED, "ranked": texts}], [short])
    found = planned.plan(recipe)
    processor = load_processor(recipe.model.path, recipe.images)

    def tokens(turns, ask):
        text = processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    asked, whole = tokens(ASKED, True), tokens([*ASKED, {"role": "assistant", "content": texts[1]}], False)
    assert (found.job.prompt_tokens, found.job.completion_tokens) == (asked, whole - asked)
    assert any(f"longest prompt text: {asked} tokens, longest answer: {whole - asked}" in note for note in found.notes)
    assert planner(recipe)(recipe).job.prompt_tokens == asked  # the advice after out of memory, too


def test_the_dry_run_reads_held_out_preferences(tmp_path, capsys):
    good, bad = {"question": "Q", "ranked": ["yes", "no"]}, {"question": "Q", "ranked": ["yes", "yes"]}
    with pytest.raises(DataError, match=r"test\.jsonl, line 2, field 'ranked'.*equal ones cannot be ranked"):
        stage.plan(recipe_of(tmp_path, [good], [good, bad]))
    stage.plan(recipe_of(tmp_path, [good], [good]))
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("longest sequence planned for, text included", "final/", "data-loader workers")
    )
