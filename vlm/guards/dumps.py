"""A batch on disk, to be computed again: tensors in one safetensors file, everything else in JSON beside it.

    step-120-rank-0.safetensors    tensors by number
    step-120-rank-0.json           {"step": 120, "loss": "nan", …, "batches": [{"pixel_values": {"<tensor>": "0"}, …}]}

Nothing in them is code (no pickle), and `read` gives back tensors to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from vlm.checkpoints.packing import pack, unpack

TENSOR, TUPLE = "<tensor>", "<tuple>"
"""Stand as the only key of an object in the JSON that is no dict."""


def write(path: Path, facts: dict[str, Any], batches: list[dict[str, Any]]) -> Path:
    """Write both files; returns `path`, which bears no suffix. facts: what JSON can hold.

    batches: what `vlm.checkpoints.packing.pack` takes; keys that are None are left out.
    """
    tensors: dict[str, torch.Tensor] = {}
    held = [pack({key: value for key, value in batch.items() if value is not None}) for batch in batches]
    content = facts | {"batches": [_plain(batch, tensors) for batch in held]}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(facts, batches) as `write` was given them. path: with or without a suffix."""
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    tensors = load_file(path.with_suffix(".safetensors"))
    batches = [unpack(_held(batch, tensors)) for batch in content.pop("batches")]
    return content, batches


def _plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.contiguous().clone()  # parts of one storage are refused by safetensors
        return {TENSOR: name}
    if isinstance(value, dict):
        return {key: _plain(inner, tensors) for key, inner in value.items()}
    if isinstance(value, tuple):
        return {TUPLE: [_plain(inner, tensors) for inner in value]}
    return [_plain(inner, tensors) for inner in value] if isinstance(value, list) else value


def _held(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {TENSOR}:
            return tensors[value[TENSOR]]
        if value.keys() == {TUPLE}:
            return tuple(_held(inner, tensors) for inner in value[TUPLE])
        return {key: _held(inner, tensors) for key, inner in value.items()}
    return [_held(inner, tensors) for inner in value] if isinstance(value, list) else value
