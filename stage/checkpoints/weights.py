"""Weights from a checkpoint into a live model, tensor by tensor, all of them or none.

transformers 5.23 writes Qwen2-VL checkpoints under the published names (`model.layers.0…`, `visual.blocks.0…`) and
resumes them under the names in memory (`model.language_model.layers.0…`) without strictness: of 58 tensors of a tiny
model 1 comes back, with a warning. Here the names that saving would give to the live tensors are asked for, and the
file must hold exactly those, in the same shapes and types; nothing is written before that is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.core_model_loading import revert_weight_conversion

from vlm.common.errors import UserError

WHOLE, ADAPTER = "model.safetensors", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
"""safetensors' word → torch's."""


def load_strictly(model: torch.nn.Module, folder: Path) -> int:
    """Copy the weights (or the adapter's) in `folder` into the model, in place; returns how many tensors.

    model: transformers' or PEFT's; of one that FSDP2 has split each process takes its part.
    Raises: UserError where a tensor is missing, too many, or another size.
    """
    live = adapter_tensors(model) if _adapted(model) else saved_tensors(model)
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in files_of(folder, _adapted(model))]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a dict)
        _check(live, places, folder)
        with torch.no_grad():
            for name, file in places.items():
                place(file.get_tensor(name), live[name])
    return len(places)


def place(stored: torch.Tensor, live: torch.Tensor) -> None:
    """Copy a whole tensor into a live one, or this process's part of it where it is split."""
    if isinstance(live, DTensor):
        stored = stored.to(live.device)
        stored = distribute_tensor(stored, live.device_mesh, live.placements, src_data_rank=None)  # asks no process
    live.copy_(stored)


def address(tensor: torch.Tensor) -> int:
    """Where a tensor lies, or this process's part of it: equal for tied ones."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).data_ptr()


def saved_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Name in a checkpoint → the live tensor; tied tensors under each of their names."""
    found = revert_weight_conversion(model, model.state_dict())
    own = {address(tensor) for tensor in model.state_dict().values()}
    copied = [name for name, tensor in found.items() if address(tensor) not in own]
    if copied:
        raise UserError(
            f"{type(model).__name__} is saved in another layout than it has in memory ({copied[0]}), so its "
            "checkpoints cannot be resumed exactly; please report the model and the version of transformers"
        )
    return found


def adapter_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The same of what PEFT saves: adapters, and modules that are trained beside them."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def files_of(folder: Path, adapter: bool = False) -> list[Path]:
    """The safetensors files with the weights. Raises: UserError where there are none."""
    if adapter and (folder / ADAPTER).is_file():
        return [folder / ADAPTER]
    if not adapter and (folder / INDEX).is_file():
        return sorted({folder / file for file in json.loads((folder / INDEX).read_text())["weight_map"].values()})
    if not adapter and (folder / WHOLE).is_file():
        return [folder / WHOLE]
    kind = "adapter" if adapter else "model"
    raise UserError(f"{folder} holds no {kind} weights ({ADAPTER if adapter else WHOLE}); expected a full checkpoint")


def _adapted(model: torch.nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def _check(live: dict[str, torch.Tensor], places: dict[str, Any], folder: Path) -> None:
    there = {address(live[name]) for name in places if name in live}
    # of tied tensors only one is stored
    missing = [name for name, tensor in live.items() if name not in places and address(tensor) not in there]
    unknown = [name for name in places if name not in live]
    faults = [
        f"{label} {len(names)} tensors ({', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''})"
        for label, names in (("lacks", missing), ("has no place for", unknown))
        if names
    ]
    faults += list(_misfits(live, places))[:3]
    if faults:
        raise UserError(
            f"{folder}: its weights do not match the model that is to be resumed: it {'; it '.join(faults)}. Resume "
            "with the recipe that wrote it (model, freeze, lora)"
        )


def _misfits(live: dict[str, torch.Tensor], places: dict[str, Any]) -> Iterator[str]:
    for name in places.keys() & live.keys():
        stored = places[name].get_slice(name)
        found = DTYPES.get(stored.get_dtype(), stored.get_dtype()), list(stored.get_shape())
        expected = live[name].dtype, list(live[name].shape)
        if found != expected:
            yield f"has {name} as {found[0]} {found[1]}, the model as {expected[0]} {expected[1]}"
