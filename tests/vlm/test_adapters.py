"""Freezing by part, and LoRA: where it goes, what it trains, and merging it."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from demo import tiny
from tests.support.families import published
from tests.support.tiny_checkpoints import forward, hub, pixels, qwen2_5_vl, qwen2_vl, section
from vlm import adapters, loading
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions

LANGUAGE_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def lora(**changes):
    fields = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": LANGUAGE_LINEARS}
    return SimpleNamespace(**{**fields, **changes})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_vl(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    return qwen2_5_vl(tmp_path_factory, checkpoint)


def trainable(model):
    return {adapters.part_of(name) for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_freeze_by_part(family, request):
    folder = request.getfixturevalue(family)
    model = loading.load_model(section(folder))
    parts = [adapters.part_of(name) for name, _ in model.named_parameters()]
    assert parts.count("merger") == (6 if family == "checkpoint" else 5)  # norm (weight, bias), two linears
    adapters.freeze(model, ["vision_tower"])
    assert trainable(model) == {"merger", "language_model"}
    assert model.model.visual.merger.mlp[0].weight.requires_grad
    assert not model.model.visual.patch_embed.proj.weight.requires_grad
    adapters.freeze(model, ["language_model"])
    assert trainable(model) == {"merger"} and not model.lm_head.weight.requires_grad
    with pytest.raises(RecipeError, match="leaves nothing to train"):
        adapters.freeze(model, ["merger"])
    with pytest.raises(RecipeError, match="unknown part 'head'"):
        adapters.freeze(model, ["head"])


def test_lora_stays_in_the_language_model(checkpoint_2_5):
    """Qwen2.5-VL's vision blocks have gate_proj, up_proj and down_proj of their own."""
    model = loading.load_model(section(checkpoint_2_5))
    adapters.freeze(model, ["vision_tower"])
    wrapped = adapters.apply_lora(model, lora())
    names = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    layers = model.config.text_config.num_hidden_layers
    assert len(names) == layers * 7 * 2
    assert all("lora_" in name and ".language_model.layers." in name for name in names)
    adapters.freeze(wrapped, ["vision_tower", "merger"])
    with pytest.raises(RecipeError, match="leaves nothing"):
        adapters.freeze(wrapped, ["language_model"])


def test_lora_patterns_reach_the_vision_tower(checkpoint):
    model = loading.load_model(section(checkpoint))
    adapters.freeze(model, ["language_model"])
    with pytest.raises(RecipeError, match="every layer it names is frozen"):
        adapters.apply_lora(model, lora())
    with pytest.raises(RecipeError, match="'qkv' matches no linear layer.*gate_proj"):
        adapters.apply_lora(model, lora(target_modules=["qkv"]))
    wrapped = adapters.apply_lora(model, lora(target_modules=["q_proj", "model.visual.blocks.*.attn.qkv"]))
    assert trainable(wrapped) == {"vision_tower"}


def test_a_lora_step_trains_adapters_only_and_merging_keeps_the_outputs(checkpoint, tmp_path):
    model = adapters.apply_lora(loading.load_model(section(checkpoint)), lora())
    processor = loading.load_processor(str(checkpoint), pixels(784, 3136))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    frozen = model.base_model.model.lm_head.weight.detach().clone()
    for _ in range(2):  # B starts at zero, so A moves only from the second step on
        forward(model, processor).logsumexp(-1).mean().backward()
        optimiser.step()
    torch.testing.assert_close(model.base_model.model.lm_head.weight.detach(), frozen, rtol=0, atol=0)
    with torch.no_grad():
        expected = forward(model.eval(), processor)
    model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    with pytest.raises(RecipeError, match="holds a LoRA adapter"):
        loading.load_model(section(tmp_path / "adapter"))
    adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    with pytest.raises(RecipeError, match="holds files already"):
        adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    again = loading.load_processor(str(tmp_path / "merged"), pixels(784, 3136))
    with torch.no_grad():
        actual = forward(loading.load_model(section(tmp_path / "merged")).eval(), again)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        base = forward(loading.load_model(section(checkpoint)).eval(), processor)
    assert (base - expected).abs().max() > 1e-2
    saved = json.loads((tmp_path / "merged" / "processor_config.json").read_text())
    assert saved["image_processor"]["size"] == {"shortest_edge": 784, "longest_edge": 3136}


def test_merging_rounds_once_and_says_how_much():
    """Against the sum by hand; an adapter below bfloat16's digits is lost whole."""
    from peft import LoraConfig, get_peft_model

    def wrapped(scale):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False)).bfloat16()
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["0"]))
        layer = model.base_model.model[0]
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=scale)
        a, b = (side["default"].weight.detach().float() for side in (layer.lora_A, layer.lora_B))
        start = layer.base_layer.weight.detach().float().clone()
        return model, start, start + 2 * b @ a

    for dtype in ("bfloat16", "float32"):
        model, start, expected = wrapped(0.05)
        found, rounding = adapters.merged(model, dtype)
        kept = found[0].weight.detach()
        assert kept.dtype == getattr(torch, dtype)
        torch.testing.assert_close(kept, expected.to(kept.dtype), rtol=0, atol=0 if dtype == "bfloat16" else 1e-7)
        error = (kept.float() - expected).abs()
        share = (error.square().sum() / (expected - start).square().sum()).sqrt().item()
        assert (rounding.largest, rounding.share) == pytest.approx((error.max().item(), share), abs=1e-6)
        assert ("without rounding" in str(rounding)) == (dtype == "float32")
    found, rounding = adapters.merged(wrapped(1e-6)[0], "bfloat16")
    assert rounding.share == pytest.approx(1, abs=0.01) and "100% of what the adapter changed" in str(rounding)


def test_the_merged_dtype_can_be_chosen(checkpoint, tmp_path, monkeypatch, capsys):
    adapters.apply_lora(loading.load_model(section(checkpoint)), lora()).save_pretrained(tmp_path / "adapter")
    given = ["vlm.adapters", str(tmp_path / "adapter"), str(tmp_path / "half"), "--dtype", "bfloat16"]
    monkeypatch.setattr("sys.argv", given)
    assert adapters.main() == 0 and "rounding to bfloat16 moves" in capsys.readouterr().err
    assert loading.raw_config(str(tmp_path / "half"))["dtype"] == "bfloat16"


def test_an_adapter_is_merged_into_the_revision_it_was_trained_on(checkpoint, tmp_path, monkeypatch):
    """A pinned base, and a branch main with other weights; an adapter that has not been trained changes nothing."""
    other = tmp_path / "other"
    tiny.build(other, seed=2)
    hub(tmp_path / "cache", monkeypatch, main=other, v1=checkpoint)
    model = loading.load_model(section("nobody/model", revision="v1"))
    adapters.apply_lora(model, lora()).save_pretrained(tmp_path / "adapter")
    adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    merged, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", checkpoint))
    assert merged.keys() == expected.keys() and all(torch.equal(merged[name], expected[name]) for name in merged)


def test_the_head_takes_no_adapter(checkpoint):
    """And no message offers it."""
    model = loading.load_model(section(checkpoint))
    with pytest.raises(RecipeError, match="target_modules: lm_head cannot have an adapter"):
        adapters.lora_targets(model, ["q_proj", "lm_head"])
    with pytest.raises(RecipeError, match="matches no linear layer") as told:
        adapters.lora_targets(model, ["query"])
    assert "lm_head" not in str(told.value)


@pytest.mark.parametrize(
    ("kind", "tower", "merger", "language", "adapted"),
    [
        # tower: patches; two blocks of two norms, qkv, proj and the MLP. Language: embedding, norm; two layers of q, k,
        # v with biases, o, three of the MLP and two norms, so 7 linears each
        ("qwen2_vl", 1 + 2 * 12, 6, 2 + 2 * 12, 2 * 7),
        ("qwen2_5_vl", 1 + 2 * 12, 5, 2 + 2 * 12, 2 * 7),
        # positions, three blocks; three mergers; three layers without biases, with norms of queries and keys
        ("qwen3_vl", 3 + 3 * 12, 3 * 6, 2 + 3 * 11, 3 * 7),
        # a head of its own; of each layer q, k, v and o are linear
        ("qwen3_vl_moe", 3 + 3 * 12, 3 * 6, 3 + 3 * 11, 3 * 4),
        # two layers of linear attention with nine parameters of their own, three adapted; one of full attention
        ("qwen3_5", 3 + 3 * 12, 6, 3 + 2 * (9 + 3 + 2) + 11, 3 * 3 + 2 * 3 + 4),
        # patches, positions, two blocks, three norms and the convolution before the merger; four norms a layer
        ("glm4v", 3 + 2 * 7 + 4, 6, 3 + 2 * 13, 2 * 6),
        # class, patches, positions, two norms with biases, three layers
        ("llava", 3 + 4 + 3 * 16, 4, 3 + 2 * 9, 2 * 7),
        # class, positions, patches with bias, two blocks with two scales each
        ("internvl", 4 + 2 * 18, 6, 2 + 2 * 12, 2 * 7),
    ],
)
def test_parts_of_every_family(kind, tower, merger, language, adapted, tmp_path):
    """Parameters of each part, and linears that LoRA adapts where nothing is said, counted by hand."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    (tmp_path / "config.json").write_text(json.dumps(published(kind).config))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tmp_path))
    found = Counter(adapters.part_of(name) for name, _ in model.named_parameters())
    assert found == {"vision_tower": tower, "merger": merger, "language_model": language}
    layers = adapters.lora_targets(model, None)
    assert len(layers) == adapted and {adapters.part_of(name) for name in layers} == {"language_model"}


def test_messages_name_the_model_s_own_layers():
    linears = {"model.vision_tower.encoder.layers.0.self_attn.k_proj": True, "model.language_model.layers.0.fc": True}
    with pytest.raises(
        RecipeError, match=r"language model has fc; .* e\.g\. model\.vision_tower\.encoder\.layers\.\*\.self"
    ):
        adapters.chosen(linears, ["q_proj"])
    with pytest.raises(
        RecipeError, match=r"model\.freeze; .* e\.g\. model\.vision_tower\.encoder\.layers\.\*\.self_attn"
    ):
        adapters.chosen(linears | {"model.language_model.layers.0.fc": False}, ["fc"])
    with pytest.raises(RecipeError, match=r"the language model has fc$"):
        adapters.chosen({"model.language_model.layers.0.fc": True}, ["q_proj"])
