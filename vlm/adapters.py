"""What is trained: freezing of the model's parts by name, and LoRA.

Parts, by parameter name in transformers ≥ 5, as each family names them (`vlm.families`):

- `vision_tower`    patch embedding and transformer blocks
- `merger`          the projection into the language model's space; it may lie within the tower, and is its own part
- `language_model`  everything else: embeddings, decoder layers, `lm_head`

    python -m vlm.adapters ADAPTER OUT [--dtype float32]    # merge a LoRA adapter into its base, save it whole
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

from vlm import families
from vlm.common.console import EXIT_USER_ERROR, report, say, terminal
from vlm.common.errors import RecipeError, UserError
from vlm.common.files import must_be_new

logger = logging.getLogger(__name__)

HEAD = "lm_head"
DTYPES = ("bfloat16", "float16", "float32")
PARTS = ("vision_tower", "merger", "language_model")


MERGERS = tuple({f".{name}.": None for family in families.ALL for name in family.mergers})
TOWERS = tuple({f".{name}.": None for family in families.ALL for name in family.towers})
"""Of all families: no family's name means another part in another."""


def part_of(name: str) -> str:
    """Part a parameter or module belongs to, by its dotted name (PEFT's prefix is allowed)."""
    padded = f".{name}."
    if any(merger in padded for merger in MERGERS):
        return "merger"
    return "vision_tower" if any(tower in padded for tower in TOWERS) else "language_model"


def left_to_train(parameters: Iterable[str], frozen: Iterable[str]) -> list[str]:
    """Those of the named parameters that train on when whole parts are frozen.

    Raises `RecipeError` for an unknown part, or when nothing would be left.
    """
    frozen = set(frozen)
    if unknown := frozen - set(PARTS):
        raise RecipeError(f"model.freeze: unknown part {sorted(unknown)[0]!r}; expected some of {', '.join(PARTS)}")
    left = [name for name in parameters if part_of(name) not in frozen]
    if not left:
        raise RecipeError(f"model.freeze: {sorted(frozen)} leaves nothing to train; leave a part out of the list")
    return left


def freeze(model, names: Iterable[str]) -> None:
    """Stop the gradients of whole parts, in place. Works before and after `apply_lora`. Raises as `left_to_train`."""
    parameters = dict(model.named_parameters())
    left = set(left_to_train((name for name, one in parameters.items() if one.requires_grad), names))
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in left)


def lora_targets(model, patterns: Iterable[str] | None, frozen: Iterable[str] = ()) -> list[str]:
    """Full names of the linear layers of a model that LoRA adapts: `chosen`, of those that `freeze` has left.

    patterns: None for its family's. frozen: what `freeze` was given; weights in 4 bits have no gradient in any part.
    """
    import torch

    linears = {name: one.weight for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    left = {
        name: weight.requires_grad or (hasattr(weight, "quant_state") and part_of(name) not in frozen)
        for name, weight in linears.items()
    }
    return chosen(left, families.of(model.config).linears if patterns is None else patterns)


def chosen(linears: Mapping[str, bool], patterns: Iterable[str]) -> list[str]:
    """Full names of the linear layers that LoRA adapts. linears: by full name, whether it is trained.

    A plain name (`q_proj`) means the linears of that name in the *language model*: Qwen2.5-VL's vision blocks
    have `gate_proj`, `up_proj` and `down_proj` too. A pattern with a dot (`model.visual.blocks.*.attn.qkv` or
    `model.vision_tower.*.q_proj`) is matched against the full name, and so reaches everything. Frozen layers are left
    out.

    Raises `RecipeError` for a pattern that matches no linear layer, or when all that matched is frozen.
    """
    targets: dict[str, None] = {}
    for pattern in patterns:
        if pattern == HEAD:
            raise RecipeError(
                f"model.lora.target_modules: {HEAD} cannot have an adapter: TRL computes log-probabilities from its "
                "weights alone, so the adapter would be left out; name layers below it"
            )
        matched = [name for name in linears if _matches(name, pattern)]
        if not matched:
            known = {name.rsplit(".", 1)[-1] for name in linears if part_of(name) == "language_model"} - {HEAD}
            raise RecipeError(
                f"model.lora.target_modules: {pattern!r} matches no linear layer; the language model has "
                f"{', '.join(sorted(known))}{_vision(linears, '; write vision layers as patterns, e.g. {}')}"
            )
        targets |= dict.fromkeys(name for name in matched if linears[name])
    if not targets:
        raise RecipeError(
            "model.lora.target_modules: every layer it names is frozen by model.freeze; unfreeze that part, "
            f"or target another{_vision(linears, ', e.g. {}')}"
        )
    return list(targets)


def _vision(linears: Iterable[str], said: str) -> str:
    """`said` with a pattern of the vision tower's linears of one name; "" where there are none."""
    name = next((name for name in linears if part_of(name) == "vision_tower" and re.search(r"\.\d+\.", name)), None)
    return "" if name is None else said.format(re.sub(r"\.\d+\.", ".*.", name))


def _matches(name: str, pattern: str) -> bool:
    if "." in pattern:
        return fnmatchcase(name, pattern)
    return part_of(name) == "language_model" and name.rsplit(".", 1)[-1] == pattern


def apply_lora(model, lora, frozen: Iterable[str] = ()):
    """Wrap the model in LoRA adapters (Hu et al., 2021, arXiv 2106.09685) by PEFT; only they are trained.

    Call `freeze` first to keep adapters out of a part; frozen: the same parts. Returns a `peft.PeftModel`.

    Around a base in 4 bits this is QLoRA. PEFT's `prepare_model_for_kbit_training` is left out: vision tower,
    embeddings and head would be float32, which FlashAttention-2 does not take; TRL asks for gradients of the inputs.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.integrations import is_deepspeed_zero3_enabled

    from vlm.loading import commit_of

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora_targets(model, lora.target_modules, frozen),
        task_type="CAUSAL_LM",
        revision=commit_of(model),  # or it would be merged into whatever the branch main is by then
        auto_mapping=base_of(model),
    )
    # ZeRO-3 gathers persistent parameters into one buffer of one dtype, so float32 adapters beside bf16
    # weights fail there (DeepSpeed issue 8072); elsewhere float32 adapters keep small updates from being
    # rounded away.
    model = get_peft_model(model, config, autocast_adapter_dtype=not is_deepspeed_zero3_enabled())
    trainable, total = model.get_nb_trainable_parameters()
    logger.info(
        "LoRA r=%d on %d layers: %s of %s parameters train",
        lora.r,
        len(config.target_modules),
        trainable,
        total,
    )
    return model


def base_of(model) -> dict[str, str] | None:
    """How a base in 4 bits was loaded, for `merge`: {quantization, dtype}; None of any other. PEFT has no field for it;
    what it keeps in `auto_mapping` is about the base, too, and read only of adapters that have no `task_type`."""
    from vlm.loading import quantization_of

    held = quantization_of(model)
    return held and {"quantization": held, "dtype": str(model.dtype).removeprefix("torch.")}


@contextmanager
def float32_adapters(model) -> Iterator[None]:
    """Around the making of TRL's trainer. TRL 1.16 turns adapters on a base in 4 bits into bfloat16 (in which QLoRA's
    paper computes), and small updates would be rounded away: afterwards they are what they were. model: or its name."""
    from vlm.loading import quantization_of

    quantized = not isinstance(model, str) and quantization_of(model)
    made = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad] if quantized else []
    yield
    for weight, data in made:
        weight.data = data


class Rounding(NamedTuple):
    """What is lost where merged weights are stored in fewer digits than they were computed in."""

    dtype: str
    largest: float
    "Of all merged weights, of any number: |stored - merged|."
    share: float
    "Root mean square of that, by root mean square of what the adapter changed: 1 is an adapter lost in rounding."

    def __str__(self) -> str:
        if not self.largest:
            return f"stored in {self.dtype} without rounding"
        return (
            f"rounding to {self.dtype} moves the merged weights by up to {self.largest:.2g}, {self.share:.0%} of what "
            "the adapter changed (root mean squares); --dtype float32 stores them as they were trained"
        )


def merged(model, dtype: str):
    """(the base of a PEFT model with its LoRA adapters merged in, `Rounding`), all in `dtype`.

    Each sum is computed in float32 and rounded once, layer by layer: a whole base in float32 may not fit.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    kind, largest, lost, changed = getattr(torch, dtype), 0.0, 0.0, 0.0
    for layer in [one for one in model.modules() if isinstance(one, LoraLayer)]:
        before = layer.get_base_layer().weight.data.to(torch.float32, copy=True)
        layer.float()
        layer.merge()
        weight = layer.get_base_layer().weight
        whole = weight.data
        weight.data = whole.to(kind)
        error = weight.data.float() - whole
        largest = max(largest, error.abs().max().item())
        lost, changed = lost + error.square().sum().item(), changed + (whole - before).square().sum().item()
    share = (lost / changed) ** 0.5 if changed else 0.0
    return model.unload().to(kind), Rounding(dtype, largest, share)


def merge(adapter: str, out: str, dtype: str | None = None) -> Rounding:
    """Merge a LoRA adapter into the base its config names; save a complete checkpoint, in `dtype` or the base's own.

    An adapter that was trained on a base in 4 bits is added to what these 4 bits stand for, so that the merged model is
    the trained one: the original weights differ from them by more than most adapters change.

    Needed between a LoRA stage and the next: TRL loads the GRPO reference model from the policy's path, so
    the path must hold the merged weights, or the reference would silently be the base.

    Raises: RecipeError for an adapter that cannot be read, and an `out` that holds files.
    """
    from pathlib import Path
    from types import SimpleNamespace

    from peft import PeftModel
    from transformers import AutoTokenizer

    from vlm.loading import load_model, load_processor, quantization_of, raw_config, stored_limits
    from vlm.weights import check_adapter

    stored = check_adapter(adapter)
    must_be_new(Path(out))
    base, revision = stored["base_model_name_or_path"], stored.get("revision")
    config = raw_config(base, revision)
    own = config.get("dtype") or config.get("torch_dtype") or "float32"
    trained = {"quantization": None, "dtype": own, **(stored.get("auto_mapping") or {})}
    section = {"path": base, "revision": revision, "attention": "sdpa", "trust_remote_code": False}
    model = load_model(SimpleNamespace(**section, quantization=trained["quantization"], dtype=trained["dtype"]))
    model = model.dequantize() if quantization_of(model) else model
    model, rounding = merged(PeftModel.from_pretrained(model, adapter), dtype or own)
    model.save_pretrained(out)
    # The pixel limits and tokenizer of the stage that made the adapter stand beside it, when the trainer
    # saved them.
    source = adapter if (Path(adapter) / "processor_config.json").is_file() else base
    processor = load_processor(base, stored_limits(source, revision, base), revision)
    if source == adapter:
        processor.tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=False)
    processor.save_pretrained(out)
    return rounding


def main() -> int:
    parser = argparse.ArgumentParser(description="Merge a LoRA adapter into its base and save a complete checkpoint.")
    parser.add_argument("adapter", help="folder with adapter_config.json")
    parser.add_argument("out", help="folder to write")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights that are written; the base's where none is given"
    )
    arguments = parser.parse_args()
    try:
        rounding = merge(arguments.adapter, arguments.out, arguments.dtype)
    except UserError as error:
        report(error)
        return EXIT_USER_ERROR
    say(f"merged: {arguments.out}; {rounding}")
    return 0


if __name__ == "__main__":
    with terminal():
        raise SystemExit(main())
