"""Loading a model: its weights to the letter, wrong paths, and the attention that can run here."""

from __future__ import annotations

import json
import logging
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_checkpoints import forward, pixels, qwen2_5_vl, qwen2_vl, section
from vlm import loading
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return qwen2_vl(tmp_path_factory)


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    return qwen2_5_vl(tmp_path_factory, checkpoint)


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_load_model(family, request):
    folder = request.getfixturevalue(family)
    model = loading.load_model(section(folder, dtype="bfloat16"))
    stored = load_file(folder / "model.safetensors")
    assert next(iter(model.parameters())).dtype == torch.bfloat16
    assert model.config._attn_implementation == "sdpa"
    embedding = next(value for key, value in stored.items() if key.endswith("embed_tokens.weight"))
    torch.testing.assert_close(model.model.language_model.embed_tokens.weight.detach(), embedding.bfloat16())
    logits = forward(loading.load_model(section(folder)), loading.load_processor(str(folder), pixels()))
    assert logits.isfinite().all() and logits.shape[0] == 1


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_weights_go_straight_to_a_device(family, request, monkeypatch):
    """Tensor by tensor from the file, also converted; nothing remains that Trainer or accelerate would ask about."""
    from transformers import PreTrainedModel

    folder, asked, plain = request.getfixturevalue(family), [], PreTrainedModel.from_pretrained.__func__

    def spied(cls, *given, **named):
        asked.append(named.get("device_map"))
        return plain(cls, *given, **named)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(spied))
    for dtype in ("float32", "bfloat16"):
        expected, found = (loading.load_model(section(folder, dtype=dtype), device) for device in (None, "cpu"))
        assert found.state_dict().keys() == expected.state_dict().keys() and not hasattr(found, "hf_device_map")
        assert all(value.equal(found.state_dict()[name]) for name, value in expected.state_dict().items())
        buffers = dict(found.named_buffers())  # positions' frequencies, which no file has
        assert buffers and all(value.equal(buffers[name]) for name, value in expected.named_buffers())
        ties = [model.lm_head.weight is model.get_input_embeddings().weight for model in (expected, found)]
        assert ties[0] == ties[1] == expected.config.tie_word_embeddings
    assert asked == [None, {"": torch.device("cpu")}] * 2
    assert {one.device.type for one in loading.load_model(section(folder), "meta").parameters()} == {"meta"}
    assert loading.placed("mps") == {} and loading.placed(None) == {}


def rewrite(folder, out, change):
    """Copy a checkpoint with its tensors changed."""
    for entry in folder.iterdir():
        (out / entry.name).write_bytes(entry.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop(next(k for k in t if k.endswith("layers.0.mlp.up_proj.weight"))),
            "lacks 1 tensors .*up_proj",
        ),
        (lambda t: t.update({"score.weight": torch.zeros(1, 4)}), "has no place for 1 tensors .score.weight"),
        (lambda t: t.pop("lm_head.weight"), "lacks 1 tensors .lm_head.weight"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(3, 4)}), r"differ: lm_head.weight is \[3, 4\] and by"),
    ],
)
def test_weights_must_match_exactly(checkpoint, tmp_path, change, message):
    rewrite(checkpoint, tmp_path, change)
    with pytest.raises(RecipeError, match=message):
        loading.load_model(section(tmp_path))


def test_a_tied_head_need_not_be_stored(checkpoint_2_5):
    assert "lm_head.weight" not in load_file(checkpoint_2_5 / "model.safetensors")
    model = loading.load_model(section(checkpoint_2_5))
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_wrong_paths(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="no folder /nowhere/model"):
        loading.load_model(section("/nowhere/model"))
    with pytest.raises(RecipeError, match=r"has no config.json \(it holds nothing\)"):
        loading.load_model(section(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match="holds a LoRA adapter.*python -m vlm.adapters"):
        loading.load_model(section(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["Llama"]}))
    with pytest.raises(
        RecipeError,
        match=r"model_type 'llama' .*no vision_config; expected a vision-language model: GLM-4.1V, .*Qwen2-VL",
    ):
        loading.load_model(section(tmp_path))
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)
    with pytest.raises(RecipeError, match="nobody/nothing is no folder here.*hf download nobody/nothing"):
        loading.load_processor("nobody/nothing", pixels())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "qwen2_vl",\n "hidden_size": }', "config.json cannot be read: .*line 2 column 17"),
        ("[1]", "config.json holds list; expected a JSON object"),
        (b"\xff\xfe", "config.json cannot be read: .*utf-8"),
    ],
)
def test_a_broken_config(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError, match=f"model.path: {tmp_path}/{message}"):
        loading.raw_config(str(tmp_path))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, with two revisions of one model."""
    for name, width in {"main": 8, "v1": 16}.items():
        snapshot = tmp_path / "models--nobody--model" / "snapshots" / f"commit-{name}"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen2_vl", "hidden_size": width}))
        refs = tmp_path / "models--nobody--model" / "refs"
        refs.mkdir(exist_ok=True)
        (refs / name).write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)


def test_the_cache_of_the_hub_is_read_first(hub):
    from transformers import PreTrainedConfig

    for revision in (None, "v1"):
        expected, _ = PreTrainedConfig.get_config_dict("nobody/model", revision=revision, local_files_only=True)
        expected.pop("_commit_hash", None)  # transformers 5.17 adds it
        assert loading.raw_config("nobody/model", revision) == expected
    assert loading.raw_config("nobody/model", "v1")["hidden_size"] == 16
    for name, revision in (("nobody/model", "v2"), ("nobody/other", None), ("no name/at all", None)):
        with pytest.raises(RecipeError, match="is no folder here, it is not in the hub cache, and HF_HUB_OFFLINE is"):
            loading.raw_config(name, revision)
    assert loading.at_hand("nobody/model", "config.json").name == "config.json"
    assert loading.at_hand("nobody/model", "tokenizer.json") is None


def test_the_hub_is_asked_where_it_answers(hub, tmp_path, monkeypatch):
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

    client = sys.modules[HTTPError.__module__.partition(".")[0]]  # httpx or httpx2, by the hub's version
    monkeypatch.setattr(loading, "hub_reachable", lambda: True)
    (tmp_path / "fetched.json").write_text('{"model_type": "qwen2_vl"}')
    asked = []

    def download(*positional, **named):
        asked.append((positional, named))
        return str(tmp_path / "fetched.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert loading.raw_config("nobody/other", "v3") == {"model_type": "qwen2_vl"}
    assert asked == [(("nobody/other", "config.json"), {"revision": "v3"})]
    answer = client.Response(404, request=client.Request("GET", "https://hub"))
    said = "404 Client Error. (Request ID: 1)\n\nRepository Not Found for url: https://hub."
    for error in (
        RepositoryNotFoundError(said, response=answer),
        client.ConnectError("Repository Not Found for url: x"),
    ):
        monkeypatch.setattr(
            "huggingface_hub.hf_hub_download", lambda *_, error=error, **__: (_ for _ in ()).throw(error)
        )
        with pytest.raises(
            RecipeError, match="other at revision v3 is neither a folder nor a model .*: Repository Not"
        ):
            loading.raw_config("nobody/other", "v3")


def test_attention_without_a_gpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="there is no CUDA GPU. Set model.attention to sdpa"):
        loading.resolve_attention("flash_attention_2")
    with caplog.at_level(logging.INFO, logger="vlm.loading"):
        assert loading.resolve_attention("auto") == "sdpa"
    assert "auto uses sdpa, not flash_attention_2: there is no CUDA GPU" in caplog.text
    assert [loading.resolve_attention(name) for name in ("sdpa", "eager")] == ["sdpa", "eager"]
    with pytest.raises(RecipeError, match="expected auto"):
        loading.resolve_attention("flash")


def test_attention_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(RecipeError, match="flash-attn 2 is not installed"):
        loading.resolve_attention("flash_attention_2")
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    assert loading.resolve_attention("auto") == "flash_attention_2"
    assert loading.resolve_attention("auto", dtype="float32") == "sdpa"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(RecipeError, match="Ampere GPU or newer, and this is a Tesla T4"):
        loading.resolve_attention("flash_attention_2")


def test_a_tokenizer_beyond_the_embedding(checkpoint, tmp_path):
    """Its ids would end the run at the row that has them."""
    for entry in checkpoint.iterdir():
        (tmp_path / entry.name).write_bytes(entry.read_bytes())
    processor = loading.load_processor(str(checkpoint), pixels())
    size = loading.raw_config(str(checkpoint))["text_config"]["vocab_size"]
    processor.tokenizer.add_tokens([f"<extra{number}>" for number in range(size - len(processor.tokenizer) + 2)])
    processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=rf"has 2 tokens that .* '<extra\d+>' is number {size}, and vocab_size"):
        loading.load_processor(str(tmp_path), pixels())
