"""torch's allocator on GPUs takes memory in segments that grow, instead of blocks that tensors of their size alone fit.

A rollout's cache grows by a token at a time, and every longer copy leaves a hole behind: reserved memory then reaches
the card's limit long before what is in use does, and NCCL, which allocates outside of torch, finds none.
"""

from __future__ import annotations

import os
import sys
from typing import Any

NAME = "PYTORCH_ALLOC_CONF"
OLDER = "PYTORCH_CUDA_ALLOC_CONF"
SETTING = "expandable_segments:True"


def expandable(recipe: Any = None) -> None:
    """Ask for such segments, before torch is imported, which reads the variable then; processes started later inherit
    it.

    What the user has set stays, in the older name, too. Not where vLLM generates in the training process: its sleep
    mode and its all-reduce refuse them. Not beside Linux, where torch has none.
    """
    if sys.platform != "linux" or "torch" in sys.modules or {NAME, OLDER} & os.environ.keys() or _colocated(recipe):
        return
    os.environ[NAME] = SETTING


def _colocated(recipe: Any) -> bool:
    """Whether a recipe has vLLM in the training process."""
    return (
        getattr(recipe, "stage", None) == "grpo"
        and recipe.argument("use_vllm")
        and (recipe.argument("vllm_mode") == "colocate")
    )
