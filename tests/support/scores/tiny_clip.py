"""A tiny CLIP with random weights: the real classes, 32 × 32 pixels, 77 tokens, one token a character."""

from __future__ import annotations

import string
from pathlib import Path


def build(folder: Path) -> Path:
    """Write model, tokenizer and image processor to `folder`."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    letters = string.ascii_lowercase + string.digits + "."
    tokens = ["<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(tokens), "max_position_embeddings": 77, **ids},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    with torch.no_grad():  # as initialised, all texts look alike
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    side = {"shortest_edge": 32}
    images = CLIPImageProcessorPil(size=side, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, CLIPTokenizer(vocab=vocabulary, merges=[])).save_pretrained(folder)
    return folder
