"""What a score model's folder holds: ours, the published one (`Qwen2Reward`), and a plain backbone to start from.

    published   keys `visual.*`, `model.*`, `reward_head.weight`, written with transformers 4; `config.json` does not
                say which positions the weights were trained with
    ours        the names of transformers 5 (`model.visual.*`, `model.language_model.*`, `reward_head.weight`);
                `config.json` has `positions`, the processor lies beside it
    backbone    a model of a family that can carry a head: its `lm_head` is dropped, a fresh head takes its place

A load is strict in all three: a tensor that is missing, or has no place, is an error that names it. Weights are read
from safetensors only; pickles are never opened.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

from vlm import families
from vlm.common.errors import RecipeError
from vlm.loading import (
    at_hand,
    load_processor,
    mismatch,
    raw_config,
    source,
    stored_limits,
    stored_shapes,
)
from vlm.shapes import read_config

logger = logging.getLogger(__name__)

POSITIONS = ("mrope", "sequential")
"""`mrope`: the model's own (time, height, width) rotary positions, interleaved or not. `sequential`: 0 … L-1 on all
three axes."""

HEAD = "reward_head.weight"
LM_HEAD = "lm_head.weight"

RENAMED = {
    r"^visual\.": "model.visual.",
    r"^model\.(?!visual\.|language_model\.)": "model.language_model.",
}
"""Names of transformers 4 → 5. Names that are new already, as all that Qwen3-VL's checkpoints have, match neither."""


def resolve_positions(asked: str | None, path: str, revision: str | None = None) -> str:
    """The positions to score with: as asked, else as the checkpoint says, else `sequential`.

    A published checkpoint does not say, and its training code used `sequential` from its second step on (it kept
    `rope_deltas` of the first batch); that case is logged.

    Raises: RecipeError for another value.
    """
    stored = raw_config(path, revision).get("positions")
    positions = asked or stored
    if positions is None:
        logger.info(
            "score model %s: its config.json does not say its positions; taking 'sequential', which the published "
            "training used. Give positions='mrope' for weights trained with Qwen2-VL's own",
            path,
        )
        return "sequential"
    if positions not in POSITIONS:
        raise RecipeError(f"score model {path}: positions {positions!r}; expected {' or '.join(map(repr, POSITIONS))}")
    if stored is not None and stored != positions:
        logger.warning("score model %s was trained with positions %r, and is used with %r", path, stored, positions)
    return positions


@contextlib.contextmanager
def without_report() -> Iterator[None]:
    """transformers reports every head that it drops or draws as a fault of the load; `check_keys` says what is one."""

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loading = logging.getLogger("transformers.modeling_utils")
    loading.addFilter(other)
    try:
        yield
    finally:
        loading.removeFilter(other)


def check_family(path: str, revision: str | None = None) -> None:
    """Raises: RecipeError for a checkpoint whose family cannot carry a head; of one that is not here the name says it,
    where it is known."""
    config, _ = read_config(path, revision)
    family = families.of(config)
    if family.backbone is None:
        named = ", ".join(sorted(one.name for one in families.FAMILIES.values() if one.backbone))
        raise RecipeError(f"score model: {path}: a score head was never tried on {family.name}; take one of {named}")


def load_config(path: str, revision: str | None, positions: str):
    """The checkpoint's configuration (flat ones of transformers 4 too) with `positions` set.

    Raises: RecipeError for a folder without one, or another architecture.
    """
    from transformers import AutoConfig

    check_family(path, revision)
    path, where = source(path, revision)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, **where)
    config.positions = positions
    return config


def check_keys(info: dict[str, Any], path: str, backbone: bool) -> None:
    """Raise RecipeError unless checkpoint and model have the same tensors; a backbone has an LM head, and no head yet.

    `info` is what `from_pretrained(output_loading_info=True)` returns. Under ZeRO-3 transformers 5.23 does not report
    unexpected tensors, so there only missing ones are found.
    """
    allowed = {HEAD, LM_HEAD} if backbone else set()
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    if backbone and HEAD not in missing:
        raise RecipeError(f"score model: {path} has a reward head already; load it as a score model, not as a backbone")
    if not backbone and HEAD in missing and LM_HEAD in unexpected:
        raise RecipeError(
            f"score model: {path} lacks {HEAD} and has an {LM_HEAD}: it is a plain vision-language model; expected a "
            "trained score model. To start one from it, use ScoreModel.from_backbone (launch/score.py does)"
        )
    if fault := mismatch(missing - allowed, unexpected - allowed, info):
        raise RecipeError(
            f"score model: the weights in {path} do not match its architecture: {fault}. Is it another kind of model, "
            "an adapter, or an incomplete download?"
        )


def check_stored(path: str, revision: str | None = None) -> str:
    """What can be known of a score model without torch: its architecture, names and shapes of its weights by the
    headers of their files, its tokenizer. Returns what was found, in words.

    Raises: RecipeError for a checkpoint that is not there, or that a load would refuse.
    """
    check_family(path, revision)
    config = raw_config(path, revision)
    if config.get("transformers_weights") is not None or (shapes := stored_shapes(path, revision)) is None:
        return "its config.json fits; its weights are not here, and are checked when they are loaded"
    sizes = families.read(config, f"score model {path}")
    wanted = {name: shape for name, shape in families.parameters(sizes) if name != LM_HEAD} | {HEAD: (1, sizes.hidden)}
    found = {_renamed(name): shape for name, shape in shapes.items()}
    info = {"missing_keys": wanted.keys() - found, "unexpected_keys": found.keys() - wanted, "error_msgs": None}
    check_keys(info, path, backbone=False)
    for name, shape in wanted.items():
        if found[name] != shape:
            raise RecipeError(
                f"score model: {path}: {name} has the shape {found[name]}, its config.json says {shape}; take "
                "weights and config.json from one checkpoint"
            )
    if at_hand(path, "tokenizer_config.json", revision) is None:
        raise RecipeError(
            f"score model: {path} has no tokenizer (tokenizer_config.json), so that it cannot read an answer; copy the "
            "tokenizer's and image processor's files of its base model there"
        )
    return f"its config.json, {len(wanted)} tensors, head and tokenizer fit"


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = re.sub(old, new, name)
    return name


def load_parts(path: str, revision: str | None, min_pixels: int | None, max_pixels: int | None):
    """The checkpoint's processor, with its own pixel limits where none are given; None where it has no tokenizer.

    Raises: RecipeError where a tokenizer is there and the image processor is not, or the limits are impossible.
    """
    from transformers.utils import cached_file

    name, where = source(path, revision)
    if cached_file(name, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False, **where) is None:
        logger.info("score model %s has no tokenizer; set `.processor` to score exchanges with it", path)
        return None
    try:
        stored = stored_limits(path, revision)
    except OSError as error:
        raise RecipeError(
            f"score model: {path} has a tokenizer and no image processor (preprocessor_config.json or "
            f"processor_config.json): {str(error).splitlines()[0]}"
        ) from error
    given = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    limits = stored.model_copy(update={key: value for key, value in given.items() if value is not None})
    return load_processor(path, limits, revision)
