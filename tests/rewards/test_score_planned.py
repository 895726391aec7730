"""What a GRPO plan says about score models in the training process, and a score model's own plan of its data."""

import json

import pytest

from rewards.curate import stage as curate
from rewards.curate.recipe import CurateRecipe
from rewards.score.reward.score import Score
from rewards.score.service import stage as serve
from rewards.score.service.recipe import ServeRecipe
from rewards.score.training import planned, stage
from rewards.score.training.planned import resident
from rewards.score.training.recipe import ScoreRecipe
from rewards.score.training.stage import planner
from rewards.select import stage as select
from rewards.select.recipe import BonRecipe
from stage.recipe import config
from tests.support.families import published
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


QWEN3_VL_4B = {
    # pos_embed 48², patches with bias, 24 blocks of two norms, qkv, proj, fc1, fc2
    "vision_tower": 2304 * 1024 + 1537 * 1024 + 24 * (4 * 1024 + 1025 * 3072 + 1025 * 1024 + 1025 * 4096 + 4097 * 1024),
    # norm, fc1, fc2 of one merger and of three for deepstack, whose norms stand behind the joining of 4 patches
    "merger": 2 * 1024 + 3 * 2 * 4096 + 4 * (4097 * 4096 + 4097 * 2560),
    # embedding, last norm, head; 36 layers of q and o, k and v, their norms, gate, up and down, two norms
    "language_model": 151936 * 2560 + 2560 + 2560
    + 36 * (2 * 2560 * 4096 + 2 * 2560 * 1024 + 2 * 128 + 3 * 2560 * 9728 + 2 * 2560),
}  # fmt: skip
"""Parameters of a score model on Qwen3-VL-4B, whose embedding is its LM head."""


def test_a_plan_for_qwen3_vl(tmp_path):
    """By its published sizes; 1,048,576 pixels are 1,024 tokens of 32 × 32."""
    assert sum(QWEN3_VL_4B.values()) == 4_437_815_808 + 2560
    recipe = recipe_of(tmp_path, [{"question": "Q", "ranked": ["yes", "no"]}], [], path="Qwen/Qwen3-VL-4B-Instruct")
    found = planned.plan(recipe)
    assert found.shape.parameters == found.shape.trainable == QWEN3_VL_4B and found.visual_limits == (256, 1024)
    some = planned.plan(recipe.model_copy(update={"train": ["merger", "head"]})).shape.trainable
    assert some == {"vision_tower": 0, "merger": QWEN3_VL_4B["merger"], "language_model": 2560}
    policy = POLICY.model_copy(update={"path": "Qwen/Qwen3-VL-8B-Instruct"})
    total, _ = resident([Score(model="runs/score/Qwen3-VL-4B-stage3/final")], policy)
    assert total == 2 * sum(QWEN3_VL_4B.values())


@pytest.mark.parametrize(
    ("kind", "name"),
    [("llava", "LLaVA-1.5"), ("internvl", "InternVL3"), ("qwen3_vl_moe", "Qwen3-VL-MoE"), ("idefics3", "idefics3")],
)
def test_families_that_carry_no_head_are_refused_in_dry_runs(kind, name, tmp_path):
    """Of a checkpoint's config.json alone, by whatever would train, load or serve it; before rows are read."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(published(kind).config))
    rows = dump(tmp_path / "rows.jsonl", [{"task": "open_ended", "question": "Q", "answer": "A"}])
    data = {"path": str(rows)}
    score = recipe_of(tmp_path, [{"question": "Q"}], [], path=str(model))
    scorer, output = {"path": str(model)}, str(tmp_path / "run")
    curation = {"by": "score", "scorer": scorer, "output": output, "data": {"train": [data]}}
    best = {"model": {"path": str(ROOT / "demo/base")}, "scorer": scorer, "selectors": ["score"], "output": output}
    looks = [
        lambda: stage.plan(score),
        lambda: Score(model=str(model)).ready(),
        lambda: curate.plan(config.build(curation, CurateRecipe)),
        lambda: select.plan(config.build(best | {"data": {"eval": [data]}}, BonRecipe), None),
        lambda: serve.plan(config.build({"model": scorer}, ServeRecipe)),
    ]
    said = f"score model: {model}: a score head was never tried on {name}; take one of Qwen2-VL, Qwen2.5-VL, Qwen3-VL"
    for look in looks:
        with pytest.raises(RecipeError) as refused:
            look()
        assert str(refused.value) == said


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


def recipe_of(folder, train, held_out, **section):
    data = {"train": [{"path": str(dump(folder / "train.jsonl", train))}]}
    data["eval"] = [{"path": str(dump(folder / "test.jsonl", held_out))}]
    model = {"path": str(ROOT / "demo/base"), "dtype": "float32", "attention": "sdpa", **section}
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
