"""What a downloaded checkpoint may not do: be a pickle, point elsewhere, or bring code. Each attack leaves a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import trl
from safetensors.torch import load_file

from rewards.prefer.embeddings import ClipVectors
from rewards.score import ScoreModel
from rewards.select.clip import ClipScorer
from rl.arguments import safetensors_only
from tests.support.scores import tiny_clip
from tests.support.tiny_checkpoints import pixels, section
from vlm import adapters, loading
from vlm.common.errors import RecipeError


class Payload:
    """Unpickling it makes the file `trace`."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    """Where attacks leave their file; at the end none may have."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists(), "code of the checkpoint ran"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("scorer")
    ScoreModel.from_backbone(tiny_model, dtype="float32").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip.build(tmp_path_factory.mktemp("clip"))


def grpo_by_name(folder):
    safetensors_only(folder, [], trl.GRPOConfig(beta=0.1, report_to="none", bf16=False))


LOADERS = {
    "vlm": ("tiny_model", lambda folder: loading.load_model(section(folder))),
    "grpo by name": ("tiny_model", grpo_by_name),
    "score model": ("scorer", ScoreModel.from_pretrained),
    "score backbone": ("tiny_model", ScoreModel.from_backbone),
    "best-of-N clip": ("clip", ClipScorer),
    "dedup clip": ("clip", ClipVectors),
}
"""name → (fixture of a sound checkpoint, what loads it)."""


@pytest.fixture(params=LOADERS)
def loaded(request, tmp_path):
    """(a copy of a sound checkpoint, what loads it)."""
    fixture, load = LOADERS[request.param]
    folder = tmp_path / "checkpoint"
    shutil.copytree(request.getfixturevalue(fixture), folder)
    return folder, lambda: load(str(folder))


def poisoned(folder: Path, name: str, trace: Path) -> None:
    """Put a pickle with a payload in place of the weights, in the oldest format, which torch.load unpickles whole."""
    tensors = load_file(folder / "model.safetensors")
    torch.save({**tensors, "zzz": Payload(trace)}, folder / name, _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()


def test_the_payload_works(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    poisoned(folder, "pytorch_model.bin", tmp_path / "ran")
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_pickle_is_never_opened(loaded, trace):
    folder, load = loaded
    poisoned(folder, "pytorch_model.bin", trace)
    with pytest.raises(RecipeError, match="pytorch_model.bin is a pickle.*take a revision .* that has safetensors"):
        load()


def test_a_configuration_cannot_name_a_pickle(loaded, trace):
    """transformers lets `transformers_weights: adapter_model.bin` through even with `use_safetensors=True`."""
    folder, load = loaded
    poisoned(folder, "adapter_model.bin", trace)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    with pytest.raises(RecipeError, match="config.json .* names the weights 'adapter_model.bin'"):
        load()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../elsewhere/model.safetensors"])
def test_an_index_cannot_name_a_pickle_or_another_folder(loaded, trace, shard):
    folder, load = loaded
    names = list(load_file(folder / "model.safetensors"))
    poisoned(folder, "pytorch_model.bin", trace)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RecipeError, match="index.json .* names the shard") as caught:
        load()
    assert shard in str(caught.value)


@pytest.mark.parametrize("name", [name for name in LOADERS if name != "grpo by name"])
def test_damaged_weights_are_named(name, request, tmp_path):
    fixture, load = LOADERS[name]
    folder = Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / "checkpoint"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RecipeError, match="damaged or cut short"):
        load(str(folder))


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """A LoRA adapter of the tiny model, as PEFT saves it."""
    from peft import LoraConfig, get_peft_model

    model = loading.load_model(section(tiny_model))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_that_is_a_pickle(adapter, trace):
    (adapter / "adapter_model.safetensors").rename(adapter / "model.safetensors")
    poisoned(adapter, "adapter_model.bin", trace)
    with pytest.raises(RecipeError, match="adapter_model.bin is a pickle, and there is no adapter_model.safetensors"):
        adapters.merge(str(adapter), str(adapter.parent / "merged"))


def test_an_adapter_cannot_have_a_module_imported(adapter, trace, monkeypatch):
    (adapter.parent / "chosen_by_them.py").write_text(f"open({str(trace)!r}, 'w')")
    monkeypatch.syspath_prepend(adapter.parent)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings |= {"megatron_config": {"a": 1}, "megatron_core": "chosen_by_them"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(RecipeError, match="megatron_config"):
        adapters.merge(str(adapter), str(adapter.parent / "merged"))


def bring_code(source, target: Path, trace: Path) -> Path:
    """A copy of a checkpoint that comes with a tokenizer of its own, whose import makes the file `trace`."""
    folder = Path(shutil.copytree(source, target))
    # a class of its own: transformers marks the class that it loads, and would mark its stock one for all later tests
    code = f"open({str(trace)!r}, 'w')\nfrom transformers import Qwen2Tokenizer\nclass Own(Qwen2Tokenizer):\n    pass\n"
    (folder / "own.py").write_text(code)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_code_of_a_checkpoint_is_off(tiny_model, scorer, clip, tmp_path, trace, monkeypatch):
    """Nor is anybody asked: transformers would wait for an answer on the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    loading.load_processor(str(bring_code(tiny_model, tmp_path / "vlm", trace)), pixels())
    ScoreModel.from_pretrained(bring_code(scorer, tmp_path / "scorer", trace))
    folder = str(bring_code(clip, tmp_path / "clip", trace))
    ClipScorer(folder)
    ClipVectors(folder)


def test_code_of_a_checkpoint_runs_where_the_recipe_says_so(tiny_model, tmp_path, monkeypatch):
    """Without this the test above would prove nothing."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = bring_code(tiny_model, tmp_path / "vlm", tmp_path / "ran")
    loading.load_processor(str(folder), pixels(), trust_remote_code=True)
    assert (tmp_path / "ran").exists()
