"""How many rows are decoded at a time: the arithmetic by hand, what bounds it, and what recipes and dry runs say."""

from pathlib import Path

import pytest
import torch

from evals.recipe import EvalRecipe
from rewards.select.recipe import BonRecipe
from samples import Sample
from stage.planning import decoding, memory
from stage.planning.decoding import GIB, Decoding
from stage.recipe import config
from tests.support.processes.commands import ROOT
from vlm.common.errors import RecipeError
from vlm.sections import ModelSection
from vlm.shapes import shape

SEVEN = ModelSection(path="PumpkinCat/Qwen2VL-7B-RS")


def need(group=1, visual=1337, text=263, new=1024, **setup):
    return Decoding(shape(SEVEN), memory.Setup(**setup), text, visual, new, group)


def bytes_by_hand(rows, prompts, shared):
    """Qwen2-VL-7B in bf16; 28 layers of keys and values 512 wide; a prompt of 1,337 + 263 tokens, 1,024 new ones."""
    cache = 28 * 2 * 512 * 2 * (rows * (1600 + 1024) + (prompts * 1600 if shared else 0))
    prefill = prompts * 1600 * 2 * (3 * 18944 + 4 * 3584)
    vision = prompts * 4 * 1337 * 2 * (3 * 5120 + 4 * 1280)
    pixels = prompts * 4 * 1337 * (3 * 2 * 14 * 14) * 4
    return cache + max(prefill, vision) + pixels + 12 * rows * 152064


@pytest.mark.parametrize(("rows", "prompts", "group"), [(1, 1, 1), (40, 40, 1), (64, 1, 64), (256, 4, 64)])
def test_bytes_by_hand(rows, prompts, group):
    found = need(group)
    assert sum(found.parts(rows).values()) == bytes_by_hand(rows, prompts, shared=group > 1)
    assert found.weights == 2 * 8_291_375_616
    assert found.peak(rows) == found.weights + bytes_by_hand(rows, prompts, group > 1) + 2 * GIB


@pytest.mark.parametrize("rows", [1, 7, 31, 64])
def test_the_most_that_fit(rows):
    room = bytes_by_hand(rows, rows, shared=False)
    assert need().most(room) == rows
    assert need().most(room - 1) == max(1, rows - 1)


def test_groups_are_whole_or_in_equal_parts():
    """Of room for 200 rows: 3 × 64. For 40: 2 loops of 32. For 30: 3 loops of 22. For 1: 64."""
    one = need(64)

    def fits(rows):
        return one.most(sum(one.parts(rows).values()))

    assert [fits(rows) for rows in (200, 40, 30, 1)] == [192, 32, 22, 1]
    assert [one.loops(size) for size in (192, 64, 32, 22, 1)] == [1, 1, 2, 3, 64]


def test_bounds_where_memory_has_none():
    """256 rows; 85 pictures of 1,337 tokens, whose pixels in float32 take 24 MiB, are 4 GiB when held twice."""
    assert need().most(2**50) == 85 == 4 * GIB // (2 * 4 * 1337 * 4 * 1176)
    assert need(visual=0).most(2**50) == need(64).most(2**50) == 256
    assert need(100).most(2**50) == 200 and need(300).most(2**50) == 150


def test_eager_attention_keeps_scores():
    plain, eager = (sum(need(attention=kind).parts(4).values()) for kind in ("sdpa", "eager"))
    scores = 4 * 16 * (4 * 1337) ** 2 * 6  # 16 heads of the vision tower: float32, and a copy in 16 bits
    vision = 4 * 4 * 1337 * 2 * (3 * 5120 + 4 * 1280)
    prefill = 4 * 1600 * 2 * (3 * 18944 + 4 * 3584)
    assert eager - plain == vision + scores - max(prefill, vision)


def card(monkeypatch, free, total, reserved=0, allocated=0):
    monkeypatch.setattr(decoding, "device", lambda: "cuda:0")
    for name, value in {
        "mem_get_info": (free, total),
        "memory_reserved": reserved,
        "memory_allocated": allocated,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda place, value=value: value)


def test_room_on_a_card(monkeypatch):
    """80 GiB, of which others hold 20: 60 free, less a tenth of the card, our allowance of 2, and the weights."""
    card(monkeypatch, 60 * GIB, 80 * GIB)
    assert decoding.room(10 * GIB) == pytest.approx((60 - 8 - 2 - 10) * GIB)
    card(monkeypatch, 40 * GIB, 80 * GIB, reserved=20 * GIB, allocated=15 * GIB)  # 5 are cached by this process
    assert decoding.room(0) == pytest.approx((45 - 8 - 2) * GIB)
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "device", lambda: "cpu")
    assert decoding.room(99 * GIB) == 4 * GIB


def recipe(kind, *changes):
    file = {EvalRecipe: "eval", BonRecipe: "bon"}[kind]
    return config.load(ROOT / f"recipes/{file}.yaml", kind, [f"model.path={ROOT / 'demo/base'}", *changes])


def questions(count=3):
    turn = {"role": "user", "content": "How many ships?"}
    return [Sample(["a.png"], [turn], "vqa", answer="2", source="q", id=str(n)) for n in range(count)]


def test_what_a_run_takes(monkeypatch):
    for changes, before, size in [
        (["generation.batch_size=7"], 5, 7),  # what the recipe states
        ([], 5, 5),  # what this run took before it was interrupted
        (["generation.backend=vllm"], None, 256),
    ]:
        assert decoding.batch_size(recipe(EvalRecipe, *changes), questions(), before=before) == size
    monkeypatch.setattr(decoding, "room", lambda weights: 2**50 if weights == 0 else 0)
    assert decoding.batch_size(recipe(EvalRecipe), questions()) == 1
    assert decoding.batch_size(recipe(EvalRecipe), questions(), loaded=True) == 85
    assert decoding.batch_size(recipe(EvalRecipe, "images.max_pixels=262144"), questions(), loaded=True) == 256
    monkeypatch.setattr(decoding, "gather", lambda mine: [mine, 40, 60])  # other processes have less room
    assert decoding.batch_size(recipe(EvalRecipe), questions(), loaded=True) == 40


@pytest.mark.parametrize("section", ["generation", "scorer"])
def test_sizes_that_cannot_be(section):
    for kind in (EvalRecipe, BonRecipe)[section == "scorer" :]:
        with pytest.raises(RecipeError, match="batch_size = 0; expected at least 1, or auto"):
            recipe(kind, f"{section}.batch_size=0")
        with pytest.raises(RecipeError, match="batch_size"):
            recipe(kind, f"{section}.batch_size=all")


def planned(started, name, *changes):
    more = ("model.path=PumpkinCat/Qwen2VL-7B-RS", "data.eval.0.limit=1000", *changes, "--dry-run")
    return started(f"launch/{name}.py", ROOT / f"recipes/{name}.yaml", *more)


def test_dry_runs(started, tmp_path, monkeypatch):
    """64 answers in one loop on 40 GB, and four questions' on 80 GB; 125 questions a process in two batches."""
    monkeypatch.chdir(Path(ROOT))
    said = planned(started, "bon", "gpus=A100-40G")
    assert "64 rows at a time (generation.batch_size: auto): 1000 batches" in said
    assert "64 answers to a question in 1 loop\n" in said and "fits: the 39.4 GiB of 1×A100-40G" in said
    said = planned(started, "bon", "gpus=8xA100-80G")
    assert "256 rows at a time (generation.batch_size: auto): 32 batches in each of 8 processes" in said
    assert "64 answers to a question in 1 loop, 4 questions at a time" in said
    said = planned(started, "eval", "gpus=8xA100-80G")
    assert "85 rows at a time (generation.batch_size: auto): 2 batches in each of 8 processes" in said
    assert "GiB of a GPU: weights 15.44, KV cache " in said and "peak " in said
    said = planned(started, "eval", "gpus=T4")
    assert "1 row at a time" in said and "does not fit: the 14.6 GiB of 1×T4-16G; lower generation.batch_size" in said
    said = planned(started, "eval", "gpus=null", "generation.batch_size=16")
    assert "16 rows at a time (generation.batch_size: 16): 63 batches\n" in said and "name the target (gpus=" in said
    assert "on a CPU auto is 10 rows" in planned(started, "eval", "gpus=null")
    said = started("launch/eval.py", ROOT / "recipes/eval.yaml", "model.path=runs/x", "--dry-run")
    assert "note: generation.batch_size: auto: batches are not planned: model.path: no folder runs/x" in said
