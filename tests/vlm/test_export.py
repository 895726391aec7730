"""Checkpoints in the layout of transformers 4: what files hold. by_hand/transformers_4.py runs that version."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from tests.project.test_layering import ROOT
from tests.support.tiny_checkpoints import forward, pixels, section
from vlm import export, loading
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions

BASE = ROOT / "demo" / "base"
SPECIAL = ["im_end", "endoftext", "im_start", "object_ref_start", "object_ref_end", "box_start", "box_end"]
SPECIAL = [f"<|{name}|>" for name in [*SPECIAL, "quad_start", "quad_end"]]
SPECIAL += [f"<|{name}|>" for name in ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Of a run folder, whose final/ is the demo's base."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "final").symlink_to(BASE)
    export.export(str(folder), str(folder / "out"))
    return folder / "out"


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_the_config_is_flat_and_names_the_rotation_as_version_4_does(exported):
    config = read(exported, "config.json")
    assert config["rope_scaling"] == {"type": "mrope", "mrope_section": [8, 8, 8]} and config["rope_theta"] == 1e6
    assert config["torch_dtype"] == "bfloat16" and config["model_type"] == "qwen2_vl"
    assert (config["hidden_size"], config["vocab_size"], config["num_key_value_heads"]) == (192, 492, 2)
    assert config["vision_config"]["embed_dim"] == 128
    text = json.dumps(config)
    assert not any(word in text for word in ("rope_parameters", "text_config", "qwen2_vl_text", "5.23"))


def test_other_scalings_keep_their_numbers_and_what_version_4_cannot_say_is_refused():
    text = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "mrope_section": [2, 3, 3]}}
    config = {"model_type": "qwen2_vl", "text_config": text, "vision_config": {}}
    found = export.flat(config, "float32")
    assert found["rope_scaling"] == {"type": "yarn", "factor": 4.0, "mrope_section": [2, 3, 3]}
    assert found["rope_theta"] == 5e5
    config["vision_config"] = {"rope_parameters": {"rope_theta": 500.0}}
    with pytest.raises(RecipeError, match="rope_theta 500.0; transformers 4 knows 10000 only"):
        export.flat(config, "float32")


def test_weights_have_their_published_names_and_their_bytes(exported):
    with safe_open(exported / "model.safetensors", "pt") as new, safe_open(BASE / "model.safetensors", "pt") as old:
        names = set(old.keys())
        assert set(new.keys()) == names
        assert all(
            name.startswith(("model.layers.", "model.embed", "model.norm", "visual.", "lm_head")) for name in names
        )
        assert all(torch.equal(new.get_tensor(name), old.get_tensor(name)) for name in names)


def test_images_and_tokens_are_where_version_4_looks(exported):
    images = read(exported, "preprocessor_config.json")
    assert (images["min_pixels"], images["max_pixels"], images["patch_size"]) == (12544, 12544, 14)
    assert images["image_processor_type"] == "Qwen2VLImageProcessor"
    tokenizer = read(exported, "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "Qwen2Tokenizer" and "extra_special_tokens" not in tokenizer
    assert tokenizer["added_tokens_decoder"]["490"]["content"] == "<|image_pad|>"
    assert "<|im_start|>" in tokenizer["chat_template"] == read(exported, "chat_template.json")["chat_template"]
    named = read(exported, "special_tokens_map.json")
    assert (named["eos_token"], named["pad_token"]) == ("<|im_end|>", "<|endoftext|>") and "bos_token" not in named
    assert named["additional_special_tokens"] == tokenizer["additional_special_tokens"] == SPECIAL
    assert read(exported, "added_tokens.json") == {token: 478 + place for place, token in enumerate(SPECIAL)}
    vocabulary = read(exported, "vocab.json")
    assert sorted(vocabulary.values()) == list(range(478))
    assert len((exported / "merges.txt").read_text().splitlines()) == 478 - 256 + 1  # the first line: the version
    assert not {"processor_config.json", "chat_template.jinja"} & {path.name for path in exported.iterdir()}


def test_it_is_loaded_here_too(exported):
    with torch.no_grad():
        old, new = (
            forward(loading.load_model(section(folder)).eval(), loading.load_processor(str(folder), pixels()))
            for folder in (BASE, exported)
        )
    assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("kind", "name"), [("qwen3_vl", "Qwen3-VL"), ("internvl", "InternVL3"), ("idefics3", "idefics3")]
)
def test_other_families_are_refused_by_name(family_checkpoints, tmp_path, kind, name):
    with pytest.raises(RecipeError, match=f"holds {name}: .* for Qwen2[^;]* only. transformers 5"):
        export.export(family_checkpoints(kind), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_adapters_and_full_folders_are_refused(exported, tmp_path, capsys, monkeypatch):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="merge it into its base first: python -m vlm.adapters"):
        export.export(str(tmp_path), str(tmp_path / "out"))
    monkeypatch.setattr("sys.argv", ["export", str(BASE), str(exported)])
    assert export.main() == 2
    assert capsys.readouterr().err == f"error: {exported} holds files already; expected a new folder to write into\n"
