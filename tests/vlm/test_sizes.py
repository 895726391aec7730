"""Names and shapes by arithmetic, against the classes of transformers; freezing and LoRA, against torch and peft."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2VLConfig

from tests.support.families import published
from tests.support.meta_model import linears, meta_model, named_shapes
from tests.support.processes.commands import ROOT
from tests.support.runs.plan_jobs import model_section
from tests.support.tiny_checkpoints import qwen2_5_vl, qwen2_vl
from vlm import families, loading, shapes
from vlm.adapters import PARTS, apply_lora, freeze, lora_targets, part_of
from vlm.common.errors import RecipeError
from vlm.families.other import Other
from vlm.sections import LoraSection

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_vl(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    return qwen2_5_vl(tmp_path_factory, checkpoint)


SIZED = [kind for kind, family in families.FAMILIES.items() if type(family).sizes is not Other.sizes]


def compare(raw: dict):
    sizes = families.read(raw, "config.json")
    # InternVL's config says at its top that the head is tied; where the file holds a head, transformers goes by that
    model = meta_model(raw | {"tie_word_embeddings": sizes.tied} if raw["model_type"] == "internvl" else raw)
    assert families.parameters(sizes) == named_shapes(model)
    assert {one.name: one.weight for one in families.layers(sizes) if one.linear} == linears(model)
    attention = model.model.language_model.layers[0].self_attn
    assert (sizes.head, sizes.query) == (attention.head_dim, attention.q_proj.out_features)
    assert sizes.key_value == attention.k_proj.out_features
    assert sizes.tied == model.config.tie_word_embeddings


TOTALS = {
    "Qwen2-VL-2B": 2_208_985_600, "Qwen2-VL-7B": 8_291_375_616, "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656, "Qwen3-VL-2B": 2_127_532_032, "Qwen3-VL-4B": 4_437_815_808,
    "Qwen3-VL-8B": 8_767_123_696, "Qwen3-VL-30B-A3B": 31_070_754_032, "GLM-4.1V-9B": 10_292_777_472,
    "LLaVA-1.5-7B": 7_063_427_072, "InternVL3-1B": 938_193_024, "InternVL3-2B": 2_088_957_440,
    "InternVL3-8B": 7_944_373_760,
}  # fmt: skip
"""Rounded as on the model cards: 2.13, 4.4, 8.77 (Qwen3-VL), 7.06 (LLaVA), .938 billion (InternVL3-1B)."""


@pytest.mark.parametrize("name", families.KNOWN)
def test_known_architectures(name):
    compare(families.KNOWN[name])
    assert (
        sum(math.prod(shape) for _, shape in families.parameters(families.read(families.KNOWN[name], name)))
        == (TOTALS[name])
    )


def test_the_base_of_the_demo():
    compare(loading.raw_config(str(ROOT / "demo/base")))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", SIZED)
def test_published_layouts(kind, tied):
    raw, said = published(kind).config, {"tie_word_embeddings": tied}
    nested = {"text_config": raw["text_config"] | said} if "text_config" in raw else {}  # older ones are flat
    compare(raw | said | nested)


@pytest.mark.parametrize("kind", SIZED)
def test_what_is_loaded_has_the_planned_parameters(kind, family_checkpoints):
    """InternVL3's head too, which its config calls tied."""
    section = model_section(family_checkpoints(kind), attention="sdpa", dtype="float32")
    model, shape = loading.load_model(section), shapes.shape(section)
    assert named_shapes(model) == families.parameters(shape)
    assert shape.tied == (model.lm_head.weight is model.get_input_embeddings().weight)


SMALL = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
few = st.integers(1, 4)
twelfths, sixteenths = few.map(lambda n: 12 * n), few.map(lambda n: 16 * n)
grid = {
    "num_heads": st.just(2), "in_channels": few, "patch_size": st.sampled_from([2, 14]), "spatial_merge_size": few,
    "temporal_patch_size": few, "in_chans": few, "window_size": st.just(56), "depth": few,
}  # fmt: skip
ALIAS = "num_hidden_layers" in Qwen2VLConfig().vision_config.attribute_map


@dataclasses.dataclass
class Drawn:
    """What is drawn of a family's configs."""

    tower: dict
    "Sizes of a small vision tower."
    vision: dict
    "Further keys of it, by what they are drawn from."
    text: dict = dataclasses.field(default_factory=dict)
    whole: dict = dataclasses.field(default_factory=dict)
    head: bool = False
    "Whether the decoder's config has a head size of its own."


def _qwen3() -> Drawn:
    tower = {"depth": 1, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "out_hidden_size": 24}
    drawn = {
        "hidden_size": sixteenths, "intermediate_size": few, "out_hidden_size": twelfths,
        "num_position_embeddings": st.sampled_from([4, 9]),
        "deepstack_visual_indexes": st.lists(st.integers(0, 3), max_size=3),
    }  # fmt: skip
    return Drawn({**tower, "deepstack_visual_indexes": [0]}, grid | drawn, head=True)


FAMILIES = {
    "qwen2_vl": Drawn(
        {"depth": 1, "embed_dim": 16, "hidden_size": 24, "num_heads": 2, "mlp_ratio": 2},
        # the last is of the other family, and not read
        grid | {"embed_dim": sixteenths, "mlp_ratio": few, "hidden_size": twelfths, "intermediate_size": few},
    ),
    "qwen2_5_vl": Drawn(
        {
            "depth": 1, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "out_hidden_size": 24,
            "fullatt_block_indexes": [0],
        },
        grid | {
            "hidden_size": sixteenths, "intermediate_size": st.integers(1, 40), "mlp_ratio": few,
            "out_hidden_size": twelfths, "fullatt_block_indexes": st.lists(st.integers(0, 3), max_size=2),
        },
    ),
    "qwen3_vl": _qwen3(),
    "qwen3_vl_moe": dataclasses.replace(
        _qwen3(),
        text={
            "num_experts": few, "num_experts_per_tok": st.just(1), "moe_intermediate_size": few,
            "decoder_sparse_step": few, "mlp_only_layers": st.lists(st.integers(0, 3), max_size=2),
        },
    ),
    "glm4v": Drawn(
        {"depth": 1, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "out_hidden_size": 24},
        grid | {
            "hidden_size": sixteenths, "intermediate_size": few, "out_hidden_size": twelfths,
            "image_size": st.sampled_from([28, 40]), "attention_bias": st.booleans(),
        },
    ),
    "llava": Drawn(
        {
            "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        {
            "model_type": st.just("clip_vision_model"), "hidden_size": sixteenths, "intermediate_size": few,
            "num_hidden_layers": few, "num_channels": few, "image_size": st.sampled_from([28, 40]),
            "patch_size": st.sampled_from([2, 14]), "projection_dim": few,
        },
        {"model_type": st.just("llama")},
        {"multimodal_projector_bias": st.booleans(), "vision_feature_layer": st.sampled_from([-1, -2, [-1, -2]])},
        head=True,
    ),
    "internvl": Drawn(
        {
            "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        {
            "model_type": st.just("internvl_vision"), "hidden_size": sixteenths, "intermediate_size": few,
            "num_hidden_layers": few, "num_channels": few, "image_size": st.sampled_from([28, [56, 56]]),
            "patch_size": st.sampled_from([2, [14, 14]]), "attention_bias": st.booleans(),
            "use_qk_norm": st.booleans(), "norm_type": st.sampled_from(["layer_norm", "rms_norm"]),
        },
        {"model_type": st.just("qwen2")},
        {"downsample_ratio": st.sampled_from([0.5, 0.25, 1.0])},
        head=True,
    ),
}  # fmt: skip
FLAT = ("qwen2_vl", "qwen2_5_vl")
"""Families whose keys of the text model may stand at the top level."""


@st.composite
def configs(draw, kind):
    family = FAMILIES[kind]
    groups, heads, size = draw(few), draw(few), 4 * draw(few)
    text = SMALL | {
        "num_attention_heads": groups * heads,
        "num_key_value_heads": draw(st.sampled_from([groups, None] if kind != "qwen3_vl_moe" else [groups])),
        "hidden_size": groups * heads * size,
    }
    optional = {
        "vocab_size": st.integers(2, 50), "intermediate_size": st.integers(1, 50), "num_hidden_layers": few,
        "head_dim": st.sampled_from([4, 12]), "mlp_bias": st.booleans(), "attention_bias": st.booleans(),
        "max_position_embeddings": st.just(64),
    }  # fmt: skip
    text |= draw(
        st.fixed_dictionaries(
            {}, optional=optional | family.text | ({"layer_types": st.none()} if kind in FLAT else {})
        )
    )
    tower = family.tower | draw(st.fixed_dictionaries({}, optional=family.vision))
    if "depth" in tower and draw(st.booleans()):
        # transformers' names for the same, of which 5.17 has one (`versions.check_config`)
        tower |= {"num_hidden_layers": draw(few) if ALIAS else tower["depth"], "num_attention_heads": 2}
    raw = {"model_type": kind, "vision_config": tower} | draw(st.fixed_dictionaries({}, optional=family.whole))
    if draw(st.booleans()):
        raw["tie_word_embeddings"] = draw(st.booleans())
    if kind in FLAT and draw(st.booleans()):
        return raw | text  # as first published
    if draw(st.booleans()):
        text["tie_word_embeddings"] = draw(st.booleans())
    return raw | {"text_config": text} | draw(st.sampled_from([{}, {"hidden_size": 7, "vocab_size": 3}]))


@pytest.mark.parametrize("kind", SIZED)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_other_configs(kind, data):
    compare(data.draw(configs(kind)))


@pytest.mark.parametrize(
    ("kind", "layout"), [*((kind, "nested") for kind in SIZED), *((kind, "flat") for kind in FLAT)]
)
def test_defaults_are_those_of_transformers(kind, layout):
    """Every key alone left out: its default stands."""
    for section, keys in (("text", SMALL), ("vision", FAMILIES[kind].tower)):
        for key in keys:
            if key in ("num_attention_heads", "hidden_size") and section == "text":
                continue  # 24 and 64, 8192 and 4: together with the other's size these do not divide, or are large
            text, tower = dict(SMALL), dict(FAMILIES[kind].tower)
            if key == "num_attention_heads" and kind == "llava":
                tower["hidden_size"] = 24  # of 12 heads
            del {"text": text, "vision": tower}[section][key]
            if key == "num_key_value_heads":
                text |= {"num_attention_heads": 8 if kind in FLAT else 32, "hidden_size": 64}
            compare(
                {"model_type": kind, "vision_config": tower} | ({"text_config": text} if layout == "nested" else text)
            )
    compare({"model_type": kind})
    compare({"model_type": kind, "vision_config": None, "text_config": {}})


@pytest.mark.parametrize(
    ("kind", "part", "found"),
    [("llava", "text_config", "mistral"), ("llava", "vision_config", "pixtral"), ("internvl", "text_config", "qwen3")],
)
def test_parts_of_another_kind_are_refused(kind, part, found):
    """Pixtral and others share LLaVA's model_type."""
    raw = published(kind).config
    with pytest.raises(RecipeError, match=f"c.json: .*{found}.* not known here"):
        families.read(raw | {part: raw[part] | {"model_type": found}}, "c.json")


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
