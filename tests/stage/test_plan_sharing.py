"""The plan of a run that computes each prompt once: memory of packed rows against torch's saved tensors; by hand."""

from __future__ import annotations

import pytest
import torch

from demo import tiny
from stage.planning import estimate, memory
from stage.planning.job import prompts_of
from stage.planning.memory import Setup
from tests.support.runs.plan_jobs import job, model_section
from tests.support.runs.saved import saved_bytes
from vlm import loading, shapes
from vlm.prefix import enable, pack, rope_positions


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


@pytest.mark.parametrize("group", [1, 6])
def test_a_packed_row_against_torchs_saved_tensors(tmp_path, group):
    """Two prompts of 21 words and 16 visual tokens, `group` answers of 30: formula / measured within 5%."""
    tiny.build(tmp_path, seed=3)
    section = model_section(tmp_path, dtype="float32", attention="sdpa")
    model = loading.load_model(section).train()
    enable(model)
    image = loading.raw_config(str(tmp_path))["image_token_id"]
    grids = torch.tensor([[1, 8, 8]] * 2)
    prompt = torch.tensor([5] * 10 + [image] * 16 + [6] * 11)
    positions = rope_positions(model, [prompt] * 2, [grids[:1]] * 2)
    packed = pack([prompt] * 2, [[torch.arange(10, 40)] * group] * 2, positions)
    pixels = torch.randn(2 * 64, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0))
    measured = saved_bytes(model, {**packed.inputs, "pixel_values": pixels, "image_grid_thw": grids})
    estimate = memory.activations(
        shapes.shape(section),
        Setup(weight_bytes=4, checkpointing=False, attention="sdpa"),
        rows=1,
        text_tokens=2 * (21 + 30 * group),
        visual_tokens=2 * 16,
        gathered=2 * group * (37 + 30),
    )
    assert estimate == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(
    ("rows", "group", "prompts"),
    [(10, 5, 2), (8, 8, 1), (4, 8, 2), (1, 8, 1), (12, 5, 4), (16, 8, 2)],
)
def test_prompts_of_rows_in_a_row(rows, group, prompts):
    """The most over all places where the rows can begin."""
    assert prompts_of(rows, group) == prompts
    assert prompts == (max(len({(start + n) // group for n in range(rows)}) for start in range(group))
                       if rows % group else rows // group)  # fmt: skip


def test_a_shared_plan_needs_less():
    """Prefill and activations of 2 prompts instead of 10; the cache stays, and so does what does not see prompts."""
    plain, shared = (
        estimate.training(job(share_prefix=share, completion_tokens=200)).phases for share in (False, True)
    )
    assert shared["rollout"]["prefill"] == plain["rollout"]["prefill"] / 5
    assert shared["update"]["activations"] < 0.4 * plain["update"]["activations"]
    assert shared["update"]["backward working set"] < 0.4 * plain["update"]["backward working set"]
    for phase, name in (("rollout", "KV cache"), ("update", "loss head"), ("update", "gradients")):
        assert shared[phase][name] == plain[phase][name]
    eager = {"model": model_section(attention="eager"), "completion_tokens": 200}
    assert estimate.training(job(share_prefix=True, **eager)).phases == estimate.training(job(**eager)).phases
