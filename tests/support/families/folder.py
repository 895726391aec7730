"""What a family publishes, and how it is written: random weights, JSON files, tokenizer, chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.families.words import Words

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@dataclass
class Published:
    """One repository of the hub, less its weights."""

    words: Words
    config: dict
    """config.json, in published keys and nesting."""
    chat_template: str
    """The published text."""
    template_file: str
    """chat_template.json (`{"chat_template": …}`) or chat_template.jinja."""
    files: dict[str, dict] = field(default_factory=dict)
    """Other JSON files by name."""
    like: str = ""
    """The kind that this one is like but for names and sizes; tests expect of both the same."""
    tied: bool = False
    """Whether the published file lacks the head, which is the embedding."""
    stored: Callable | None = None
    """A tensor's name and value as published, from those that transformers writes today."""


def write(parts: Published, folder: Path, seed: int) -> str:
    """Write the folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", parts.config)
    model = random_model(folder, parts.tied, seed)
    model.save_pretrained(folder)
    # transformers has written its own form; the published one takes its place.
    if parts.stored is not None:
        restore(folder / "model.safetensors", parts.stored)
    for name, content in {"config.json": parts.config, **parts.files, **parts.words.files()}.items():
        write_json(folder / name, content)
    if parts.template_file.endswith(".json"):
        write_json(folder / parts.template_file, {"chat_template": parts.chat_template})
    else:
        (folder / parts.template_file).write_text(parts.chat_template)
    return str(folder)


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def restore(file: Path, stored: Callable) -> None:
    from safetensors.torch import load_file, save_file

    tensors = dict(stored(name, tensor) for name, tensor in load_file(file).items())
    save_file(tensors, file, metadata={"format": "pt"})


def random_model(folder: Path, tied: bool, seed: int):
    """The model of `folder`/config.json with weights large enough that attention and pictures matter.

    Matrices keep the variance of their input (1/√fan-in; transformers' .02 would make all tokens alike); vectors
    keep what the class gives them (norms 1, biases 0), a little moved, so that none can be left out unnoticed.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder, tie_word_embeddings=tied)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() < 2:
                weight.add_(torch.randn_like(weight), alpha=0.1)
            elif weight.dim() == 3:  # experts of a mixture: (experts, out, in); tokens of a vision tower: (1, n, width)
                weight.normal_(std=weight.shape[-1] ** -0.5)
            else:
                weight.normal_(std=weight[0].numel() ** -0.5)
    return model


def trl_template(name: str) -> str:
    """A published chat template, of which TRL ships a copy."""
    from importlib import resources

    return (resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text()


def like(base: Callable[[], Published], name: str, **text: Any) -> Callable[[], Published]:
    """What a family publishes whose files differ from another's in its name, as its classes have it (`Qwen3_5Moe`), and
    in these keys of the text model."""

    def made() -> Published:
        found = base()
        found.like = found.config["model_type"]
        config, kind = found.config, re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        config |= {"architectures": [f"{name}ForConditionalGeneration"], "model_type": kind}
        config["text_config"] |= {"model_type": f"{kind}_text", **text}
        config["vision_config"] |= {"model_type": kind}
        return found

    return made
