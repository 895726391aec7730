"""Tiny tokenizers of the published kinds, trained on the demo world's sentences.

Trained pieces come first, then the special tokens in their published order. Written as published folders have them:
tokenizer.json and tokenizer_config.json (the form of transformers 4, which later versions read).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from demo import tiny

PIECES = 384
"""Trained vocabulary, bytes included, before special tokens."""
SENTENCES = 400
DIGITS_ALONE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenisation."""


@dataclass
class Words:
    """A tokenizer's two files, and its vocabulary."""

    core: Tokenizer
    settings: dict
    """tokenizer_config.json, less added tokens."""
    special: list[str] = field(default_factory=list)

    def add(self, tokens, special: bool = True) -> Words:
        """Add tokens at the end. Those that are not special are kept in decoded text."""
        added = [AddedToken(token, special=special, normalized=False) for token in tokens]
        (self.core.add_special_tokens if special else self.core.add_tokens)(added)
        self.special += tokens if special else []
        return self

    def __len__(self) -> int:
        return self.core.get_vocab_size()

    def __getitem__(self, token: str) -> int:
        return self.core.get_vocab()[token]

    def files(self) -> dict[str, dict]:
        added = {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for index, token in sorted(self.core.get_added_tokens_decoder().items())
        }
        return {
            "tokenizer.json": json.loads(self.core.to_str()),
            "tokenizer_config.json": {"added_tokens_decoder": added, "model_max_length": 4096, **self.settings},
        }


@functools.cache
def trained(kind: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a "bytes" BPE (GPT-2's), or of a "pieces" BPE (Llama's: ▁ is a space, bytes a last
    resort); digits stand alone."""
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = byte_level(DIGITS_ALONE)
        first, size = [], PIECES
    else:
        core = Tokenizer(models.BPE(byte_fallback=True))
        whole = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
        core.pre_tokenizer = pre_tokenizers.Sequence([whole, pre_tokenizers.Digits(individual_digits=True)])
        first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        size = len(first) + PIECES - 256
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(tiny.sentences(SENTENCES), trainer)
    model = json.loads(core.to_str())["model"]
    return dict(model["vocab"]), [tuple(merge) for merge in model["merges"]]


def byte_level(pattern: str):
    """Words by `pattern`, spelled in bytes."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def of_bytes(settings: dict, pattern: str = DIGITS_ALONE) -> Words:
    """A byte-level tokenizer without special tokens."""
    vocabulary, merges = trained("bytes")
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = byte_level(pattern)
    core.decoder = decoders.ByteLevel()
    return Words(core, settings)


def qwen(special=tiny.SPECIALS, tools=(), **settings) -> Words:
    """Qwen2's tokenizer; `tools` are added tokens that are not special."""
    named = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "unk_token": None,
        "additional_special_tokens": list(special[1:]),
    }
    words = of_bytes(named | settings)
    words.core.normalizer = normalizers.NFC()
    return words.add(list(special)).add(list(tools), special=False)


def llama(more, **settings) -> Words:
    """Llama 2's tokenizer: a text begins with <s>, `more` follows the trained pieces."""
    vocabulary, merges = trained("pieces")
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    named = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": False,
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    return Words(core, named | settings).add(["<unk>", "<s>", "</s>", *more])
