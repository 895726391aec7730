"""What a run ran on: versions, revision, hardware, command line without its secrets. Stays in the run folder."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from stage.origins.revision import run
from vlm.common.redaction import is_secret_name, redact_command

# fmt: off
PACKAGES = [
    "nadir-rl", "torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "datasets", "tokenizers",
    "safetensors", "numpy", "pillow", "wandb", "flash-attn", "liger-kernel", "vllm", "torchvision",
]
# What decides how a run behaves and is easily forgotten: names, and beginnings of names.
VARIABLES = [
    "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
    "WANDB_MODE", "DS_ACCELERATOR", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTHONHASHSEED",
    "CUBLAS_WORKSPACE_CONFIG", "SLURM_JOB_NUM_NODES", "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT",
]
BEGINNINGS = ["ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "NCCL_", "GLOO_", "CUDA_", "NVIDIA_TF32", "TORCH_NCCL_"]
"""`accelerate launch` hands its configuration on in ACCELERATE_… and FSDP_…."""
# fmt: on


def describe(git: dict[str, Any] | None) -> dict[str, Any]:
    """JSON-able description; `gpus` is [] where there are none. Imports no library. git: of `revision.describe`."""
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": redact_command([sys.executable, *sys.argv]),
        "directory": os.getcwd(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "git": git,
        "hardware": {
            "host": platform.node(),
            "system": platform.platform(),
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "memory_gib": _memory_gib(),
            "gpus": _gpus(),
        },
        "variables": {name: value for name, value in sorted(os.environ.items()) if _is_kept(name)},
    }


def _is_kept(name: str) -> bool:
    return (name in VARIABLES or name.startswith(tuple(BEGINNINGS))) and not is_secret_name(name)


def version(name: str) -> str | None:
    """Of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _cpu() -> str:
    """Its name, as Linux tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _gpus() -> list[str]:
    """One "name, memory, driver" per GPU. Asks nvidia-smi: torch would initialise CUDA too early."""
    listing = run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return listing.splitlines() if listing else []
