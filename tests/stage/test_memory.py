"""Planned memory: states by hand and by torch.optim, activations against torch's saved tensors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from demo import tiny
from stage.planning import memory
from stage.planning.estimate import DTYPE_BYTES, training
from stage.planning.memory import Setup
from tests.support.runs.measured import KINDS, ROWS, WORDS, batch, small
from tests.support.runs.plan_jobs import SEVEN_B, job, model_section
from tests.support.runs.saved import saved_bytes
from vlm import families, loading, shapes
from vlm.adapters import apply_lora, freeze
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_against_torchs_saved_tensors(kind, attention, dtype, tmp_path):
    """Formula / measured, without checkpointing, of the whole backbone and with a frozen vision tower: within 3%."""
    model, section = small(kind, tmp_path, dtype, attention)
    inputs, visual = batch(model)
    setup = Setup(weight_bytes=DTYPE_BYTES[dtype], checkpointing=False, attention=attention)
    for frozen in ([], ["vision_tower", "merger"]):
        freeze(model, frozen)
        shape = shapes.shape(section.model_copy(update={"freeze": frozen}))
        planned = memory.activations(shape, setup, rows=ROWS, text_tokens=WORDS, visual_tokens=visual)
        assert planned == pytest.approx(saved_bytes(model, inputs), rel=0.03), frozen


@pytest.mark.parametrize("kind", KINDS)
def test_activations_with_lora(kind, tmp_path):
    lora = LoraSection(r=2, dropout=0.1, target_modules=list(families.FAMILIES[kind].linears))
    model, section = small(kind, tmp_path, "float32", "sdpa", lora=lora)
    inputs, visual = batch(model)
    model = apply_lora(model, lora)
    setup = Setup(weight_bytes=4, checkpointing=False, attention="sdpa", lora=True, lora_dropout=True)
    planned = memory.activations(shapes.shape(section), setup, rows=ROWS, text_tokens=WORDS, visual_tokens=visual)
    measured = saved_bytes(model, inputs)
    # Frozen linears do not keep their inputs, which the formula counts; nor do experts, which have no adapters.
    assert measured < planned < (1.35 if kind == "qwen3_vl_moe" else 1.25) * measured


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointed_activations(kind, tmp_path):
    """Checkpointing keeps each layer's input; the rest of the formula is one layer at a time."""
    model, section = small(kind, tmp_path, "float32", "sdpa")
    inputs, visual = batch(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    shape = shapes.shape(section)
    setup = Setup(weight_bytes=4, checkpointing=True, attention="sdpa")
    planned = memory.activations(shape, setup, rows=ROWS, text_tokens=WORDS, visual_tokens=visual)
    tokens, patches = WORDS + visual, memory.tower_places(shape, visual)
    layer = tokens * memory.layer_bytes(shape, 4, "sdpa", tokens)
    one_layer = ROWS * max(layer, patches * memory.vision_block_bytes(shape, 4, "sdpa", patches))
    read_by_the_head = ROWS * tokens * 4 * shape.hidden
    assert planned - one_layer - read_by_the_head == pytest.approx(saved_bytes(model, inputs), rel=0.02)


def test_activations_of_7b_by_hand():
    """One token of one layer of Qwen2-VL-7B, bf16, FlashAttention: 16h + 4k + 4q + 8f, q = h."""
    shape = shapes.shape(model_section())
    assert memory.layer_bytes(shape, 2, "flash_attention_2", 0) == 20 * 3584 + 4 * 512 + 8 * 18944
    checkpointed = memory.activations(shape, Setup(), 1, 1000, 0)
    inputs, one = 28 * 1000 * 2 * 3584, 1000 * (20 * 3584 + 4 * 512 + 8 * 18944)
    assert checkpointed == inputs + one + 1000 * 8 * 3584


def test_kv_cache(tmp_path):
    shape = shapes.shape(model_section())
    assert memory.kv_cache(shape, 2, 1, 1) == 57_344  # 2 · 28 layers · 512 · 2 bytes
    for kind in ("qwen2_vl", "qwen3_vl"):  # the latter's heads are wider than its hidden size would have them
        model, section = small(kind, tmp_path, "float32", "sdpa")
        inputs, visual = batch(model)
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
        real = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
        assert memory.kv_cache(shapes.shape(section), 4, ROWS, WORDS + visual) == real


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
