"""Which checkpoints are whole: a manifest, written last, lists every file of the checkpoint.

    {"step": 120, "processes": 2, "resumable": true, "packages": {"torch": "2.13.0", …},
     "files": {"model.safetensors": {"bytes": 12345678}, "trainer_state.json": {"bytes": 812, "sha256": "9f…"}, …}}

A folder named checkpoint-120 counts as one only if its manifest is there and every file is what the manifest says:
its size, and up to HASHED bytes its digest. What a cut-off copy or a full disk leaves behind never does.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samples.fingerprints import of_file
from stage.origins import environment
from vlm.common.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
HASHED = 64 * 2**20
"""Larger files are known by their size and headers: a 7B model's optimiser state would take minutes to digest."""
STEP = re.compile(r"checkpoint-(\d+)")
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed")


class Unwhole(UserError):
    """A folder that is no complete checkpoint; the message says what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    step: int
    processes: int
    "How many wrote it; as many can resume from it."
    resumable: bool
    "Not where only the model was saved."
    packages: dict[str, str]
    bytes: int


def write(folder: Path, step: int, processes: int, resumable: bool) -> None:
    """Check every file in `folder` and list them in its manifest.

    Raises: Unwhole where a file is not what its kind is.
    """
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        check_format(path)
        size = path.stat().st_size
        files[str(path.relative_to(folder))] = {"bytes": size} | ({"sha256": of_file(path)} if size <= HASHED else {})
    content = {"step": step, "processes": processes, "resumable": resumable, "packages": packages(), "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, every file checked. Raises: Unwhole."""
    for name, entry in _content(folder)["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"]:
            size = "is missing" if found is None else f"has {found} bytes"
            raise Unwhole(f"{path} {size}; expected {entry['bytes']} bytes")
        if "sha256" in entry and of_file(path) != entry["sha256"]:
            raise Unwhole(f"{path} has another content than when it was written (sha256)")
    return header(folder)


def header(folder: Path) -> Checkpoint:
    """The checkpoint in `folder` by its manifest alone. Raises: Unwhole."""
    content = _content(folder)
    total = sum(entry["bytes"] for entry in content["files"].values())
    kept = {name: content[name] for name in ("step", "processes", "resumable", "packages")}
    return Checkpoint(folder, bytes=total, **kept)


def _content(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return content | {"files": content["files"]}
    except FileNotFoundError:
        raise Unwhole(f"{folder} has no {MANIFEST}: it was not finished, or was not written by Nadir") from None
    except (ValueError, KeyError) as error:
        raise Unwhole(f"{folder}/{MANIFEST} is damaged: {error}") from None


def latest(run: Path) -> Checkpoint | None:
    """The last whole checkpoint of a run folder; a warning for each later one that is not whole."""
    for path in reversed(folders(run)):
        try:
            return read(path)
        except Unwhole as fault:
            logger.warning("checkpoint passed over: %s", fault)
    return None


def folders(run: Path) -> list[Path]:
    """What is named like a checkpoint, by step."""
    named = (path for path in run.glob("checkpoint-*") if path.is_dir() and STEP.fullmatch(path.name))
    return sorted(named, key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def check_resumable(checkpoint: Checkpoint, processes: int) -> None:
    """Raises: UserError where this many processes cannot resume from the checkpoint; warns of other versions."""
    if not checkpoint.resumable:
        raise UserError(
            f"{checkpoint.path} holds the model only (training.save_only_model), so training cannot resume from it; "
            "take it as model.path of a new run"
        )
    if checkpoint.processes != processes:
        raise UserError(
            f"{checkpoint.path} was written by {checkpoint.processes} processes, and this run has {processes}. Each "
            "has random states, rows and rollouts of its own, which no other number can continue: start "
            f"{checkpoint.processes} (--num_processes {checkpoint.processes}), or a new run with model.path="
            f"{checkpoint.path} and the same completions or rows a step (per_device_train_batch_size × "
            "gradient_accumulation_steps × processes), whose optimiser and schedule start from scratch"
        )
    here = packages()
    for name, version in checkpoint.packages.items():
        if here.get(name) != version:
            logger.warning(
                "%s was written with %s %s, here is %s: the steps to come may differ in rounding",
                checkpoint.path.name, name, version, here.get(name, "none"),
            )  # fmt: skip


def packages() -> dict[str, str]:
    """Versions that decide what a step computes."""
    return {name: found for name in PACKAGES if (found := environment.version(name)) is not None}


def check_format(path: Path) -> None:
    """Raises: Unwhole for a safetensors, torch or JSON file that ends too early."""
    if path.suffix == ".safetensors":
        _check_safetensors(path)
    elif path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
        raise Unwhole(f"{path} is cut off: torch's files end with a table of contents")
    elif path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Unwhole(f"{path} is damaged: {error}") from None
        if path.name.endswith(".safetensors.index.json"):
            _check_index(path, content["weight_map"])


def _check_safetensors(path: Path) -> None:
    """The header's length in 8 bytes, little-endian; the header; as many bytes as it says (safetensors' format)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 8 + length <= size else None
        except ValueError:
            header = None
    if header is None:
        raise Unwhole(f"{path} is cut off in its header")
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    if 8 + length + end != size:
        raise Unwhole(f"{path} has {size} bytes; its header says {8 + length + end}")


def _check_index(path: Path, places: dict[str, str]) -> None:
    from safetensors import safe_open

    for file in sorted(set(places.values())):
        if not (path.parent / file).is_file():
            raise Unwhole(f"{path} names {file}, which is not there")
        with safe_open(path.parent / file, "pt") as shard:
            lost = {name for name, place in places.items() if place == file} - set(shard.keys())
        if lost:
            raise Unwhole(f"{path.parent / file} lacks {sorted(lost)[0]}, which {path.name} says it holds")


def expect(folder: Path, names: Iterable[str]) -> None:
    """Raises: UserError where a file is not there."""
    for name in names:
        if not any(folder.glob(name)):
            raise UserError(
                f"{folder} lacks {name}; every node must see the run folder, on a file system that they share"
            )
