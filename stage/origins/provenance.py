"""What a training began with, beside recipe and machine: record.json in the run folder.

Two runs whose records, data.json and environment.json agree (but for times, host and folders) computed the same. Kept:

    seeds          as the trainer has them
    processes      how many, how they talk, what is sharded; worker processes of each one's data loader
    determinism    the switches that decide whether a GPU adds in one order
    libraries      CUDA, cuDNN and NCCL as torch was built with
    model          class, attention, precision, parameters; `sampled` is a digest of its weights (stage.replay.dumps)
    checkpoint     what it was loaded from (samples.fingerprints), and so was its reference model
    sampling       GRPO: how completions are drawn; a checkpoint's generation_config.json adds nothing
    plugins        SHA-256 of the file of each `file.py:function` and `package.module:function` that the recipe names
    score_models   GRPO: what learned rewards load, or what their services say that they hold
    sharing        GRPO: whether a prompt is computed once for its completions, and why not
    accepted       what had changed when a resume was told to accept it
"""

from __future__ import annotations

import os
from typing import Any

import torch

from stage.parallel.agreement import joined
from stage.replay.dumps import digest
from vlm.weights import elements, kind


def record(trainer: Any) -> dict[str, Any]:
    """The trainer's model is the one it begins with. `stage.origins.comparing` has what a resume compares."""
    return {
        "seeds": {"seed": trainer.args.seed, "data_seed": trainer.args.data_seed},
        "processes": processes(trainer),
        "determinism": determinism(trainer.args.full_determinism),
        "libraries": libraries(),
        "model": model(trainer),
        **sampling(trainer.args),
        **shared(trainer),
    }


def first_line(stage: str, zero: int, found: dict[str, Any]) -> str:
    """A record in a line. zero: `sharding.zero`."""
    where, what = found["processes"], found["model"]
    count, total, trained = where["world_size"], what["parameters"], what["trained"]
    way = f"ZeRO-{zero}" if zero else {"NO": "", "FSDP": "FSDP2"}.get(where["type"], "DDP")
    joined_by = ", ".join(filter(None, (way, where["backend"])))
    learned = "all" if trained == total else f"{trained:,}"
    return (
        f"{stage}: {count} process{'es' * (count > 1)} on {where['device']}{f' ({joined_by})' * bool(joined_by)}; "
        f"{' and '.join(what['dtypes'])} weights, {what['attention']}; {total:,} parameters, {learned} trained"
    )


def sampling(arguments: Any) -> dict[str, Any]:
    """Of a stage that draws completions; the names are TRL's."""
    names = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"]
    names += ["max_completion_length", "generation_kwargs"]
    given = vars(arguments)
    return {"sampling": {name: given[name] for name in names}} if "generation_kwargs" in given else {}


def shared(trainer: Any) -> dict[str, Any]:
    """Of a stage that can compute a prompt once for its completions: whether it does, and why not."""
    if not hasattr(trainer, "not_shared"):  # SFT has one reply for each prompt
        return {}
    return {"sharing": {"share_prefix": trainer.not_shared is None, "why_not": trainer.not_shared}}


def processes(trainer: Any) -> dict[str, Any]:
    return {
        "world_size": trainer.args.world_size,
        "type": trainer.accelerator.distributed_type.value,
        "backend": torch.distributed.get_backend() if joined() else None,
        "device": trainer.args.device.type,
        "mixed_precision": trainer.accelerator.mixed_precision,
        "data_loader_workers": trainer.args.dataloader_num_workers,
    }


def determinism(full: bool) -> dict[str, Any]:
    """full: `training.full_determinism`."""
    return {
        "full_determinism": full,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "python_hash_seed": os.environ.get("PYTHONHASHSEED"),
        "threads": torch.get_num_threads(),
    }


def libraries() -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    return {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version()))
        if gpu and torch.distributed.is_nccl_available()
        else None,
    }


def model(trainer: Any) -> dict[str, Any]:
    """Under ZeRO-3 each process holds a part of the weights, so they are not sampled there; adapters and new heads,
    which are made after the base was loaded, are still whole."""
    weights = list(trainer.model.parameters())
    sharded = any(hasattr(weight, "ds_id") for weight in weights)
    sizes = [(elements(weight), weight) for weight in weights]
    return {
        "class": type(trainer.model).__name__,
        "attention": trainer.model.config._attn_implementation,
        "dtypes": sorted(set(map(kind, weights))),
        "parameters": sum(size for size, _ in sizes),
        "trained": sum(size for size, weight in sizes if weight.requires_grad),
        "sampled": None if sharded else digest(trainer.model),
    }
