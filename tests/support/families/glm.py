"""GLM-4.1V-9B-Thinking (zai-org).

Sources: sizes and keys, public copies of config.json and transformers' Glm4vConfig; special tokens, the tokenizer
printed in ai-bot-pro/achatbot pull request 168; the template, sglang's test_jinja_template_utils.py, which tests
against it. Not verified: the tokens after <|video|>, which of its files holds the template.

The template takes the content of system and assistant turns as a string; a list of parts is printed as Python does.
"""

from __future__ import annotations

from tests.support.families.folder import CLIP, Published
from tests.support.families.words import of_bytes

SPECIALS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
    "<|image|>", "<|video|>",
)  # fmt: skip
THINKING = ("<think>", "</think>", "<answer>", "</answer>")
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
[gMASK]<sop>
{%- for msg in messages %}
    {%- if msg.role == 'system' %}
<|system|>
{{ msg.content }}
    {%- elif msg.role == 'user' %}
<|user|>{{ '\\n' }}

        {%- if msg.content is string %}
{{ msg.content }}
        {%- else %}
            {%- for item in msg.content %}
                {%- if item.type == 'video' or 'video' in item %}
<|begin_of_video|><|video|><|end_of_video|>
                {%- elif item.type == 'image' or 'image' in item %}
<|begin_of_image|><|image|><|end_of_image|>
                {%- elif item.type == 'text' %}
{{ item.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
    {%- elif msg.role == 'assistant' %}
        {%- if msg.metadata %}
<|assistant|>{{ msg.metadata }}
{{ msg.content }}
        {%- else %}
<|assistant|>
{{ msg.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def glm4v() -> Published:
    words = of_bytes(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": list(SPECIALS),
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "processor_class": "Glm4vProcessor",
            "remove_space": False,
        },
        PATTERN,
    )
    words.add(list(SPECIALS)).add(list(THINKING), special=False)
    ends = [words[token] for token in ("<|endoftext|>", "<|user|>", "<|observation|>", "</answer>")]
    text = {
        "model_type": "glm4v_text",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": ends,
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 65536,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": words["<|endoftext|>"],
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": len(words),
    }
    vision = {
        "model_type": "glm4v",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "image_size": 112,  # a grid of 8 × 8; other pictures interpolate
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 128,
        "patch_size": 14,
        "rms_norm_eps": 1e-05,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = {
        "architectures": ["Glm4vForConditionalGeneration"],
        "model_type": "glm4v",
        "image_start_token_id": words["<|begin_of_image|>"],
        "image_end_token_id": words["<|end_of_image|>"],
        "video_start_token_id": words["<|begin_of_video|>"],
        "video_end_token_id": words["<|end_of_video|>"],
        "image_token_id": words["<|image|>"],
        "video_token_id": words["<|video|>"],
        "tie_word_embeddings": False,
        "text_config": text,
        "torch_dtype": "float32",
        "vision_config": vision,
    }
    # areas of two frames, as transformers counts them
    limits = {"shortest_edge": 2 * 56 * 56, "longest_edge": 2 * 112 * 112}
    shared = {"do_rescale": True, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, **CLIP}
    shared |= {"processor_class": "Glm4vProcessor"}
    files = {
        "preprocessor_config.json": {"size": limits, **shared, "image_processor_type": "Glm4vImageProcessor"},
        "video_preprocessor_config.json": {"size": limits, **shared, "video_processor_type": "Glm4vVideoProcessor"},
        "generation_config.json": {
            "do_sample": True,
            "eos_token_id": ends,
            "pad_token_id": words["<|endoftext|>"],
            "temperature": 1.0,
            "top_k": 2,
            "top_p": 0.0001,
        },
    }
    return Published(words, config, CHAT_TEMPLATE, "chat_template.jinja", files)
