"""What a recipe leaves to the model's family, and what is put in its place: box notation, LoRA's layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import vlm.loading
from evals.recipe import EvalRecipe
from rewards.curate.recipe import CurateRecipe
from rewards.score.training.recipe import ScoreRecipe
from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from stage.cli import launch
from stage.recipe import config
from tests.support.families import base
from vlm.boxes import NOTATIONS
from vlm.common.errors import RecipeError
from vlm.families import FAMILIES

DATA = {"train": [{"path": "a.jsonl"}]}


def of(cls, model, **keys):
    return config.build({"model": {"path": model}, "output": "o", "data": DATA, **keys}, cls)


def qwen2_5_vl(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "vision_config": {}}))
    return str(folder)


EXPECTED = {
    "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_5_vl", "qwen3_vl": "qwen3_vl", "qwen3_vl_moe": "qwen3_vl",
    "qwen3_5": "qwen3_vl", "glm4v": "glm4v", "llava": "llava", "internvl": "internvl",
}  # fmt: skip


def test_every_family_has_a_notation():
    found = {kind: family.notation for kind, family in FAMILIES.items()}
    assert found == {kind: EXPECTED[base(kind)] for kind in FAMILIES}
    assert set(EXPECTED.values()) <= set(NOTATIONS)


def test_the_config_decides_and_what_is_stated_stays(tmp_path):
    """A folder of that name holds another model; null and `auto` mean the same."""
    folder = qwen2_5_vl(tmp_path / "Qwen2-VL-7B")
    assert of(SFTRecipe, folder).prompt.notation == "qwen2_5_vl"
    for value in ("null", "auto"):
        given = {"model": {"path": folder}, "output": "o", "data": DATA}
        found = config.build(given, SFTRecipe, [f"prompt.notation={value}", "prompt.style=direct"])
        assert (found.prompt.notation, found.prompt.style) == ("qwen2_5_vl", "direct")
    assert of(SFTRecipe, folder, prompt={"notation": "vhm"}).prompt.notation == "vhm"


@pytest.mark.parametrize(
    ("path", "notation"),
    [
        ("PumpkinCat/Qwen2VL-7B-RS", "qwen2_vl"),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl"),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct", "qwen3_vl"),
        ("Qwen/Qwen3.5-9B", "qwen3_vl"),
        ("llava-hf/llava-1.5-7b-hf", "llava"),
        ("OpenGVLab/InternVL3-2B-hf", "internvl"),
        ("zai-org/GLM-4.1V-9B-Thinking", "glm4v"),
        ("OpenGVLab/InternVL3_5-8B-HF", "auto"),  # another decoder
        ("some/model", "auto"),
    ],
)
def test_a_name_decides_where_no_config_is_here(path, notation):
    assert of(SFTRecipe, path).prompt.notation == notation


def test_saved_recipes_have_what_was_put_in(tmp_path):
    """A run's recipe is the resolved one, so that its resume compares equal, whatever the folder holds by then."""
    folder = qwen2_5_vl(tmp_path / "model")
    recipe = of(GRPORecipe, folder, rewards=[{"use": "iou"}])
    config.save(recipe, tmp_path / "recipe.yaml")
    assert "notation: qwen2_5_vl" in (tmp_path / "recipe.yaml").read_text()
    shutil.rmtree(folder)
    again = config.load(tmp_path / "recipe.yaml", GRPORecipe)
    assert again == recipe and not config.difference(again, recipe)


def test_a_model_on_the_hub_is_looked_up_when_a_stage_starts(monkeypatch, tmp_path):
    recipe = of(SFTRecipe, "some/model")
    asked = []

    def fetched(path, name, revision):
        asked.append((path, name, revision))
        return Path(qwen2_5_vl(tmp_path / "hub")) / name

    monkeypatch.setattr(vlm.loading, "_fetched", fetched)
    assert recipe.settle(fetch=True) == [] and recipe.prompt.notation == "qwen2_5_vl"
    assert asked == [("some/model", "config.json", None)]


def test_what_nobody_knows_is_said(monkeypatch):
    def fetched(path, name, revision):
        raise RecipeError("the hub cannot be reached")

    monkeypatch.setattr(vlm.loading, "_fetched", fetched)
    served = {"generation": {"backend": "endpoint"}, "endpoint": {"address": "https://h/v1", "model": "gpt-4o"}}
    recipe = of(EvalRecipe, "judge", data={"eval": [{"path": "a.jsonl"}]}, **served)
    assert recipe.settle(fetch=True) == [
        "prompt.notation: nothing here tells how judge or gpt-4o writes boxes; qwen2_vl is taken; state "
        "prompt.notation if it is not"
    ]
    assert recipe.prompt.notation == "qwen2_vl" and recipe.settle(fetch=True) == []


def test_a_served_model_is_known_by_its_name():
    served = {"generation": {"backend": "endpoint"}, "endpoint": {"address": "https://h/v1", "model": "Qwen3-VL-8B"}}
    assert of(EvalRecipe, "mine", data={"eval": [{"path": "a"}]}, **served).prompt.notation == "qwen3_vl"


def test_a_launcher_says_it_first(capsys, monkeypatch, tmp_path, log_levels):
    monkeypatch.setattr(vlm.loading, "hub_reachable", lambda: False)
    (tmp_path / "recipe.yaml").write_text(json.dumps({"model": {"path": "some/model"}, "output": "o", "data": DATA}))
    planned = []
    assert launch(SFTRecipe, print, planned.append, [str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    assert planned[0].prompt.notation == "qwen2_vl"
    assert capsys.readouterr().err.startswith("note: prompt.notation: nothing here tells how some/model writes boxes;")


def test_curation_writes_boxes_as_the_score_model_reads_them(tmp_path):
    score = {"path": str(tmp_path / "Qwen2-VL-2B"), "images": None}
    given = {"output": "o", "data": DATA, "scorer": score}
    assert config.build(given, CurateRecipe).notation == "qwen2_vl"
    with pytest.raises(RecipeError, match=r"notation = 'qwen2_5_vl' counts pixels .* choose one of qwen2_vl, qwen3_vl"):
        config.build(given | {"scorer": {"path": qwen2_5_vl(tmp_path / "m")}}, CurateRecipe)
    unknown = config.build({"output": "o", "data": DATA, "scorer": {"urls": ["http://h:1"]}}, CurateRecipe)
    assert unknown.notation == "auto" and "notation: nothing here tells" in unknown.settle(fetch=True)[0]
    assert unknown.notation == "qwen2_vl"


def test_score_models_have_no_notation():
    """`prompt` is not read there. Recipes that were saved before have qwen2_vl in them."""
    given = {"train": [{"path": "a.jsonl"}]}
    recipe = of(ScoreRecipe, "Qwen/Qwen2.5-VL-7B", data=given)
    assert (
        config.difference(of(ScoreRecipe, "Qwen/Qwen2.5-VL-7B", data=given, prompt={"notation": "qwen2_vl"}), recipe)
        == {}
    )
    with pytest.raises(RecipeError, match="prompt is not read here"):
        of(ScoreRecipe, "Qwen/Qwen2.5-VL-7B", data=given, prompt={"notation": "vhm"})


def test_lora_adapts_the_layers_of_the_family(family_checkpoints):
    """GLM joins gate and up projection; the experts of a mixture are no linear layers."""
    glm = of(SFTRecipe, family_checkpoints("glm4v")).model
    assert glm.lora is None
    adapted = {
        kind: config.build(
            {"model": {"path": family_checkpoints(kind), "lora": {}}, "output": "o", "data": DATA}, SFTRecipe
        ).model.lora.target_modules
        for kind in ("glm4v", "qwen3_vl_moe", "llava")
    }
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert adapted == {
        "glm4v": [*attention, "gate_up_proj", "down_proj"],
        "qwen3_vl_moe": attention,
        "llava": [*attention, "gate_proj", "up_proj", "down_proj"],
    }
