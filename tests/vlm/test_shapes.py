"""Sizes of a model and of its images: parameters by hand and by peft, visual tokens by transformers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo import tiny
from tests.support.runs.plan_jobs import SEVEN_B, model_section
from vlm import families, loading, shapes
from vlm.adapters import apply_lora, freeze, part_of
from vlm.common.errors import RecipeError
from vlm.families.sight import Grid
from vlm.sections import ImageSection, LoraSection

pytestmark = pytest.mark.versions


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


# --- architecture


def test_parameters_of_qwen2_vl_7b_by_hand():
    shape = shapes.shape(model_section())
    h, f, k, v = 3584, 18944, 512, 152064
    layer = (h * h + h) + 2 * (k * h + k) + h * h + 3 * h * f + 2 * h
    assert shape.parameters["language_model"] == 2 * v * h + 28 * layer + h == 7_615_616_512
    w = 1280
    block = (3 * w * w + 3 * w) + (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w) + 4 * w
    assert shape.parameters["vision_tower"] == 32 * block + w * 3 * 2 * 14 * 14
    joined = 4 * w
    assert shape.parameters["merger"] == 2 * w + joined * joined + joined + joined * h + h
    assert shape.total == SEVEN_B == shape.total_trainable
    assert shape.key_value == 512 and shape.vision_intermediate == 5120


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("Qwen/Qwen3-VL-32B-Instruct", "32×32 pixels a visual token"),
        ("Qwen/Qwen3.5-9B", "32×32 pixels a visual token"),
        ("OpenGVLab/InternVL3-38B-hf", "1 to 5 tiles of 448×448 pixels"),
        ("llava-hf/llava-1.5-13b-hf", "a square of 336×336 pixels"),
        ("gpt-5", "28×28 pixels a visual token"),
    ],
)
def test_what_is_seen_follows_from_the_family_where_the_size_is_not_known(path, text):
    """Of a model behind an address there is nothing but a name."""
    assert text in shapes.sight(model_section(path), ImageSection()).text()


@pytest.mark.parametrize(
    ("path", "name", "total"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "Qwen2-VL-2B", 2_208_985_600),
        ("PumpkinCat/Qwen2VL-7B-RS-R1", "Qwen2-VL-7B", SEVEN_B),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL-3B", 3_754_622_976),
        ("someone/qwen2_5_vl_7b_rs", "Qwen2.5-VL-7B", 8_292_166_656),
    ],
)
def test_known_shapes_stand_in(path, name, total):
    """Totals are those of the hub's model pages (2.21B, 8.29B, 3.75B, 8.29B)."""
    shape = shapes.shape(model_section(path))
    assert shape.total == total
    assert name in shape.source and "cannot be reached" in shape.source


@pytest.mark.parametrize(
    "path",
    ["Qwen/Qwen2-VL-72B-Instruct", "Qwen/Qwen2.5-7B", "llava/llava-7b", "Qwen/Qwen3-VL-32B", "a/Qwen2-VL-17B"],
)
def test_unknown_names_are_not_guessed(path):
    assert families.known(path) is None
    with pytest.raises(RecipeError, match="is no folder here"):
        shapes.shape(model_section(path))


def test_a_missing_folder_is_not_replaced_by_a_known_shape(tmp_path):
    with pytest.raises(RecipeError, match="no folder"):
        shapes.shape(model_section(tmp_path / "Qwen2-VL-7B"))


def test_the_flat_config_of_the_hub_is_read(tmp_path):
    """Qwen2-VL's published config.json has the text model's keys at the top level."""
    flat = {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}
    flat |= {
        **families.KNOWN["Qwen2-VL-7B"]["text_config"],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    flat |= {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6}
    vision = {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
    }
    flat["vision_config"] = {**vision, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    shape = shapes.shape(model_section(tmp_path))
    assert shape.total == SEVEN_B and shape.source == f"config.json of {tmp_path}"


def test_trainable_parts():
    frozen = shapes.shape(model_section(freeze=["vision_tower", "merger"]))
    assert frozen.trainable == {"vision_tower": 0, "merger": 0, "language_model": 7_615_616_512}
    adapted = shapes.shape(model_section(lora=LoraSection(r=8)))
    h, f, k = 3584, 18944, 512
    inputs_and_outputs = (h + h) + 2 * (h + k) + (h + h) + 3 * (h + f)
    assert adapted.trainable == {
        "vision_tower": 0,
        "merger": 0,
        "language_model": 28 * 8 * inputs_and_outputs,
    }
    assert adapted.lora_inputs == 28 * (6 * h + f)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(folder, seed=3)
    return folder


def test_lora_count_equals_peft(checkpoint):
    lora = LoraSection(r=4, target_modules=["q_proj", "down_proj", "model.visual.blocks.*.attn.qkv"])
    section = model_section(checkpoint, lora=lora, freeze=["merger"], attention="sdpa", dtype="float32")
    model = loading.load_model(section)
    freeze(model, section.freeze)
    real = dict.fromkeys(shapes.PARTS, 0)
    for name, parameter in apply_lora(model, lora).named_parameters():
        if parameter.requires_grad:
            real[part_of(name)] += parameter.numel()
    assert shapes.shape(section).trainable == real


# --- visual tokens


def test_visual_tokens_by_hand():
    recipe = ImageSection()
    grid = Grid(28, recipe.min_pixels, recipe.max_pixels)
    assert grid.seen((800, 800)) == (812, 812)  # 800/28 = 28.57 → 29
    assert grid.tokens((800, 800)) == 29 * 29
    # 1024/28 = 36.57 → 37, 1036² is too much; shrunk by exactly 1, floored: 36
    assert grid.tokens((1024, 1024)) == 36 * 36
    # 256² must grow to 512²: 512/28 = 18.3 → 19
    assert grid.tokens((256, 256)) == 19 * 19
    assert grid.bounds() == (335, 1337)  # 334.4, 1337.5


sides = st.integers(20, 5000)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(56 * 56, 400_000), st.integers(1, 8), st.sampled_from([28, 32]))
def test_smart_resize_equals_transformers(width, height, low, times, side):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    grid = Grid(side, low, low * times)
    if max(width, height) / min(width, height) > 200:
        with pytest.raises(ValueError, match="aspect ratios"):
            grid.seen((width, height))
        return
    expected_h, expected_w = smart_resize(height, width, factor=side, min_pixels=low, max_pixels=low * times)
    assert grid.seen((width, height)) == (expected_w, expected_h)
