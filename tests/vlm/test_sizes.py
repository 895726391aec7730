"""Names and shapes by arithmetic, against the classes of transformers; freezing and LoRA, against torch and peft."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2VLConfig

from tests.support.meta_model import linears, meta_model, named_shapes
from tests.support.processes.commands import ROOT
from tests.support.runs.plan_jobs import model_section
from tests.support.tiny_checkpoints import qwen2_5_vl, qwen2_vl
from vlm import families, loading, shapes
from vlm.adapters import PARTS, apply_lora, freeze, lora_targets, part_of
from vlm.common.errors import RecipeError
from vlm.sections import LoraSection

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_vl(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    return qwen2_5_vl(tmp_path_factory, checkpoint)


def compare(raw: dict):
    model, sizes = meta_model(raw), families.read(raw, "config.json")
    assert families.parameters(sizes) == named_shapes(model)
    assert {one.name: one.weight for one in families.layers(sizes) if one.linear} == linears(model)
    text = model.config.text_config
    heads = text.hidden_size // text.num_attention_heads
    assert sizes.key_value == text.num_key_value_heads * heads
    assert sizes.tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", families.KNOWN)
def test_known_architectures(name):
    compare(families.KNOWN[name])


def test_the_base_of_the_demo():
    compare(loading.raw_config(str(ROOT / "demo/base")))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_saved_checkpoints(family, tied, request):
    raw = loading.raw_config(str(request.getfixturevalue(family)))
    compare(raw | {"tie_word_embeddings": tied, "text_config": raw["text_config"] | {"tie_word_embeddings": tied}})


SMALL = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
VISION = {
    "qwen2_vl": {"depth": 1, "embed_dim": 16, "hidden_size": 24, "num_heads": 2, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 1, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "out_hidden_size": 24,
        "fullatt_block_indexes": [0],
    },
}  # fmt: skip
few = st.integers(1, 4)
ALIAS = "num_hidden_layers" in Qwen2VLConfig().vision_config.attribute_map
own_vision = {
    "qwen2_vl": {
        "embed_dim": few.map(lambda n: 16 * n), "mlp_ratio": few, "hidden_size": few.map(lambda n: 12 * n),
        "intermediate_size": few,  # of the other family; not read
    },
    "qwen2_5_vl": {
        "hidden_size": few.map(lambda n: 16 * n), "intermediate_size": st.integers(1, 40), "mlp_ratio": few,
        "out_hidden_size": few.map(lambda n: 12 * n), "fullatt_block_indexes": st.lists(st.integers(0, 3), max_size=2),
    },
}  # fmt: skip
vision = {
    "num_heads": st.just(2), "in_channels": few, "patch_size": st.sampled_from([2, 14]), "spatial_merge_size": few,
    "temporal_patch_size": few, "in_chans": few, "window_size": st.just(56),
}  # fmt: skip


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(sorted(families.FAMILIES)))
    groups, heads, size = draw(few), draw(few), 4 * draw(few)
    text = SMALL | {
        "num_attention_heads": groups * heads,
        "num_key_value_heads": draw(st.sampled_from([groups, None])),
        "hidden_size": groups * heads * size,
    }
    optional = {
        "vocab_size": st.integers(2, 50), "intermediate_size": st.integers(1, 50), "num_hidden_layers": few,
        "head_dim": st.just(4), "mlp_bias": st.booleans(), "attention_bias": st.booleans(),
        "layer_types": st.none(), "max_position_embeddings": st.just(64),
    }  # fmt: skip
    text |= draw(st.fixed_dictionaries({}, optional=optional))
    tower = draw(st.fixed_dictionaries({}, optional=vision | own_vision[kind] | {"depth": few}))
    tower = VISION[kind] | tower
    if draw(st.booleans()):  # transformers' names for the same, of which 5.17 has one (`versions.check_config`)
        tower |= {"num_hidden_layers": draw(few) if ALIAS else tower["depth"], "num_attention_heads": 2}
    raw = {"model_type": kind, "vision_config": tower}
    if draw(st.booleans()):
        raw["tie_word_embeddings"] = draw(st.booleans())
    if draw(st.booleans()):
        return raw | text  # as first published
    if draw(st.booleans()):
        text["tie_word_embeddings"] = draw(st.booleans())
    return raw | {"text_config": text} | draw(st.sampled_from([{}, {"hidden_size": 7, "vocab_size": 3}]))


@settings(max_examples=80, deadline=None)
@given(configs())
def test_other_configs(raw):
    compare(raw)


@pytest.mark.parametrize("kind", sorted(families.FAMILIES))
@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_defaults_are_those_of_transformers(kind, layout):
    """Every key alone left out: its default stands."""
    for section, keys in (("text", SMALL), ("vision", VISION[kind])):
        for key in keys:
            if key in ("num_attention_heads", "hidden_size") and section == "text":
                continue  # 24 and 64, 8192 and 4: together with the other's size these do not divide, or are large
            text, tower = dict(SMALL), dict(VISION[kind])
            del {"text": text, "vision": tower}[section][key]
            if key == "num_key_value_heads":
                text |= {"num_attention_heads": 8}
            compare(
                {"model_type": kind, "vision_config": tower} | ({"text_config": text} if layout == "nested" else text)
            )
    compare({"model_type": kind})
    compare({"model_type": kind, "vision_config": None, "text_config": {}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"text_config": {"hidden_size": "64"}},
            r"c.json: text_config.hidden_size is '64'; expected a whole number ab",
        ),
        ({"text_config": {"hidden_size": 64.0}}, "text_config.hidden_size is 64.0"),
        ({"text_config": {"vocab_size": None}}, "text_config.vocab_size is None"),
        ({"text_config": {"num_hidden_layers": 0}}, "text_config.num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "c.json: num_hidden_layers is True"),
        ({"vision_config": {"patch_size": [14, 14]}}, r"vision_config.patch_size is \[14, 14\]"),
        ({"vision_config": {"mlp_ratio": 4.5}}, "vision_config.mlp_ratio is 4.5"),
        ({"vision_config": 3}, "c.json: vision_config is 3; expected an object"),
        ({"text_config": [1]}, r"c.json: text_config is \[1\]; expected an object"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; expected true or false"),
        ({"text_config": SMALL | {"hidden_size": 26}}, "hidden_size 26 is no multiple of num_attention_heads 4"),
        (SMALL | {"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    ],
)
def test_what_is_no_size_is_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        families.read({"model_type": "qwen2_vl"} | change, "c.json")


def test_the_message_names_the_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", "vision_config": {"depth": -1}}))
    with pytest.raises(RecipeError, match=rf"model.path: config.json of {tmp_path}: vision_config.depth is -1"):
        shapes.shape(model_section(tmp_path))


QKV = "model.visual.blocks.*.attn.qkv"


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
@pytest.mark.parametrize("frozen", [[], ["vision_tower"], ["merger", "vision_tower"], ["language_model"]])
@pytest.mark.parametrize(
    "targets", [None, ["q_proj", "down_proj"], ["down_proj", QKV, "model.visual.merger.mlp.*", "*.down_proj"]]
)
def test_what_trains_equals_torch_and_peft(family, frozen, targets, request):
    """`freeze` and LoRA on the loaded model: the same count, or the same refusal."""
    lora = None if targets is None else LoraSection(r=3, target_modules=targets)
    folder = request.getfixturevalue(family)
    whole = model_section(folder, attention="sdpa", dtype="float32")
    section = whole.model_copy(update={"freeze": frozen, "lora": lora})  # unchecked: a recipe refuses some of these
    model = loading.load_model(section)
    freeze(model, frozen)
    inputs = 0
    try:
        if lora:
            inputs = sum(model.get_submodule(name).in_features for name in lora_targets(model, targets))
            model = apply_lora(model, lora)
    except RecipeError as error:
        with pytest.raises(RecipeError) as planned:
            shapes.shape(section)
        assert str(planned.value) == str(error)
        return
    real = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            real[part_of(name)] += parameter.numel()
    shape = shapes.shape(section)
    assert shape.trainable == real and shape.lora_inputs == inputs
    assert shape.head_trainable == (lora is None and model.lm_head.weight.requires_grad)
