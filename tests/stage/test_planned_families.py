"""Dry runs of every family: at published sizes without a checkpoint, and of models whose sizes are not known."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from stage.guards import out_of_memory
from stage.planning import estimate, memory
from stage.planning.memory import Setup
from stage.planning.plan import Outline, Plan
from stage.recipe import config
from stage.recipe.together import check_engines, doubts
from tests.support.families import published
from tests.support.processes.commands import ROOT
from tests.support.runs.plan_jobs import job, model_section
from vlm import families, loading, shapes
from vlm.common.errors import RecipeError
from vlm.sections import ImageSection


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


def shown(plan: Outline) -> str:
    out = io.StringIO()
    plan.render(Console(file=out, width=200))
    return out.getvalue()


@pytest.fixture
def unsized(tmp_path):
    """Folder of a model that has no file in vlm/families."""
    (tmp_path / "config.json").write_text(json.dumps(published("idefics3").config))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "parameters", "tokens", "said"),
    [
        # 1024² pixels: 32 × 32 squares of 32; 37.4 of 28, by area; 2 × 2 tiles and the whole, 256 tokens each
        ("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808, (256, 1024), "32×32 pixels a visual token"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 31_070_754_032, (256, 1024), "32×32 pixels a visual token"),
        ("zai-org/GLM-4.1V-9B-Thinking", 10_292_777_472, (335, 1337), "28×28 pixels a visual token"),
        ("llava-hf/llava-1.5-7b-hf", 7_063_427_072, (576, 576), "padded to a square of 336×336 pixels, 576 visual"),
        ("OpenGVLab/InternVL3-2B-hf", 2_088_957_440, (256, 1536), "1 to 5 tiles of 448×448 pixels an image, 256"),
    ],
)
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_published_sizes_are_planned_by_name(path, parameters, tokens, said, stage):
    plan = estimate.training(job(stage=stage, model=model_section(path)))
    assert isinstance(plan, Plan)
    assert plan.shape.total == parameters and plan.visual_limits == tokens
    assert "cannot be reached here: the published shape of" in plan.shape.source
    page = shown(plan)
    assert said in page and f"{tokens[1]:,}" in page and f"{parameters:,}" in page
    assert plan.phases["update"]["weights"] == 2 * parameters // 8  # ZeRO-3 on 8


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-VL-2B-Thinking", "Qwen3-VL-2B"),
        ("someone/qwen3vl_8b_rs", "Qwen3-VL-8B"),
        ("Qwen/Qwen3-VL-30B-A3B-Thinking", "Qwen3-VL-30B-A3B"),
        ("THUDM/GLM-4.1V-9B-Base", "GLM-4.1V-9B"),
        ("llava-hf/llava-1.5-7b-hf", "LLaVA-1.5-7B"),
        ("runs/llava_1.5_7b/final", "LLaVA-1.5-7B"),
        ("OpenGVLab/InternVL3-8B-hf", "InternVL3-8B"),
        ("runs/internvl3-1b-sft/final", "InternVL3-1B"),
        # other sizes, versions, families; and weights in a form that is not transformers' own
        ("Qwen/Qwen3-VL-32B-Instruct", None),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct", None),
        ("Qwen/Qwen3-8B", None),
        ("Qwen/Qwen3-30B-A3B", None),
        ("zai-org/GLM-4.5V", None),
        ("llava-hf/llava-1.5-13b-hf", None),
        ("llava-hf/llava-v1.6-vicuna-7b-hf", None),
        ("liuhaotian/llava-v1.5-7b", None),
        ("OpenGVLab/InternVL3-2B", None),
        ("OpenGVLab/InternVL3_5-2B-HF", None),
        ("OpenGVLab/InternVL3-14B-hf", None),
    ],
)
def test_names_that_mean_a_published_size(path, name):
    assert families.known(path) == name


def test_widths_of_qwen3_vl_4b_by_hand():
    """Its 32 heads of 128 are wider than its hidden size of 2560, and queries and keys have norms."""
    shape = shapes.shape(model_section("Qwen/Qwen3-VL-4B-Instruct"))
    h, q, k, f = 2560, 4096, 1024, 9728
    assert memory.layer_bytes(shape, 2, "flash_attention_2", 0) == 16 * h + 6 * (q + k) + 4 * q + 4 * k + 8 * f
    assert memory.kv_cache(shape, 2, 1, 1) == 2 * 36 * k * 2
    moments = memory.moments(shape, Setup(), rows=1, text_tokens=100, visual_tokens=0)
    assert moments["attention"] == 4 * (100 * q + 100 * k) + memory.flash_backward(32, q, 100, 100, 1, 2, True)
    assert moments["an MLP"] == 2 * 100 * 3 * f


def test_experts_of_qwen3_vl_30b_by_hand():
    """8 of 128 experts of width 768 work on a token."""
    shape, h = shapes.shape(model_section("Qwen/Qwen3-VL-30B-A3B-Instruct")), 2048
    family = families.FAMILIES[shape.kind]
    assert family.mlp_bytes(shape, 2) == 8 * (2 * (2 * h + 4 * 768) + 40) + 4 * 128
    assert family.mlp_alive(shape) == 8 * (3 * 768 + 2 * h)


def test_towers_with_a_first_token_by_hand():
    """576 patches and one more of LLaVA-1.5, of whose 24 blocks 23 are used; InternVL3 has one in each tile."""
    llava = shapes.shape(model_section("llava-hf/llava-1.5-7b-hf"))
    assert memory.tower_places(llava, 576) == 577 and llava.used == 23
    internvl = shapes.shape(model_section("OpenGVLab/InternVL3-2B-hf"))
    assert memory.tower_places(internvl, 5 * 256) == 5 * 1025 and internvl.used == 24
    # a patch sees its own tile alone
    one = memory.vision_block_bytes(internvl, 2, "eager", 1025)
    assert one == memory.vision_block_bytes(internvl, 2, "eager", 5 * 1025)
    assert one - memory.vision_block_bytes(internvl, 2, "sdpa", 1025) == 16 * 1025 * 2


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_models_of_unknown_size_are_planned_without_memory(unsized, stage):
    plan = estimate.training(job(stage=stage, model=model_section(unsized)))
    assert not isinstance(plan, Plan) and plan.storage is None
    page = shown(plan)
    assert "memory and disk: not planned: model.path: config.json of" in page and "idefics3" in page
    assert "longest sequence planned for, text alone" in page and "steps in all" in page
    assert "the model's own processor decides on sizes and visual tokens" in page
    assert "GiB" not in page


def test_qwen3_5_is_planned_with_its_visual_tokens(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published("qwen3_5").config))
    page = shown(estimate.training(job(model=model_section(tmp_path))))
    assert "32×32 pixels a visual token" in page and "1,024" in page and "the sizes of qwen3_5 are not known" in page


def test_out_of_memory_without_a_plan_of_memory(unsized):
    recipe = of("sft", f"model.path={unsized}")
    said = out_of_memory.message(
        recipe, lambda _: lambda _: estimate.training(job(model=recipe.model)), MemoryError("CUDA out of memory. Full")
    )
    assert "No plan could be made (model.path: config.json of" in said and "are not known here" in said


def of(stage: str, *changes: str):
    kinds = {"sft": (SFTRecipe, "recipes/sft.yaml"), "grpo": (GRPORecipe, "recipes/r1_no_score.yaml")}
    return config.load(ROOT / kinds[stage][1], kinds[stage][0], changes)


def test_vllm_is_refused_for_families_it_was_never_compared_with(monkeypatch):
    monkeypatch.setattr(families.FAMILIES["glm4v"].__class__, "vllm", False)
    recipe = of("grpo", "model.path=zai-org/GLM-4.1V-9B-Thinking", "training.use_vllm=true")
    with pytest.raises(RecipeError, match="GLM-4.1V with vLLM: .* was never compared .* write use_vllm: false"):
        check_engines(recipe)


def test_limits_that_a_family_does_not_have_are_said():
    said = "images.min_pixels, images.max_pixels: without effect: every image is padded to a square of 336×336 pixels"
    assert any(line.startswith(said) for line in doubts(of("sft", "model.path=llava-hf/llava-1.5-7b-hf")))
    assert not any("without effect" in line for line in doubts(of("sft", "model.path=Qwen/Qwen3-VL-4B-Instruct")))
    recipe = of("sft", "model.path=llava-hf/llava-1.5-7b-hf").model_copy(update={"images": ImageSection()})
    assert not any("without effect" in line for line in doubts(recipe))
