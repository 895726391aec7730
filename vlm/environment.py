"""What a run ran on: versions, git revision, hardware, command line without its secrets. Stays in the run folder."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path

from vlm.redaction import redact_command

# fmt: off
PACKAGES = [
    "nadir-rl", "torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "datasets", "tokenizers",
    "safetensors", "numpy", "pillow", "wandb", "flash-attn", "liger-kernel", "vllm", "torchvision",
]
# What decides how a run behaves and is easily forgotten. Nothing here can hold a key or a token.
VARIABLES = [
    "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE",
    "WANDB_MODE", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION", "DS_ACCELERATOR",
    "PYTORCH_CUDA_ALLOC_CONF",
]
# fmt: on


def describe() -> dict:
    """JSON-able description; `git` and `gpus` are null and [] where there are none. Imports no library."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": redact_command([sys.executable, *sys.argv]),
        "directory": os.getcwd(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_revision(Path(__file__).parent),
        "hardware": {
            "host": platform.node(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "memory_gib": _memory_gib(),
            "gpus": _gpus(),
        },
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def git_revision(folder: Path) -> dict | None:
    """{"revision": sha, "changed": do tracked files differ}; None outside a repository or without git."""
    revision = _run(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if revision is None:
        return None
    changes = _run(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"])
    return {"revision": revision, "changed": bool(changes)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _gpus() -> list[str]:
    """One "name, memory, driver" per GPU. Asks nvidia-smi: torch would initialise CUDA too early."""
    listing = _run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return listing.splitlines() if listing else []


def _run(command: list[str]) -> str | None:
    """Standard output without the last newline; None when the program is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
