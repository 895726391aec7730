"""Tiny checkpoints of both model families, and what tests load and run them with."""

from __future__ import annotations

import hashlib
import os
import shutil
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from demo import tiny
from vlm import loading


def section(path, **changes):
    fields = {"revision": None, "dtype": "float32", "attention": "sdpa", "trust_remote_code": False}
    fields["quantization"] = None
    return SimpleNamespace(path=str(path), **{**fields, **changes})


def pixels(low=56 * 56, high=112 * 112, row=None):
    return SimpleNamespace(min_pixels=low, max_pixels=high, row_pixels=row)


def qwen2_vl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen2_vl")
    tiny.build(folder, seed=1)
    return folder


def qwen2_5_vl_config(checkpoint, vision, **changes):
    """The text model and the token ids of the tiny Qwen2-VL in `checkpoint`, with a Qwen2.5-VL vision tower."""
    from transformers import Qwen2_5_VLConfig

    base = loading.raw_config(str(checkpoint))
    text = {
        key: value for key, value in base["text_config"].items() if key not in ("model_type", "tie_word_embeddings")
    }
    vision = {**vision, "out_hidden_size": text["hidden_size"]}
    ids = {key: base[key] for key in base if key.endswith("_token_id")}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **changes, **ids)


def qwen2_5_vl(tmp_path_factory, checkpoint):
    """A tiny Qwen2.5-VL with the tokenizer and image processor of the tiny Qwen2-VL, tied embeddings."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    from vlm.families import FAMILIES
    from vlm.pictures.processing import images_only

    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2}
    vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    torch.manual_seed(2)
    config = qwen2_5_vl_config(checkpoint, vision, tie_word_embeddings=True)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    stock = loading.load_processor(str(checkpoint), pixels())
    images_only(FAMILIES["qwen2_5_vl"])(stock.image_processor, stock.tokenizer, stock.chat_template).save_pretrained(
        folder
    )
    return folder


def picture(width, height, mode="RGB", seed=0):
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(noise.squeeze(), mode)


def forward(model, processor):
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[picture(100, 100)], text=[text], return_tensors="pt")
    return model(**inputs).logits


def state(folder, **changes):
    """The weights of a folder, read as the next stage reads them: strictly."""
    return loading.load_model(section(folder, **{"attention": "sdpa", **changes})).state_dict()


def hub(cache, monkeypatch, **revisions):
    """A cache as huggingface_hub lays it out, of `nobody/model`: revision → folder, linked file by file."""
    for name, folder in revisions.items():
        snapshot = cache / "models--nobody--model/snapshots" / hashlib.sha1(name.encode()).hexdigest()
        shutil.copytree(folder, snapshot, copy_function=os.symlink)
        (cache / "models--nobody--model/refs").mkdir(exist_ok=True)
        (cache / "models--nobody--model/refs" / name).write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(loading, "hub_reachable", lambda: False)
