"""Checkpoints for others: what transformers 4 loads, and what vLLM and other tools expect that read its files.

    python -m vlm.export RUN OUT        # RUN: a run folder with final/, or a checkpoint

transformers 5 writes `rope_parameters`, `processor_config.json` and a list of `extra_special_tokens`; transformers 4
passes over the first two, which leaves a wrong model, and stops at the third. Here everything is in the layout of the
published Qwen2-VL checkpoints, which transformers 5 (and Nadir) read as well. Families that this was not tried for
(`Family.exported`) are refused.

config.json                 text settings at the top level, `rope_theta`, `rope_scaling`, `torch_dtype`
model*.safetensors          `model.layers.0…`, `visual.blocks.0…`, `lm_head.weight`, in their stored dtype
preprocessor_config.json    images, `min_pixels` and `max_pixels` included
tokenizer*.json, vocab.json, merges.txt, added_tokens.json, special_tokens_map.json, chat_template.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlm.common.console import EXIT_USER_ERROR, report, say, terminal
from vlm.common.errors import RecipeError, UserError
from vlm.common.files import must_be_new
from vlm.families import FAMILIES

NAMED = ("eos_token", "pad_token", "bos_token", "unk_token")


def export(run: str, out: str) -> None:
    """Write the checkpoint in `run` (or in its `final/`) to `out`, a new folder.

    Raises: RecipeError for a checkpoint of a family that this was not written for, an adapter that is not merged, and
    an `out` that holds files.
    """
    from vlm.loading import family_of, load_model, load_processor, raw_config, read_json, stored_limits

    folder = Path(out)
    must_be_new(folder)
    path = str(Path(run) / "final") if (Path(run) / "final").is_dir() else run
    raw, family = raw_config(path), family_of(path)
    if not family.exported:
        named = " and ".join(one.name for one in FAMILIES.values() if one.exported)
        raise RecipeError(
            f"{path} holds {family.name}: the layout of transformers 4 is written here for {named} only. transformers "
            "5, and tools that stand on it, load the folder as it is"
        )
    dtype = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    section = {"path": path, "revision": None, "dtype": dtype, "attention": "sdpa", "trust_remote_code": False}
    model = load_model(SimpleNamespace(**section, quantization=None))
    processor = load_processor(path, stored_limits(path))
    model.save_pretrained(folder)
    _write(folder / "config.json", flat(read_json(folder / "config.json"), dtype))
    _write(folder / "preprocessor_config.json", images(processor))
    write_tokenizer(processor, folder)


def flat(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """transformers 5's config of a Qwen2-VL or Qwen2.5-VL in the published layout."""
    text, vision = dict(config["text_config"]), dict(config["vision_config"])
    outer = {key: value for key, value in config.items() if key not in ("text_config", "vision_config")}
    rope = dict(text.pop("rope_parameters"))
    text["rope_theta"], kind = rope.pop("rope_theta"), rope.pop("rope_type")
    rope.pop("type", None)
    text["rope_scaling"] = {"type": "mrope" if kind == "default" else kind, **rope}
    axial = vision.pop("rope_parameters", None) or {}
    if axial.get("rope_theta", 10000.0) != 10000.0:
        raise RecipeError(f"vision_config: rope_theta {axial['rope_theta']}; transformers 4 knows 10000 only")
    vision["model_type"] = config["model_type"]  # as published
    found = {**text, **outer, "vision_config": vision, "torch_dtype": dtype}
    for key in ("dtype", "layer_types", "transformers_version"):
        found.pop(key, None)
    return found


def images(processor: Any) -> dict[str, Any]:
    """preprocessor_config.json of a processor. transformers 4.57 reads pixel limits from min_ and max_pixels only."""
    found = processor.to_dict()["image_processor"]
    low, high = found["size"]["shortest_edge"], found["size"]["longest_edge"]
    name = type(processor).__name__
    return {**found, "min_pixels": low, "max_pixels": high, "processor_class": name}


def write_tokenizer(processor: Any, folder: Path) -> None:
    """The tokenizer and its chat template, special tokens by name and number in each file where a version looks."""
    tokenizer = processor.tokenizer
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json, merges.txt: for the slow tokenizer
    added = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    named = {name: str(token) for name in NAMED if (token := getattr(tokenizer, name)) is not None}
    special = [token["content"] for token in added.values() if token["special"]]
    lists = {"additional_special_tokens": special}
    stored = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for key in ("backend", "extra_special_tokens", "is_local", "local_files_only"):
        stored.pop(key, None)
    stored |= {"added_tokens_decoder": added, "chat_template": processor.chat_template, **lists}
    _write(folder / "tokenizer_config.json", stored)
    _write(folder / "added_tokens.json", {token["content"]: int(number) for number, token in added.items()})
    _write(folder / "special_tokens_map.json", {**named, **lists})
    _write(folder / "chat_template.json", {"chat_template": processor.chat_template})
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a checkpoint that transformers 4.57 and tools like it load.")
    parser.add_argument("run", help="a run folder with final/, or a checkpoint")
    parser.add_argument("out", help="folder to write")
    arguments = parser.parse_args()
    try:
        export(arguments.run, arguments.out)
    except UserError as error:
        report(error)
        return EXIT_USER_ERROR
    say(f"exported: {arguments.out}")
    return 0


if __name__ == "__main__":
    with terminal():
        raise SystemExit(main())
