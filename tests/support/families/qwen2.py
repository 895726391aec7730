"""Qwen2-VL and Qwen2.5-VL. Their config.json is flat: the text model's keys stand at the top.

Sources: demo/tiny.py (tokens, template); Qwen2.5-VL's template is the same (TRL ships it as qwen2_5_vl.jinja).
"""

from __future__ import annotations

from demo.tiny import CHAT_TEMPLATE
from tests.support.families.folder import CLIP, Published
from tests.support.families.words import Words, qwen

TOOLS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
"""Added tokens of Qwen2.5-VL. They are not special: decoding keeps them."""


def qwen2_vl() -> Published:
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "mlp_ratio": 4,
        "num_heads": 2,
        "in_chans": 3,
        "hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    }
    return flat(qwen(), "Qwen2VL", "qwen2_vl", vision, "Qwen2VLProcessor")


def qwen2_5_vl() -> Published:
    vision = {
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    return flat(qwen(tools=TOOLS), "Qwen2_5_VL", "qwen2_5_vl", vision, "Qwen2_5_VLProcessor")


def flat(words: Words, name: str, model_type: str, vision: dict, processor: str) -> Published:
    config = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": words["<|endoftext|>"],
        "eos_token_id": words["<|im_end|>"],
        "vision_start_token_id": words["<|vision_start|>"],
        "vision_end_token_id": words["<|vision_end|>"],
        "vision_token_id": words["<|vision_pad|>"],
        "image_token_id": words["<|image_pad|>"],
        "video_token_id": words["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": vision,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "vocab_size": len(words),
    }
    pictures = {
        "min_pixels": 56 * 56,
        "max_pixels": 112 * 112,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **CLIP,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
    }
    generation = {
        "bos_token_id": words["<|endoftext|>"],
        "pad_token_id": words["<|endoftext|>"],
        "do_sample": True,
        "eos_token_id": [words["<|im_end|>"], words["<|endoftext|>"]],
        "repetition_penalty": 1.05,
        "temperature": 0.1,
        "top_p": 0.001,
        "top_k": 1,
    }
    words.settings["chat_template"] = CHAT_TEMPLATE
    files = {"preprocessor_config.json": pictures, "generation_config.json": generation}
    return Published(words, config, CHAT_TEMPLATE, "chat_template.json", files, tied=True)
