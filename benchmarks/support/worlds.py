"""What is measured on: Qwen2-VL of several sizes with random weights, prompts about noise, and what they must cost.

Nothing is downloaded: tokenizer and chat template are the demo's, the sizes those of `vlm.shapes`.
"""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

import demo
from demo import tiny
from vlm.families import KNOWN
from vlm.loading import load_processor, resolve_attention
from vlm.sections import ImageSection

SYSTEM = "Think."
MROPE = {"tiny": [8, 12, 12], "2b": [16, 24, 24], "7b": [16, 24, 24]}


def processor(side: int, folder: Path = Path(demo.__file__).parent / "base", least: int | None = None):
    """The demo's, or that of another checkpoint, for pictures of `side` × `side` pixels; smaller ones of `least` ×
    `least` or more stay as they are."""
    return load_processor(str(folder), ImageSection(min_pixels=(least or side) ** 2, max_pixels=side * side))


def config(shape: str, tokenizer, layers: int | None = None):
    """Qwen2-VL's config: 6M parameters ("tiny"), or the published sizes "2b" and "7b". The demo's token ids.

    layers: of the language model and of the vision tower, where not all are wanted.
    """
    made = tiny.config(len(tokenizer), {name: tokenizer.convert_tokens_to_ids(name) for name in tiny.SPECIALS})
    text, vision = made.text_config, made.vision_config
    if shape == "tiny":
        sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
        tower = {"depth": 4, "embed_dim": 160, "hidden_size": 256}
    else:
        known = KNOWN[f"Qwen2-VL-{shape.upper()}"]
        sizes, tower = known["text_config"], known["vision_config"]
        text.tie_word_embeddings = made.tie_word_embeddings = known["tie_word_embeddings"]
    for part, values in ((text, sizes), (vision, tower)):
        for key, value in values.items():
            setattr(part, key, value)
    if layers is not None:
        text.num_hidden_layers = vision.depth = layers
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.rope_parameters["mrope_section"] = MROPE[shape]
    text.initializer_range = vision.initializer_range = 0.06 if shape == "tiny" else 0.02
    return made


def build(cls, given, options, seed: int = 0, **changes: Any):
    """A model of this class with random weights, made where it will stand."""
    given = copy.deepcopy(given)
    for key, value in changes.items():
        setattr(given, key, value)
    torch.manual_seed(seed)
    with torch.device(options.device):
        attention = resolve_attention(options.attention, options.dtype)
        return cls._from_config(given, dtype=getattr(torch, options.dtype), attn_implementation=attention)


def noise(side: int, seed: int) -> Image.Image:
    """A picture no two of which are alike."""
    data = random.Random(seed).randbytes(3 * side * side)
    return Image.frombytes("RGB", (side, side), data)


class Texts:
    """Texts of a wanted number of tokens, and token ids that are no special ones."""

    def __init__(self, tokenizer, seed: int = 0):
        self.tokenizer, self.random = tokenizer, random.Random(seed)
        known = tokenizer.get_vocab()
        self.words = sorted(word for word in known if word[0] == "Ġ" and word[1:].isalpha() and len(word) > 3)

    def ids(self, count: int) -> list[int]:
        return self.tokenizer.convert_tokens_to_ids(self.random.choices(self.words, k=count))

    def text(self, count: int) -> str:
        return self.tokenizer.decode(self.ids(count))


def fit(prompt: int, visual: int | None, overhead: int) -> tuple[int, int]:
    """(visual tokens, words) of a prompt of `prompt` tokens, `overhead` of them the chat template's; words ≥ 1."""
    side = math.isqrt(visual if visual is not None else max(prompt - overhead - 1, 1))
    return side * side, max(prompt - overhead - side * side, 1)


class World:
    """Prompts (chat, picture, columns) of one case, all of the same length, and answers to them."""

    def __init__(self, options, least: int | None = None):
        """least: visual tokens of the smallest picture that stays as it is; None: all are as large as the prompts'."""
        start = processor(28)
        asked = [{"role": "system", "content": SYSTEM}, self._turn("")]
        text = start.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        visual, words = fit(options.prompt, options.visual, len(start.tokenizer(text).input_ids) - 1)
        self.side = 28 * math.isqrt(visual)
        smallest = None if least is None else 28 * math.isqrt(least)
        self.options, self.processor = options, processor(self.side, least=smallest)
        self.texts = Texts(self.processor.tokenizer)
        self.config = config(options.shape, self.processor.tokenizer, options.layers)
        self.questions = [self.texts.text(words) for _ in range(options.prompts)]
        self.pictures = [noise(self.side, seed) for seed in range(options.prompts)]
        self.visual = visual
        self.length = len(self.encoded()["input_ids"][0])

    @staticmethod
    def _turn(question: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}

    def prompts(self) -> list[list[dict[str, Any]]]:
        return [[{"role": "system", "content": SYSTEM}, self._turn(question)] for question in self.questions]

    def encoded(self) -> dict[str, torch.Tensor]:
        """The U prompts as the model takes them, padded on the left."""
        texts = [
            self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            for turns in self.prompts()
        ]
        found = self.processor(
            images=self.pictures, text=texts, return_tensors="pt", padding=True, padding_side="left",
            return_mm_token_type_ids=True,
        )  # fmt: skip
        return {name: value.to(self.options.device) for name, value in found.items()}

    def case(self) -> dict[str, Any]:
        """What stands before each row of the table."""
        asked = self.options
        sizes = {"P": self.length, "R": asked.answer, "G": asked.group, "U": asked.prompts}
        shape = asked.shape if asked.layers is None else f"{asked.shape} wide, {asked.layers} layers"
        return {"shape": shape, "visual": self.visual, **sizes}


class Ideal:
    """FLOPs of a forward pass by arithmetic: 2 a weight and token, 4 · hidden a query, key and layer.

    Attention counts as torch's counter counts it, a causal mask in full, so that both can be compared.
    """

    def __init__(self, given, visual: int):
        text, vision = given.text_config, given.vision_config
        with torch.device("meta"):
            from transformers import Qwen2VLModel

            model = Qwen2VLModel(given)
        self.weights = _matrices(model.language_model.layers)
        self.attention = 4 * text.num_hidden_layers * text.hidden_size
        self.word = 2 * text.hidden_size * text.vocab_size
        patches = visual * vision.spatial_merge_size**2
        tower = model.visual
        self.picture = 2 * patches * (_matrices(tower.blocks) + tower.patch_embed.proj.weight.numel())
        self.picture += 4 * vision.depth * vision.embed_dim * patches**2 + 2 * visual * _matrices(tower.merger)

    def tokens(self, queries: int, keys: int, heads: int = 0) -> int:
        """Of `queries` tokens that see `keys` each, `heads` of which go through the LM head."""
        return 2 * self.weights * queries + self.attention * queries * keys + self.word * heads

    def forward(
        self, prompt: int, answer: int, group: int, heads: bool = True, plain_heads: int | None = None
    ) -> tuple[int, int]:
        """Of one group: each row by itself, and the prompt once and each answer once.

        Where heads are counted, the last token of an answer need not be read, and the prompt's last token counts with
        the answers: each begins at the state that it leaves.
        """
        said = answer if heads else 0
        plain = group * (self.picture + self.tokens(prompt + answer, prompt + answer, plain_heads or said))
        shared = prompt - 1 if heads else prompt
        once = self.picture + self.tokens(shared, shared)
        return plain, once + group * self.tokens(answer, shared + answer, said)

    def rollout(self, prompt: int, new: int, group: int) -> tuple[int, int]:
        """Of one group: prefill for each row, and prefill once; decoding is the same."""
        prefill = self.picture + self.tokens(prompt, prompt, 1)
        decode = group * sum(self.tokens(1, prompt + step, 1) for step in range(1, new))
        return group * prefill + decode, prefill + decode


def _matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
