"""A base in 4 bits under LoRA (QLoRA), by bitsandbytes' CPU backend: what is quantized, trained and merged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from stage.planning import memory
from tests.support.tiny_checkpoints import forward, pixels, qwen2_5_vl, qwen2_vl, section
from vlm import adapters, families, loading, shapes, weights
from vlm.common.errors import RecipeError
from vlm.sections import LoraSection, ModelSection

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed here")

pytestmark = pytest.mark.versions

LORA = LoraSection(r=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_vl(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    return qwen2_5_vl(tmp_path_factory, checkpoint)


def asked(folder, **changes):
    fields = {"path": str(folder), "dtype": "float32", "attention": "sdpa", "lora": LORA, "quantization": "nf4"}
    return ModelSection(**fields | changes)


def adapted(folder, **changes):
    model = adapters.apply_lora(loading.load_model(asked(folder, **changes)), LORA)
    return model, loading.load_processor(str(folder), pixels(784, 3136))


def stored(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_what_is_quantized_is_what_is_planned(family, request):
    """All linear layers of the decoder and nothing else, at bitsandbytes' own sizes; its tables of codes (1.1 KiB a
    layer) are left out of a plan."""
    folder = request.getfixturevalue(family)
    model = loading.load_model(asked(folder, dtype="bfloat16"))
    packed = {name: one for name, one in model.named_modules() if isinstance(one, bnb.nn.Linear4bit)}
    sizes = families.read(loading.raw_config(str(folder)), "")
    assert set(packed) == {layer.name for layer in families.layers(sizes) if shapes.is_quantized(asked(folder), layer)}
    assert len(packed) == 7 * sizes.layers and model.lm_head.weight.dtype == torch.bfloat16
    plan = shapes.shape(asked(folder))
    assert plan.quantized == sum(weights.elements(one.weight) for one in packed.values())
    assert plan.total == sum(map(weights.elements, model.parameters()))
    assert {weights.kind(weight) for weight in model.parameters()} == {"nf4", "bfloat16"}
    scales = [one.weight.quant_state for one in packed.values()]
    held = stored(model.parameters()) + stored(s.absmax for s in scales) + stored(s.state2.absmax for s in scales)
    assert memory.held_bytes(plan, memory.Setup(quantized=True)) == pytest.approx(held, rel=1e-3)


def test_bits_of_a_weight():
    """QLoRA, §3: 4 + 8/64 + 32/(64·256) = 4.127; of a layer of a 2B model, tables included."""
    layer = torch.nn.Parameter(torch.randn(1536, 8960, dtype=torch.bfloat16))
    packed, state = bnb.functional.quantize_4bit(layer.data, quant_type="nf4", compress_statistics=True)
    held = 8 * stored([packed, *(one for one in state.as_dict(packed=False).values() if torch.is_tensor(one))])
    assert held / layer.numel() == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)


def test_adapters_are_trained_and_merging_gives_what_was_trained(checkpoint, tmp_path):
    """The base stays bit for bit; the merged model answers as the trained one, and not as the same adapter on the
    weights before they were quantized."""
    model, processor = adapted(checkpoint)
    base = {name: weight.data.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        forward(model, processor).logsumexp(-1).mean().backward()
        optimiser.step()
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name].data, was) for name, was in base.items())
    with torch.no_grad():
        expected = forward(model.eval(), processor)
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["auto_mapping"] == {"quantization": "nf4", "dtype": "float32"}
    assert "without rounding" in str(adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "merged")))
    assert "quantization_config" not in loading.raw_config(str(tmp_path / "merged"))
    with torch.no_grad():
        merged = forward(loading.load_model(section(tmp_path / "merged")).eval(), processor)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-3)
    settings["auto_mapping"] = None
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(settings))
    adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "other"))
    with torch.no_grad():
        other = forward(loading.load_model(section(tmp_path / "other")).eval(), processor)
    assert (other - expected).abs().max() > 100 * (merged - expected).abs().max()


def test_gradients_are_those_of_the_dequantized_base(checkpoint):
    """Of every adapter, and after a pass without gradients, in which bitsandbytes packs weights for some CPUs."""
    found = []
    for dequantized in (False, True):
        base = loading.load_model(asked(checkpoint, dtype="bfloat16"))
        model = adapters.apply_lora(base.dequantize() if dequantized else base, LORA)
        processor = loading.load_processor(str(checkpoint), pixels(784, 3136))
        generator = torch.Generator().manual_seed(0)
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
        with torch.no_grad():
            forward(model.eval(), processor)
        forward(model.train(), processor).float().logsumexp(-1).mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    one, other = found
    assert one.keys() == other.keys() and len(one) == 2 * 7 * base.config.text_config.num_hidden_layers
    for name in one:
        assert (one[name] - other[name]).norm() <= 0.05 * other[name].norm(), name


def test_parts_that_are_frozen_get_no_adapter(checkpoint):
    model = loading.load_model(asked(checkpoint))
    adapters.freeze(model, ["language_model"])
    reaching = LORA.model_copy(update={"target_modules": ["model.*.qkv", "model.language_model.layers.0.*.q_proj"]})
    wrapped = adapters.apply_lora(model, reaching, ["language_model"])
    trained = {adapters.part_of(name) for name, p in wrapped.named_parameters() if p.requires_grad}
    assert trained == {"vision_tower"}
    assert wrapped.base_model.model.model.visual.blocks[0].attn.qkv.base_layer.weight.dtype == torch.float32


def test_what_is_stored_quantized_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "awq")
    config = loading.raw_config(str(checkpoint)) | {"quantization_config": {"quant_method": "awq"}}
    (tmp_path / "awq/config.json").write_text(json.dumps(config))
    for work in (loading.load_model, shapes.shape):
        with pytest.raises(
            RecipeError, match=r"quantized already \(awq\); name the checkpoint that they were made from"
        ):
            work(asked(tmp_path / "awq"))
