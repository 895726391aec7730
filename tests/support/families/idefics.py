"""SmolVLM-256M-Instruct (HuggingFaceTB), whose `model_type` is idefics3: a family that the project has no file for.

Its processor takes no videos, and so builds without torchvision. Pictures are cut into tiles of 128 × 128 pixels, 4
visual tokens, at most 2 × 2, followed by the whole as one tile; published are 512 × 512, 64 tokens, 4 × 4.

Sources: the template, TRL's copy (smolvlm.jinja); tokens and files, from memory, checked only against what
transformers' classes read.
"""

from __future__ import annotations

from tests.support.families.folder import HALF, Published, trl_template
from tests.support.families.words import of_bytes

TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<global-img>", *TILES)
PICTURES = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")


def idefics3() -> Published:
    words = of_bytes(
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "additional_special_tokens": list(PICTURES),
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|im_end|>",
            "processor_class": "Idefics3Processor",
            "unk_token": "<|endoftext|>",
        }
    ).add([*SPECIALS, *PICTURES])
    text = {
        "architectures": ["LlamaForCausalLM"],
        "head_dim": 32,
        "hidden_size": 128,
        "intermediate_size": 256,
        "max_position_embeddings": 8192,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": words["<|im_end|>"],
        "rms_norm_eps": 1e-05,
        "rope_theta": 100000,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": len(words),
    }
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "bos_token_id": words["<|endoftext|>"],
        "eos_token_id": words["<end_of_utterance>"],
        "image_token_id": words["<image>"],
        "model_type": "idefics3",
        "pad_token_id": words["<|im_end|>"],
        "scale_factor": 4,
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_size": 32,
            "image_size": 128,
            "intermediate_size": 64,
            "model_type": "idefics3_vision",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 16,
        },
        "vocab_size": len(words),
    }
    pictures = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        **HALF,
        "image_processor_type": "Idefics3ImageProcessor",
        "max_image_size": {"longest_edge": 128},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 256},
    }
    files = {
        "preprocessor_config.json": pictures,
        "processor_config.json": {"image_seq_len": 4, "processor_class": "Idefics3Processor"},
        "generation_config.json": {
            "bos_token_id": words["<|im_start|>"],
            "eos_token_id": words["<end_of_utterance>"],
            "pad_token_id": words["<|im_end|>"],
        },
    }
    return Published(words, config, trl_template("smolvlm"), "chat_template.json", files)
