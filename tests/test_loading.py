"""Loading: pixels against an independent computation, strictness, stock files, freezing, LoRA."""

from __future__ import annotations

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from demo import tiny
from vlm import adapters, loading
from vlm.errors import RecipeError

LANGUAGE_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def section(path, **changes):
    fields = {"revision": None, "dtype": "float32", "attention": "sdpa", "trust_remote_code": False}
    return SimpleNamespace(path=str(path), **{**fields, **changes})


def pixels(low=56 * 56, high=112 * 112):
    return SimpleNamespace(min_pixels=low, max_pixels=high)


def lora(**changes):
    fields = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": LANGUAGE_LINEARS}
    return SimpleNamespace(**{**fields, **changes})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen2_vl")
    tiny.build(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def checkpoint_2_5(tmp_path_factory, checkpoint):
    """A tiny Qwen2.5-VL with the tokenizer and image processor of the tiny Qwen2-VL, tied embeddings."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from vlm.processing import Qwen2_5_VLProcessor

    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    base = loading.raw_config(str(checkpoint))
    text = {
        key: value for key, value in base["text_config"].items() if key not in ("model_type", "tie_word_embeddings")
    }
    vision = {
        "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2,
        "out_hidden_size": text["hidden_size"],
        "window_size": 56, "fullatt_block_indexes": [1],
    }  # fmt: skip
    ids = {key: base[key] for key in base if key.endswith("_token_id")}
    torch.manual_seed(2)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    stock = loading.load_processor(str(checkpoint), pixels())
    Qwen2_5_VLProcessor(stock.image_processor, stock.tokenizer, stock.chat_template).save_pretrained(folder)
    return folder


def picture(width, height, mode="RGB", seed=0):
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(noise.squeeze(), mode)


def expected_patches(image, low, high):
    """Qwen2-VL preprocessing written out from its paper and model card, with loops where transformers
    reshapes."""
    if image.mode == "RGBA":  # transparency shows white
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    width, height = image.size
    w, h = round(width / 28) * 28, round(height / 28) * 28
    if w * h > high:
        shrink = math.sqrt(width * height / high)
        w, h = max(28, int(width / shrink / 28) * 28), max(28, int(height / shrink / 28) * 28)
    elif w * h < low:
        grow = math.sqrt(low / (width * height))
        w, h = math.ceil(width * grow / 28) * 28, math.ceil(height * grow / 28) * 28
    values = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    values = (values - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    rows = []
    for block_y in range(h // 28):
        for block_x in range(w // 28):
            for y, x in (
                (0, 0),
                (0, 1),
                (1, 0),
                (1, 1),
            ):  # the 2 × 2 patches that the merger joins stand together
                top, left = block_y * 28 + y * 14, block_x * 28 + x * 14
                patch = values[top : top + 14, left : left + 14]  # (14, 14, 3)
                # per channel: the patch twice, because the patch embedding spans two frames
                rows.append(np.concatenate([np.tile(patch[:, :, c].ravel(), 2) for c in range(3)]))
    return np.stack(rows), [1, h // 14, w // 14]


@pytest.mark.parametrize(
    ("size", "mode", "limits"),
    [
        ((100, 60), "RGB", (3136, 12544)),
        ((300, 200), "RGB", (3136, 12544)),
        ((30, 41), "RGBA", (3136, 12544)),
        ((64, 64), "L", (12544, 12544)),
        ((400, 33), "RGB", (784, 50176)),
    ],
)
def test_pixels_equal_an_independent_computation(checkpoint, size, mode, limits):
    processor = loading.load_processor(str(checkpoint), pixels(*limits))
    image = picture(*size, mode)
    out = processor(images=[image], text=["<|vision_start|><|image_pad|><|vision_end|>"], return_tensors="pt")
    rows, grid = expected_patches(image, *limits)
    assert out["image_grid_thw"].tolist() == [grid]
    np.testing.assert_allclose(out["pixel_values"].numpy(), rows, atol=2e-6)
    placeholders = (out["input_ids"] == processor.image_token_id).sum().item()
    assert placeholders == grid[1] * grid[2] // 4


def test_the_image_backend_never_depends_on_torchvision(checkpoint, monkeypatch):
    import transformers.utils.import_utils as utils
    from transformers.models.auto import image_processing_auto

    for module in (utils, image_processing_auto):
        monkeypatch.setattr(module, "is_torchvision_available", lambda: True)
    processor = loading.load_processor(str(checkpoint), pixels())
    assert type(processor.image_processor).__name__ == "Qwen2VLImageProcessorPil"


def test_the_recipe_overrides_old_and_new_pixel_keys(checkpoint, tmp_path):
    """Hub checkpoints of 2024 say min_pixels and max_pixels at the top of preprocessor_config.json."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    template = (checkpoint / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    settings = {"min_pixels": 3136, "max_pixels": 12845056, "image_processor_type": "Qwen2VLImageProcessor"}
    settings |= {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = loading.load_processor(str(tmp_path), pixels(784, 1568))
    assert dict(processor.image_processor.size) == {"shortest_edge": 784, "longest_edge": 1568}
    assert processor.chat_template == template
    out = processor.image_processor(images=[picture(500, 500)], return_tensors="np")
    assert out["image_grid_thw"].tolist() == [[1, 2, 2]]  # 1568 px allow one 28-px block: sqrt(1568) = 39.6


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_save_and_load_again_and_stock_names(family, request, tmp_path):
    folder = request.getfixturevalue(family)
    processor = loading.load_processor(str(folder), pixels(784, 12544))
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    again = loading.load_processor(str(tmp_path), pixels(784, 12544))
    image = picture(90, 120)
    first, second = (p.image_processor(images=[image], return_tensors="np") for p in (processor, again))
    np.testing.assert_array_equal(first["pixel_values"], second["pixel_values"])
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert again.chat_template == processor.chat_template

    stock = {"checkpoint": "Qwen2VLProcessor", "checkpoint_2_5": "Qwen2_5_VLProcessor"}[family]
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == stock
    assert saved["image_processor"]["image_processor_type"] == "Qwen2VLImageProcessor"
    assert saved["image_processor"]["size"] == {"shortest_edge": 784, "longest_edge": 12544}
    assert saved["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["processor_class"] == stock
    assert not list(tmp_path.glob("*.py")) and "auto_map" not in saved


def test_stock_transformers_reads_the_saved_image_processor_and_tokenizer(checkpoint, tmp_path):
    from transformers import AutoImageProcessor, AutoTokenizer

    processor = loading.load_processor(str(checkpoint), pixels(784, 12544))
    processor.save_pretrained(tmp_path)
    stock = AutoImageProcessor.from_pretrained(tmp_path)
    image = picture(77, 99)
    ours = processor.image_processor(images=[image], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(stock(images=[image], return_tensors="np")["pixel_values"], ours, atol=1e-6)
    text = "<|im_start|>user\nWhere is the ship?<|im_end|>"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == processor.tokenizer(text)["input_ids"]


def test_videos_are_refused(checkpoint):
    processor = loading.load_processor(str(checkpoint), pixels())
    with pytest.raises(ValueError, match="images only"):
        processor(text=["<|video_pad|>"], videos=[np.zeros((2, 3, 28, 28), np.uint8)])


def forward(model, processor):
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[picture(100, 100)], text=[text], return_tensors="pt")
    return model(**inputs).logits


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
        (lambda t: t.update({"lm_head.weight": torch.zeros(3, 4)}), "shapes differ"),
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
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "architectures": ["Llava"]}))
    with pytest.raises(RecipeError, match=r"model_type 'llava' .*expected Qwen2-VL \(qwen2_vl\), Qwen2.5-VL"):
        loading.load_model(section(tmp_path))
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)
    with pytest.raises(RecipeError, match="nobody/nothing is no folder here.*hf download nobody/nothing"):
        loading.load_processor("nobody/nothing", pixels())


def test_pixel_limits_are_checked(checkpoint):
    with pytest.raises(RecipeError, match="min_pixels 9 and max_pixels 8"):
        loading.load_processor(str(checkpoint), pixels(9, 8))


def test_a_processor_without_files(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(RecipeError, match="lacks tokenizer or image-processor files"):
        loading.load_processor(str(tmp_path), pixels())


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


def trainable(model):
    return {adapters.part_of(name) for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["checkpoint", "checkpoint_2_5"])
def test_freeze_by_part(family, request):
    folder = request.getfixturevalue(family)
    model = loading.load_model(section(folder))
    parts = [adapters.part_of(name) for name, _ in model.named_parameters()]
    assert parts.count("merger") == (6 if family == "checkpoint" else 5)  # norm (weight, bias), two linears
    adapters.freeze(model, ["vision_tower"])
    assert trainable(model) == {"merger", "language_model"}
    assert model.model.visual.merger.mlp[0].weight.requires_grad
    assert not model.model.visual.patch_embed.proj.weight.requires_grad
    adapters.freeze(model, ["language_model"])
    assert trainable(model) == {"merger"} and not model.lm_head.weight.requires_grad
    with pytest.raises(RecipeError, match="leaves nothing to train"):
        adapters.freeze(model, ["merger"])
    with pytest.raises(RecipeError, match="unknown part 'head'"):
        adapters.freeze(model, ["head"])


def test_lora_stays_in_the_language_model(checkpoint_2_5):
    """Qwen2.5-VL's vision blocks have gate_proj, up_proj and down_proj of their own."""
    model = loading.load_model(section(checkpoint_2_5))
    adapters.freeze(model, ["vision_tower"])
    wrapped = adapters.apply_lora(model, lora())
    names = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    layers = model.config.text_config.num_hidden_layers
    assert len(names) == layers * 7 * 2
    assert all("lora_" in name and ".language_model.layers." in name for name in names)
    adapters.freeze(wrapped, ["vision_tower", "merger"])
    with pytest.raises(RecipeError, match="leaves nothing"):
        adapters.freeze(wrapped, ["language_model"])


def test_lora_patterns_reach_the_vision_tower(checkpoint):
    model = loading.load_model(section(checkpoint))
    adapters.freeze(model, ["language_model"])
    with pytest.raises(RecipeError, match="every layer it names is frozen"):
        adapters.apply_lora(model, lora())
    with pytest.raises(RecipeError, match="'qkv' matches no linear layer.*gate_proj"):
        adapters.apply_lora(model, lora(target_modules=["qkv"]))
    wrapped = adapters.apply_lora(model, lora(target_modules=["q_proj", "model.visual.blocks.*.attn.qkv"]))
    assert trainable(wrapped) == {"vision_tower"}


def test_a_lora_step_trains_adapters_only_and_merging_keeps_the_outputs(checkpoint, tmp_path):
    model = adapters.apply_lora(loading.load_model(section(checkpoint)), lora())
    processor = loading.load_processor(str(checkpoint), pixels(784, 3136))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    frozen = model.base_model.model.lm_head.weight.detach().clone()
    for _ in range(2):  # B starts at zero, so A moves only from the second step on
        forward(model, processor).logsumexp(-1).mean().backward()
        optimiser.step()
    torch.testing.assert_close(model.base_model.model.lm_head.weight.detach(), frozen, rtol=0, atol=0)
    with torch.no_grad():
        expected = forward(model.eval(), processor)
    model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    with pytest.raises(RecipeError, match="holds a LoRA adapter"):
        loading.load_model(section(tmp_path / "adapter"))
    adapters.merge(str(tmp_path / "adapter"), str(tmp_path / "merged"))
    again = loading.load_processor(str(tmp_path / "merged"), pixels(784, 3136))
    with torch.no_grad():
        actual = forward(loading.load_model(section(tmp_path / "merged")).eval(), again)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        base = forward(loading.load_model(section(checkpoint)).eval(), processor)
    assert (base - expected).abs().max() > 1e-2
    saved = json.loads((tmp_path / "merged" / "processor_config.json").read_text())
    assert saved["image_processor"]["size"] == {"shortest_edge": 784, "longest_edge": 3136}
