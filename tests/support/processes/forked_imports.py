"""What the server of `tests.support.processes.forked` imports before it forks."""

from importlib import import_module

from vlm.common import telemetry

telemetry.quiet()

for name in (
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # torch's compiler, which each engine asks for
    "matplotlib.pyplot",
    "wandb",  # transformers looks for it
    "rewards.score.training.stage",
    "rewards.score.training.trainable",
    "rewards.score.training.trainer",
    "rl.stage",
    "rl.trainer",
    "sft.stage",
    "sft.trainer",
    "stage.curves",
    "stage.trainer.finish",
):
    import_module(name)

import torch  # noqa: E402
from transformers.conversion_mapping import get_checkpoint_conversion_mapping  # noqa: E402

get_checkpoint_conversion_mapping("qwen2_vl")  # 1,200 patterns, kept once they are made
torch.set_num_threads(1)
