"""Weights are read from safetensors, and never from a pickle: unpickling runs whatever its author wrote into it.

`use_safetensors=True` of transformers is not enough: a config.json may name another weight file, an index may list
shards that are pickles or lie elsewhere, and PEFT takes `adapter_model.bin` where there is nothing else. Here that is
found before any file is opened, and what the libraries raise becomes a RecipeError that names file and remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm.common.errors import RecipeError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
REMEDY = (
    "weights are read from safetensors only, for a pickle can run any program; take a revision of the checkpoint that "
    "has safetensors, or convert it on a machine where nothing can be lost (`safe_serialization`, or "
    "huggingface.co/spaces/safetensors/convert)"
)


def elements(weight: Any) -> int:
    """Of a parameter as the model has it: ZeRO-3 leaves a split one empty, bitsandbytes packs two into a byte."""
    if hasattr(weight, "ds_id"):
        return weight.ds_numel
    return weight.quant_state.shape.numel() if hasattr(weight, "quant_state") else weight.numel()


def kind(weight: Any) -> str:
    """Type of a parameter's elements: bfloat16, or nf4."""
    return weight.quant_type if hasattr(weight, "quant_state") else str(weight.dtype).removeprefix("torch.")


def check_files(name: str, where: dict[str, Any], key: str = "model.path") -> None:
    """Refuse a checkpoint whose weights are not all safetensors inside its own folder.

    name, where: of `vlm.loading.source`. key: the recipe's key, for messages. A hub's small files are fetched for it.
    Raises: RecipeError naming the file.
    """
    from transformers import PreTrainedConfig

    named = PreTrainedConfig.get_config_dict(name, **where)[0].get("transformers_weights")
    if named is not None and not (
        isinstance(named, str) and _inside(named, (".safetensors", ".safetensors.index.json"))
    ):
        raise RecipeError(f"{key}: config.json of {name} names the weights {named!r}; {REMEDY}")
    index = named if named is not None and named.endswith(".json") else INDEX
    for shard in sorted(set(_shards(name, where, index, key))):
        if not _inside(shard, (".safetensors",)):
            raise RecipeError(f"{key}: {index} of {name} names the shard {shard!r}; {REMEDY}")
    folder = Path(name)
    sound = named is not None or not folder.is_dir() or any((folder / file).is_file() for file in (SINGLE, INDEX))
    if not sound and (pickles := pickles_in(folder)):
        raise RecipeError(f"{key}: {folder / pickles[0]} is a pickle, and there is no {SINGLE}; {REMEDY}")


def check_adapter(folder: str | Path) -> dict[str, Any]:
    """`adapter_config.json` of a folder that PEFT saved, its weights in safetensors.

    Raises: RecipeError where a file is missing, the weights are a pickle, or the adapter names a module to import.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{folder} holds no {ADAPTER_CONFIG}; expected a folder that PEFT saved") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("base_model_name_or_path"), str):
        raise RecipeError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path; expected what PEFT saves")
    if not (folder / ADAPTER).is_file():  # PEFT would take a pickle then, or ask the hub for the folder's name
        found = next(iter(pickles_in(folder)), None)
        said = f"{folder / found} is a pickle, and there is" if found else f"{folder} has"
        raise RecipeError(f"{said} no {ADAPTER}; {REMEDY if found else 'expected a folder that PEFT saved'}")
    if settings.get("megatron_config") is not None:  # PEFT imports the module that stands beside it
        raise RecipeError(f"{folder / ADAPTER_CONFIG} sets megatron_config, which names code to run; remove it")
    return settings


@contextmanager
def damaged(path: str, key: str) -> Iterator[None]:
    """What safetensors raises about a file that is no such, or is cut short, as a RecipeError."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise RecipeError(
            f"{key}: the weights in {path} are damaged or cut short ({_line(error)}); download or copy them again"
        ) from error


@contextmanager
def reading(path: str, key: str) -> Iterator[None]:
    """What transformers and safetensors raise about weights, as a RecipeError: `key: path …`."""
    try:
        with damaged(path, key):
            yield
    except OSError as error:
        raise RecipeError(f"{key}: {path} has no readable weights (safetensors): {_line(error)}") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "ignore_mismatched_sizes" not in str(error):
            raise
        raise RecipeError(f"{key}: {path} has weights whose shapes differ from its config.json: {error}") from error


def pickles_in(folder: Path) -> list[str]:
    """Names of weight files in formats of pickle."""
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(PICKLES))


def _inside(name: str, endings: tuple[str, ...]) -> bool:
    return name.endswith(endings) and "/" not in name and "\\" not in name


def _shards(name: str, where: dict[str, Any], index: str, key: str) -> list[str]:
    """The files that the index lists; none where there is no index."""
    from transformers.utils import cached_file

    try:
        file = cached_file(name, index, _raise_exceptions_for_missing_entries=False, **where)
        if file is None:
            return []
        return [str(shard) for shard in json.loads(Path(file).read_text(encoding="utf-8"))["weight_map"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{key}: {index} of {name} cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
