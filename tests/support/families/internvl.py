"""InternVL3 in transformers' own form (OpenGVLab/InternVL3-1B-hf): InternViT, projector, Qwen2.5.

Tiles are 56 × 56 pixels, 4 visual tokens, where the published ones are 448 × 448, 256 tokens; at most 4 tiles and a
thumbnail of the whole, where there are 12.

Sources: transformers' convert_internvl_weights_to_hf.py, in its later form with <IMG_CONTEXT> in the template;
InternVL's internvl_custom2hf.py for the vision tower. Not verified: the id of <video>, which here comes last.

preprocessor_config.json has crop_to_patches false, yet the stock processor crops, as it passes true itself. The head
is not the embedding: text_config says so and the file holds both; transformers' config says at its top that it is.
"""

from __future__ import annotations

from tests.support.families.folder import IMAGENET, Published
from tests.support.families.qwen2 import TOOLS
from tests.support.families.words import qwen

SIDE = 56
MARKS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


def internvl() -> Published:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = qwen(tools=TOOLS, extra_special_tokens=named, **named, processor_class="InternVLProcessor")
    words.add([*MARKS, "<video>"])
    words.settings["additional_special_tokens"] += [*MARKS, "<video>"]
    text = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": words["<|endoftext|>"],
        "eos_token_id": words["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 32768,
        "max_window_layers": 70,
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": len(words),
    }
    vision = {
        "architectures": ["InternVisionModel"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": 32,
        "image_size": [SIDE, SIDE],
        "initializer_factor": 0.1,
        "initializer_range": 1e-10,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-06,
        "layer_scale_init_value": 0.1,
        "model_type": "internvl_vision",
        "norm_type": "layer_norm",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 2,
        "patch_size": [14, 14],
        "projection_dropout": 0.0,
        "torch_dtype": "float32",
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
        "use_qk_norm": False,
    }
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": (SIDE // 14 // 2) ** 2,
        "image_token_id": words["<IMG_CONTEXT>"],
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": text,
        "torch_dtype": "float32",
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
    pictures = {
        "crop_size": None,
        "crop_to_patches": False,
        "data_format": "channels_first",
        "default_to_square": True,
        "do_center_crop": None,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **IMAGENET,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": 4,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIDE, "width": SIDE},
    }
    files = {
        "preprocessor_config.json": pictures,
        "processor_config.json": {
            "image_seq_length": config["image_seq_length"],
            "processor_class": "InternVLProcessor",
        },
        "video_preprocessor_config.json": {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            **IMAGENET,
            "resample": 3,
            "size": {"height": SIDE, "width": SIDE},
            "video_processor_type": "InternVLVideoProcessor",
        },
        "generation_config.json": {"bos_token_id": words["<|endoftext|>"], "eos_token_id": words["<|im_end|>"]},
    }
    return Published(words, config, CHAT_TEMPLATE, "chat_template.jinja", files)
