"""Loading and saving score models: strict keys, both layouts, positions, processor, dtype."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rewards.score import Exchange, ScoreModel
from rewards.score.model.layout import check_stored
from tests.support.tiny_checkpoints import picture, qwen2_5_vl
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions

CHECKPOINT = Path(__file__).parents[1] / "golden" / "scorers" / "checkpoint"
EXCHANGES = [Exchange.of("How many?", "Two.", [picture(80, 60)]), Exchange.of("Where?", "In Rome.")]


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def backbone(request, tmp_path_factory, tiny_model, family_checkpoints):
    if request.param == "qwen3_vl":
        return family_checkpoints("qwen3_vl")
    return tiny_model if request.param == "qwen2_vl" else str(qwen2_5_vl(tmp_path_factory, tiny_model))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("saved")
    ScoreModel.from_backbone(tiny_model, dtype="float32").save_pretrained(folder)
    return folder


def rewrite(folder, out, change):
    """Copy a checkpoint with its tensors changed."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    (out / "model.safetensors").chmod(0o644)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def test_saving_and_loading(backbone, tmp_path):
    model = ScoreModel.from_backbone(backbone, dtype="float32")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["positions"] == "mrope" and config["architectures"] == ["ScoreModel"]
    again = ScoreModel.from_pretrained(tmp_path)
    own, read = model.state_dict(), again.state_dict()
    assert own.keys() == read.keys() and all(torch.equal(read[name], tensor) for name, tensor in own.items())
    # not bit for bit: weights that are read lie elsewhere in memory, and some CPUs' kernels round by that
    assert again.score(EXCHANGES) == pytest.approx(model.score(EXCHANGES), rel=1e-5)
    assert again.processor.image_processor.size == model.processor.image_processor.size
    # Trainer resumes by plain names, with strict=False: every one of them has to fit
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    again.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == stored.keys()
    # by the headers alone, as dry runs and services look at it; the names of transformers 4, too
    assert check_stored(str(tmp_path)) == f"its config.json, {len(stored)} tensors, head and tokenizer fit"
    old = {re.sub(r"^model\.(?=visual)|language_model\.", "", name): tensor for name, tensor in stored.items()}
    assert {name.split(".")[0] for name in old} == {"visual", "model", "reward_head"}
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert check_stored(str(tmp_path)) == f"its config.json, {len(stored)} tensors, head and tokenizer fit"
    loaded = ScoreModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_the_published_layout_is_saved_as_ours(tmp_path):
    model = ScoreModel.from_pretrained(CHECKPOINT, positions="sequential")
    published = load_file(CHECKPOINT / "model.safetensors")
    new = {"visual": "model.visual", "model": "model.language_model", "reward_head": "reward_head"}
    expected = {new[key.split(".")[0]] + key[key.index(".") :]: value for key, value in published.items()}
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    model.save_pretrained(tmp_path)
    again = ScoreModel.from_pretrained(tmp_path)
    assert again.config.positions == "sequential"
    assert all(torch.equal(again.state_dict()[key], expected[key]) for key in expected)


@pytest.mark.parametrize("layout", ["published", "ours"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("reward_head.weight"), "lacks 1 tensors .reward_head.weight"),
        (
            lambda t: t.pop(next(k for k in t if "merger.ln_q.bias" in k)),
            "lacks 1 tensors .model.visual.merger.ln_q.bias",
        ),
        (
            lambda t: t.pop(next(k for k in t if "layers.1.mlp.up_proj" in k)),
            "lacks 1 tensors .model.language_model.layers.1.mlp.up_proj.weight",
        ),
        (lambda t: t.update({"reward_head.bias": torch.zeros(1)}), "has no place for 1 tensors .reward_head.bias"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(2, 2)}), "has no place for 1 tensors .lm_head.weight"),
        (
            lambda t: (t.pop("reward_head.weight"), t.update({"lm_head.weight": torch.zeros(2, 2)})),
            "is a plain vision-language model",
        ),
        (lambda t: t.update({"reward_head.weight": torch.zeros(1, 3)}), "shapes differ"),
    ],
)
def test_keys_are_checked(saved, tmp_path, layout, change, message):
    rewrite(CHECKPOINT if layout == "published" else saved, tmp_path, change)
    with pytest.raises(RecipeError, match=message):
        ScoreModel.from_pretrained(tmp_path)


def test_pickles_are_never_opened(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(saved / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="pytorch_model.bin is a pickle"):
        ScoreModel.from_pretrained(tmp_path)


def test_positions(saved, tiny_model, caplog):
    with caplog.at_level(logging.INFO, logger="rewards.score.model.layout"):
        assert ScoreModel.from_pretrained(CHECKPOINT).config.positions == "sequential"
        assert "does not say its positions; taking 'sequential'" in caplog.text
        caplog.clear()
        assert ScoreModel.from_pretrained(saved).config.positions == "mrope"
        assert not [one for one in caplog.records if one.name == "rewards.score.model.layout"]
        assert ScoreModel.from_pretrained(saved, "sequential").config.positions == "sequential"
        assert "was trained with positions 'mrope', and is used with 'sequential'" in caplog.text
    with pytest.raises(RecipeError, match="positions 'rope'; expected 'mrope' or 'sequential'"):
        ScoreModel.from_pretrained(saved, "rope")
    assert ScoreModel.from_backbone(tiny_model, "sequential").config.positions == "sequential"


def test_a_backbone_gets_a_seeded_head(tiny_model, saved):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    heads = [ScoreModel.from_backbone(tiny_model, seed=seed).reward_head.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(2), expected)  # the caller's random numbers are left alone
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(193**-0.5, rel=0.2)
    with pytest.raises(RecipeError, match="has a reward head already"):
        ScoreModel.from_backbone(saved)


def test_wrong_checkpoints(tmp_path, saved):
    with pytest.raises(RecipeError, match="no folder /nowhere/scorer"):
        ScoreModel.from_pretrained("/nowhere/scorer")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "architectures": ["Llava"]}))
    with pytest.raises(RecipeError, match="never tried on LLaVA-1.5; take one of Qwen2-VL, Qwen2.5-VL, Qwen3-VL"):
        ScoreModel.from_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="never tried on LLaVA-1.5"):
        ScoreModel.from_backbone(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}))
    with pytest.raises(RecipeError, match="model_type 'qwen3' .* no vision_config"):
        ScoreModel.from_pretrained(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<|im_end|>"}))
    with pytest.raises(RecipeError, match="expected two tokens"):
        ScoreModel.from_pretrained(other)
    shutil.copy(saved / "tokenizer_config.json", other)
    (other / "processor_config.json").unlink()
    with pytest.raises(RecipeError, match="has a tokenizer and no image processor"):
        ScoreModel.from_pretrained(other)


def test_dtype_and_pixels(saved):
    assert ScoreModel.from_pretrained(saved).dtype == torch.float32  # as saved
    model = ScoreModel.from_pretrained(
        saved, dtype="bfloat16", attention="eager", min_pixels=28 * 28, max_pixels=56 * 56
    )
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    assert model.processor.image_processor.size == {"shortest_edge": 784, "longest_edge": 3136}
    assert ScoreModel.from_pretrained(saved, dtype=torch.bfloat16, device="cpu").device.type == "cpu"
    with pytest.raises(
        RecipeError, match="images: min_pixels 99999 and max_pixels 12544; expected 0 < min_pixels <= max_pixels"
    ):
        ScoreModel.from_pretrained(saved, min_pixels=99999)
