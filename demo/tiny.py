"""A tiny Qwen2-VL: the real class, chat template and special tokens, about three million parameters.

    python -m demo.tiny OUT --seed 0          # random weights; `demo.pretrain` makes the shipped base from them

The tokenizer is a byte-level BPE of Qwen2's kind (digits stand alone) trained on the demo world's own sentences.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path

from demo.world.scene import scene
from demo.world.shapes import COLORS
from demo.world.tasks import TASKS, ask

VOCABULARY = 640
PIXELS = 112 * 112
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Qwen2-VL's special tokens, in its order."""

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in "
    "content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == "
    "'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video "
    "{{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL-Instruct's chat template, as published with its checkpoints."""

SYSTEM = "Think, then answer."
"""The demo's R1-style system prompt: short, because every token of it is computed on a laptop."""

WORDING = {"grounding": "Where is {question}?", "vqa": "{question}", "choice": "{question} {options}"}
"""The demo's wording by task (recipes/demo/*.yaml repeat it)."""


def sentences(count: int, seed: int = 0) -> list[str]:
    """Text of the demo world for the tokenizer: questions, traces, answers and both box notations."""
    rng = random.Random(seed)
    out = [SYSTEM, "You are a helpful assistant.", "system user assistant", " ".join(COLORS)]
    for i in range(count):
        item = ask(scene(seed + i), rng.choice(TASKS), rng)
        if item is None:
            continue
        a, b, c, d = (rng.randrange(1000) for _ in range(4))
        options = " ".join(f"{letter}. {text}" for letter, text in zip("ABCD", item.choices or [], strict=False))
        out += [
            f"Where is {item.question}?" if item.task == "grounding" else f"{item.question} {options}",
            f"<think>{item.trace}</think><answer>{item.answer}</answer>",
            f"<answer>({a},{b}),({c},{d})</answer> [[{a:03d},{b:03d},{c:03d},{d:03d}]]",
        ]
    return out


def tokenizer(seed: int = 0, lines: Iterable[str] | None = None):
    """Train the tokenizer on lines, or on `sentences`; returns a `transformers.Qwen2Tokenizer`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    # Qwen2's pre-tokenisation: every digit alone, so coordinates are digits in the model's eyes too
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(sentences(4000, seed) if lines is None else lines, trainer)
    model = json.loads(core.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIALS),
        model_max_length=4096,
    )


def config(vocabulary: int, ids: dict[str, int]):
    """The tiny architecture; sizes chosen so that a GRPO step of 128 completions takes about a second on two cores."""
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "initializer_range": 0.06,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [8, 8, 8]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "embed_dim": 128,
            "hidden_size": 192,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.06,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def random_model(words, seed: int = 0):
    """The tiny architecture with random weights."""
    import torch
    from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(seed)
    ids = {name: words.convert_tokens_to_ids(name) for name in SPECIALS}
    model = Qwen2VLForConditionalGeneration(config(len(words), ids))
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"]
    )
    return model


def processor(words):
    """Tokenizer, image processor (112 × 112 pixels: 16 visual tokens) and chat template."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from vlm.families import FAMILIES
    from vlm.pictures.processing import images_only

    images = Qwen2VLImageProcessorPil(min_pixels=PIXELS, max_pixels=PIXELS)
    return images_only(FAMILIES["qwen2_vl"])(image_processor=images, tokenizer=words, chat_template=CHAT_TEMPLATE)


def build(out: str | Path, seed: int = 0):
    """Write a random tiny checkpoint (model, tokenizer, image processor, chat template) to `out`; returns the model."""
    words = tokenizer()
    model = random_model(words, seed)
    model.save_pretrained(out)
    processor(words).save_pretrained(out)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{build(arguments.out, arguments.seed).num_parameters():,} parameters in {arguments.out}")
