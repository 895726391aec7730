"""What a run logs about its cost, against numbers by hand."""

from collections import Counter

import pytest
import torch

from rl.counters import Counters, costs
from rl.sharing.rows import Rows
from stage.metrics import find
from stage.planning.gpus import CARDS, peak_flops
from tests.support.tiny_checkpoints import section
from vlm.adapters import apply_lora, freeze, part_of
from vlm.loading import load_model
from vlm.sections import LoraSection


@pytest.fixture
def model(tiny_model):
    return load_model(section(tiny_model))


def test_a_rollout(model):
    """Two prompts of 5 and 3 tokens, two completions of at most 4: 2 × 5 + 4 × 3 places, of which 8 + 8 hold one."""
    counters, prompts = Counters(model), [[1] * 5] * 2 + [[1] * 3] * 2
    grid = torch.tensor([[1, 4, 4], [1, 4, 8]])
    counters.generated(
        prompts, [[1] * 4, [1] * 2, [1] * 3, [1] * 3], {"image_grid_thw": grid}, first=[0, 2], pictures=2
    )
    counters.sums["time/rollout"], counters.sums["time/generation"] = 1.0, 3.0
    found = counters.take([4.0, 6.0], seen=40)
    assert found["tokens/rollout"] == 22 / 2 and found["tokens/rollout_ideal"] == (8 + 8) / 2
    assert found["padding/rollout"] == pytest.approx(1 - 16 / 22)
    assert (found["images/encoded"], found["images/ideal"]) == (1, 1)
    assert (found["time/rollout"], found["time/preparation"], found["time/update"]) == (0.5, 1.0, 3.5)
    assert found["throughput/tokens"] == 4
    assert not counters.sums and not any(name.startswith(("real/", "flops")) for name in found)
    counters.generated(prompts, [[1] * 4] * 4, {"image_grid_thw": grid.repeat_interleave(2, 0)})
    assert "tokens/rollout_ideal" not in counters.take([1.0], 1)


def test_shares_add_up_to_what_is_unique():
    """Of prompts and pictures, however rows are cut: a picture of two prompts counts once."""
    rows = Rows([0, 0, 0, 1, 1, 2], [[0]] * 3 + [[0, 1]] * 2 + [[]])
    parts = [rows.select(range(start, stop))[0] for start, stop in ((0, 2), (2, 5), (5, 6))]
    shares = [share for part in parts for share in part.shares]
    assert sum(prompt for prompt, _ in shares) == pytest.approx(3)
    assert sum(pictures for _, pictures in shares) == pytest.approx(2)


@pytest.mark.parametrize("setup", ["all weights", "vision frozen", "LoRA"])
def test_flops_of_a_token_and_a_patch(model, setup):
    """2 × weights forward, 6 × in an update of all weights, 4 × under LoRA but for its own, 2 × in a frozen tower."""
    sizes = Counter()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and (part_of(name) != "language_model" or ".layers." in name):
            sizes[part_of(name)] += parameter.numel()
    language, vision = sizes["language_model"], sizes["vision_tower"] + sizes["merger"] / 4
    if setup == "vision frozen":
        freeze(model, ["vision_tower", "merger"])
    adapters = 0
    if setup == "LoRA":
        model = apply_lora(model, LoraSection(r=4, alpha=8, dropout=0.0))
        adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    found = costs(model)
    assert found["forward"] == pytest.approx((2 * (language + adapters), 2 * vision))
    update = {"all weights": (6 * language, 6 * vision), "vision frozen": (6 * language, 2 * vision)}
    assert found["update"] == pytest.approx(update.get(setup, (4 * language + 6 * adapters, 2 * vision)))


def test_utilisation_of_a_gpu(model, monkeypatch):
    """A step of two seconds, half a second's worth of work."""
    for name, value in {"is_available": True, "get_device_name": "NVIDIA A800-SXM4-80GB"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    counters = Counters(model)
    language, vision = counters.costs["update"]
    counters.peak = 2 * (10 * language + 16 * vision)
    counters.passed("update", places=12, tokens=10, shown={"image_grid_thw": torch.tensor([[1, 4, 4]])})
    found = counters.take([2.0], seen=10)
    assert found["throughput/mfu"] == pytest.approx(0.25)
    assert Counters(model).peak == 312e12
    assert all(find(name, "grpo") for name in found)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA RTX A6000", 154.8e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("NVIDIA H20", 148e12),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peaks_by_name(name, flops):
    assert peak_flops(name) == flops


def test_every_known_card_has_a_peak():
    assert not [card for card in CARDS if peak_flops(card.split("-")[0].replace("RTX", "RTX ")) is None]
