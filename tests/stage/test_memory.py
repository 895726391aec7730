"""Planned memory: states by hand and by torch.optim, activations against torch's saved tensors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from demo import tiny
from stage.planning import memory
from stage.planning.estimate import DTYPE_BYTES, training
from stage.planning.memory import Setup
from tests.support.runs.plan_jobs import SEVEN_B, job, model_section
from tests.support.runs.saved import saved_bytes
from tests.support.tiny_checkpoints import qwen2_5_vl_config
from vlm import loading, shapes
from vlm.adapters import apply_lora
from vlm.sections import LoraSection


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(folder, seed=3)
    return folder


@pytest.mark.parametrize(
    ("zero", "per_parameter"),
    # bytes a parameter for weights + gradients + optimiser over 8 processes (ZeRO paper, figure 1, with K =
    # 12)
    [(1, 2 + 2 + 12 / 8), (2, 2 + (2 + 12) / 8), (3, (2 + 2 + 12) / 8)],
)
def test_states_under_deepspeed(zero, per_parameter):
    held = memory.states(shapes.shape(model_section()), Setup(zero=zero, processes=8))
    assert held.weights + held.gradients + held.optimiser == pytest.approx(per_parameter * SEVEN_B, abs=8)
    assert held.host == {}
    single = memory.states(shapes.shape(model_section()), Setup(zero=zero, processes=8, weight_bytes=4))
    assert single.optimiser == {1: 12, 2: 12, 3: 8}[zero] * SEVEN_B // 8


def test_states_without_deepspeed(checkpoint):
    """What torch.optim.AdamW really holds, in both dtypes."""
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        section = model_section(checkpoint, dtype=dtype, attention="sdpa")
        model = loading.load_model(section)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        moments = [t for state in optimiser.state.values() for t in state.values() if t.ndim]
        held = memory.states(shapes.shape(section), Setup(weight_bytes=size))
        assert held.optimiser == sum(t.numel() * t.element_size() for t in moments)
        assert held.gradients == held.weights == sum(p.numel() * p.element_size() for p in model.parameters())
        assert held.buffers == 0
        assert memory.states(shapes.shape(section), Setup(processes=2, weight_bytes=size)).buffers == held.gradients


def test_offload_moves_states_to_the_host():
    shape = shapes.shape(model_section())
    two = memory.states(shape, Setup(zero=2, processes=8, offload=True))
    assert (two.optimiser, two.gradients, two.weights) == (0, 0, 2 * SEVEN_B)
    assert two.host == {"optimiser": 12 * SEVEN_B // 8, "gradients": 2 * SEVEN_B // 8}
    three = memory.states(shape, Setup(zero=3, processes=8, offload=True))
    assert three.weights == 0 and sum(three.host.values()) == pytest.approx(16 * SEVEN_B / 8, abs=8)


def test_reference_model():
    shape = shapes.shape(model_section())
    assert memory.reference(shape, Setup(zero=2, processes=8)) == 2 * SEVEN_B
    assert memory.reference(shape, Setup(zero=3, processes=8)) == 2 * SEVEN_B // 8
    adapted = shapes.shape(model_section(lora=LoraSection(r=8)))
    assert memory.reference(adapted, Setup(zero=2, lora=True)) == 2 * adapted.total_trainable
    assert "reference model" not in training(job(beta=0.0)).phases["update"]
    assert "reference model" in training(job()).phases["rollout"]


def sequence(checkpoint, rows=2, text=40):
    """Token ids, pixels and positions of `rows` sequences with a 16-token image each; for the tiny
    Qwen2-VL."""
    config = loading.raw_config(str(checkpoint))
    ids = torch.full((rows, text + 16), 5)
    ids[:, 4:20] = config["image_token_id"]
    ids[:, 3], ids[:, 20] = config["vision_start_token_id"], config["vision_end_token_id"]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(rows * 64, 3 * 2 * 14 * 14, generator=generator)
    kinds = (ids == config["image_token_id"]).int()
    grid = torch.tensor([[1, 8, 8]] * rows)
    return {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    from transformers import Qwen2_5_VLForConditionalGeneration

    vision = {"depth": 4, "hidden_size": 128, "intermediate_size": 342, "num_heads": 4}
    vision |= {"fullatt_block_indexes": [0, 1, 2, 3]}
    folder = tmp_path_factory.mktemp("tiny_2_5")
    Qwen2_5_VLForConditionalGeneration(qwen2_5_vl_config(checkpoint, vision)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_activations_against_torchs_saved_tensors(family, attention, dtype, request):
    """Formula / measured, whole backbone, no checkpointing: within 3%."""
    folder = request.getfixturevalue(family)
    section = model_section(folder, dtype=dtype, attention=attention)
    model = loading.load_model(section).train()
    inputs = sequence(folder)
    setup = Setup(weight_bytes=DTYPE_BYTES[dtype], checkpointing=False, attention=attention)
    estimate = memory.activations(shapes.shape(section), setup, rows=2, text_tokens=40, visual_tokens=16)
    measured = saved_bytes(model, inputs)
    assert estimate == pytest.approx(measured, rel=0.03)


def test_activations_with_lora(checkpoint):
    lora = LoraSection(r=2, dropout=0.1)
    section = model_section(checkpoint, dtype="float32", attention="sdpa", lora=lora)
    model = apply_lora(loading.load_model(section).train(), lora)
    setup = Setup(weight_bytes=4, checkpointing=False, attention="sdpa", lora=True, lora_dropout=True)
    estimate = memory.activations(shapes.shape(section), setup, rows=2, text_tokens=40, visual_tokens=16)
    measured = saved_bytes(model, sequence(checkpoint))
    assert measured < estimate < 1.2 * measured  # frozen linears do not keep their inputs; the formula counts them


def test_checkpointed_activations(checkpoint):
    """Checkpointing keeps each layer's input; the rest of the formula is one layer at a time."""
    section = model_section(checkpoint, dtype="float32", attention="sdpa")
    model = loading.load_model(section).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    shape = shapes.shape(section)
    setup = Setup(weight_bytes=4, checkpointing=True, attention="sdpa")
    estimate = memory.activations(shape, setup, rows=2, text_tokens=40, visual_tokens=16)
    one_layer = max(
        112 * memory.layer_bytes(shape, 4, "sdpa", 56), 128 * memory.vision_block_bytes(shape, 4, "sdpa", 64)
    )
    measured = saved_bytes(model, sequence(checkpoint))
    assert estimate - one_layer == pytest.approx(measured, rel=0.08)


def test_activations_of_7b_by_hand():
    """One token of one layer of Qwen2-VL-7B, bf16, FlashAttention: 16h + 4k + 4h + 8f."""
    shape = shapes.shape(model_section())
    assert memory.layer_bytes(shape, 2, "flash_attention_2", 0) == 20 * 3584 + 4 * 512 + 8 * 18944
    checkpointed = memory.activations(shape, Setup(), 1, 1000, 0)
    inputs, one = 28 * 1000 * 2 * 3584, 1000 * (20 * 3584 + 4 * 512 + 8 * 18944)
    assert checkpointed == inputs + one + 1000 * 8 * 3584


def test_kv_cache(checkpoint):
    shape = shapes.shape(model_section())
    assert memory.kv_cache(shape, 2, 1, 1) == 57_344  # 2 · 28 layers · 512 · 2 bytes
    section = model_section(checkpoint, dtype="float32", attention="sdpa")
    with torch.no_grad():
        cache = loading.load_model(section)(**sequence(checkpoint), use_cache=True).past_key_values
    real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert memory.kv_cache(shapes.shape(section), 4, 2, 56) == real


def test_head():
    shape = shapes.shape(model_section())
    fused = memory.head(shape, Setup(), 40960)
    assert fused == 4096 * 32768 * 2 + 4 * 40960 * 3584 + 4 * 152064 * 3584
    assert memory.head(shape, Setup(), 40960, fused=False) == 40960 * 152064 * 14
    assert memory.head(shapes.shape(model_section(lora=LoraSection())), Setup(), 1) < 4 * 32768 + 4 * 3584


def test_deepspeeds_buffers_by_hand():
    """Buckets of h² elements in bf16: two and a copy, or one, a copy and 1e9 gathered weights; whole for a head."""
    shape, bucket = shapes.shape(model_section()), 2 * 3584**2
    buffers = {zero: memory.states(shape, Setup(zero=zero, processes=8)).buffers for zero in (0, 1, 2, 3)}
    assert buffers == {0: 2 * SEVEN_B, 1: 3 * bucket, 2: 3 * bucket, 3: 2 * bucket + 2 * 10**9}
    head = dataclasses.replace(shape, trainable=dict.fromkeys(shape.trainable, 0) | {"language_model": 3584})
    assert memory.states(head, Setup(zero=2, processes=8)).buffers == 2 * bucket + 2 * 3584


def test_flash_attentions_backward_pass_by_hand():
    """flash_api.cpp: r1's 10 completions of 4,096 tokens for 2 prompts of 256 + 1,337 are 12 sequences."""
    queries, keys = 2 * 1593 + 10 * 4096, 2 * 1593 + 10 * (1593 + 4096)
    accumulator = 4 * (queries + 12 * 128) * 28 * (128 + 1)  # dq, and softmax_d
    expanded = 2 * keys * 28 * 128 * 2  # dk and dv for 28 heads instead of 4
    found = memory.flash_backward(28, 3584, queries, keys, sequences=12, b=2, grouped=True)
    assert found == accumulator + expanded
    assert (accumulator / memory.GIB, expanded / memory.GIB) == (
        pytest.approx(0.61, abs=0.01),
        pytest.approx(0.80, abs=0.01),
    )
    # the vision tower: 16 heads of 80, which are rounded up to 96; each has its own keys
    assert memory.flash_backward(16, 1280, 4096, 4096, 1, 2, grouped=False) == 4 * (4096 + 128) * 16 * (96 + 1)
    # deterministic: 148 multiprocessors over 28 heads of one sequence are 6 splits; 12 sequences fill them all
    assert memory.flash_backward(28, 3584, 100, 100, 1, 2, False, True) == 4 * 228 * 28 * (6 * 128 + 1)
    assert memory.flash_backward(28, 3584, queries, keys, 12, 2, True, True) == found


def test_the_widest_moment_of_the_backward_pass():
    """In an MLP at r1's lengths; in attention for 32 short answers to one long prompt, whose keys each of them has."""
    long = training(job(share_prefix=True))
    tokens = 2 * 1593 + 10 * 4096
    assert long.phases["update"]["backward working set"] == 3 * 2 * tokens * 18944
    short = training(job(share_prefix=True, per_device_batch=32, group=32, completion_tokens=16))
    queries, keys = 1593 + 32 * 16, 1593 + 32 * (1593 + 16)
    flash = memory.flash_backward(28, 3584, queries, keys, 33, 2, True)
    assert short.phases["update"]["backward working set"] == 4 * (queries * 3584 + keys * 512) + flash
    assert flash > 3 * 2 * queries * 18944
    assert any(note.startswith("backward working set, the widest of: attention 0.") for note in short.notes)
    plain = training(job(share_prefix=True, model=model_section(attention="sdpa"), completion_tokens=16))
    assert plain.phases["update"]["backward working set"] < short.phases["update"]["backward working set"]


def test_host_memory():
    """The checkpoint's files in the page cache, 2 bytes a parameter; ZeRO-3's first process alone; without DeepSpeed a
    float32 copy in each process of the reference model, or of a score model that is begun."""
    shape, whole = shapes.shape(model_section()), 2 * SEVEN_B
    assert memory.host(shape, Setup(zero=2, processes=16), reference=True) == memory.Host(0, whole, 0)
    plain = Setup(zero=0, processes=16, weight_bytes=4)
    assert memory.host(shape, plain) == memory.host(shape, Setup(zero=0, weight_bytes=4), reference=True)
    assert memory.host(shape, plain, reference=True) == memory.Host(2 * whole, 17 * whole, 0)
    assert memory.host(shape, plain, begun=True) == memory.Host(2 * whole, 17 * whole, 0)
    assert memory.host(shape, Setup(zero=3, processes=8), reference=True) == memory.Host(whole, whole, 0)
    assert memory.host(shape, Setup(zero=2, processes=8, offload=True)).training == 14 * SEVEN_B // 8
