"""LLaVA-1.5 (llava-hf/llava-1.5-7b-hf): CLIP tower, two-layer projector, Vicuna.

Pictures are 56 × 56 pixels, 16 visual tokens, where the published ones are 336 × 336, 576 tokens. Attention has as
many key heads as query heads, as Vicuna's.

Sources: config.json, three equal public copies. The template: "llava-hf vicuna template", the same text in public
repositories of several authors and in transformers' tests (tests/models/llava/test_processing_llava.py).
"""

from __future__ import annotations

from tests.support.families.folder import CLIP, Published
from tests.support.families.words import llama

SIDE = 56
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""As published: pictures before text, text content in parts only, no token at the end of an assistant's turn."""


def llava() -> Published:
    words = llama(
        ["<image>", "<pad>"],
        pad_token="<pad>",
        padding_side="left",
        image_token="<image>",
        extra_special_tokens={"image_token": "<image>"},
        processor_class="LlavaProcessor",
    )
    text = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 128,
        "intermediate_size": 256,
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float32",
        "vocab_size": len(words),
    }
    vision = {
        "hidden_size": 32,
        "image_size": SIDE,
        "intermediate_size": 64,
        "model_type": "clip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "patch_size": 14,
        "projection_dim": 32,
        "vocab_size": 32000,
    }
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": (SIDE // 14) ** 2,
        "image_token_index": words["<image>"],
        "model_type": "llava",
        "pad_token_id": words["<pad>"],
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_config": vision,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": len(words),
    }
    pictures = {
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **CLIP,
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": SIDE},
    }
    processor = {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": 14,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    files = {
        "preprocessor_config.json": pictures,
        "processor_config.json": processor,
        "generation_config.json": {
            "bos_token_id": words["<s>"],
            "eos_token_id": words["</s>"],
            "pad_token_id": words["<pad>"],
        },
    }
    return Published(words, config, CHAT_TEMPLATE, "chat_template.json", files, stored=stored)


def stored(name, tensor):
    """The published file names the tower's tensors as transformers did until version 5."""
    return name.replace("vision_tower.", "vision_tower.vision_model."), tensor
