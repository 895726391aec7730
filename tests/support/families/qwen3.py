"""Qwen3-VL, dense and mixture of experts, and Qwen3.5.

Sources: config.json of Qwen3-VL-4B-Instruct and Qwen3-VL-30B-A3B-Instruct as copied into public repositories, of
Qwen3.5's mixture with preprocessor, video and generation files likewise; templates: TRL's copies.
"""

from __future__ import annotations

from tests.support.families.folder import HALF, Published, trl_template
from tests.support.families.qwen2 import TOOLS
from tests.support.families.words import Words, qwen

THINKING = (*TOOLS, "<tool_response>", "</tool_response>", "<think>", "</think>")

TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "float32",
    "head_dim": 32,  # 4 heads: queries are 128 wide, twice the hidden size. vLLM on CPUs takes no smaller heads
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "max_position_embeddings": 262144,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "use_cache": True,
}
ROTARY = {
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
    "rope_theta": 5000000,
}
MIXTURE = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 48,  # not half of the hidden size: transformers tells by shapes what is transposed
    "norm_topk_prob": True,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
VISION = {
    "depth": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "num_heads": 2,
    "num_position_embeddings": 64,  # a grid of 8 × 8; larger pictures interpolate
    "out_hidden_size": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def qwen3_vl() -> Published:
    text = TEXT | ROTARY | {"model_type": "qwen3_vl_text", "tie_word_embeddings": True}
    vision = VISION | {"model_type": "qwen3_vl", "deepstack_visual_indexes": [0, 1]}
    return nested(tokens(), "Qwen3VL", "qwen3_vl", text, vision, tied=True)


def qwen3_vl_moe() -> Published:
    text = TEXT | ROTARY | MIXTURE | {"model_type": "qwen3_vl_moe_text"}
    vision = VISION | {"model_type": "qwen3_vl_moe", "deepstack_visual_indexes": [0, 1]}
    parts = nested(tokens(), "Qwen3VLMoe", "qwen3_vl_moe", text, vision)
    parts.stored = stored
    return parts


def stored(name, tensor):
    """The published file has the experts' matrices as (experts, in, out)."""
    return name, tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor


def qwen3_5() -> Published:
    """Two layers of linear attention (gated delta rule), then one of full attention with gated output."""
    text = TEXT | {
        "attn_output_gate": True,
        "full_attention_interval": 3,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 16,
        "mamba_ssm_dtype": "float32",
        "model_type": "qwen3_5_text",
        "partial_rotary_factor": 0.25,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
        "tie_word_embeddings": False,
    }
    vision = VISION | {"model_type": "qwen3_5", "deepstack_visual_indexes": []}
    return nested(tokens(), "Qwen3_5", "qwen3_5", text, vision, template="qwen3_5_think")


def tokens() -> Words:
    return qwen(tools=THINKING)


def nested(words: Words, name, model_type, text, vision, tied=False, template="qwen3_vl") -> Published:
    # Qwen3.5 ends the text model's sequences with <|endoftext|>, its generation_config.json with either
    end = "<|endoftext|>" if model_type == "qwen3_5" else "<|im_end|>"
    known = {"bos_token_id": words["<|endoftext|>"], "eos_token_id": words[end], "vocab_size": len(words)}
    config = {
        "architectures": [f"{name}ForConditionalGeneration"],
        "image_token_id": words["<|image_pad|>"],
        "model_type": model_type,
        "text_config": text | known,
        "tie_word_embeddings": tied,
        "video_token_id": words["<|video_pad|>"],
        "vision_config": vision,
        "vision_end_token_id": words["<|vision_end|>"],
        "vision_start_token_id": words["<|vision_start|>"],
    }
    shared = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **HALF,
        "processor_class": "Qwen3VLProcessor",
    }
    limits = {"longest_edge": 128 * 128, "shortest_edge": 64 * 64}  # areas: 4 to 16 visual tokens
    chat_template = trl_template(template)
    words.settings["chat_template"] = chat_template
    files = {
        "preprocessor_config.json": {"size": limits, **shared, "image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": {"size": limits, **shared, "video_processor_type": "Qwen3VLVideoProcessor"},
        "generation_config.json": {
            "bos_token_id": words["<|endoftext|>"],
            "pad_token_id": words["<|endoftext|>"],
            "do_sample": True,
            "eos_token_id": [words["<|im_end|>"], words["<|endoftext|>"]],
            "top_k": 20,
            "top_p": 0.8,
            "repetition_penalty": 1.0,
            "temperature": 0.7,
        },
    }
    file = "chat_template.jinja" if model_type == "qwen3_5" else "chat_template.json"
    return Published(words, config, chat_template, file, files, tied=tied)
