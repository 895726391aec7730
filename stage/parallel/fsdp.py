"""`FullySharded`: what a transformers Trainer needs to train under FSDP2 as it does under DDP.

    class SFTTrainer(Resumable, FullySharded, trl.SFTTrainer): ...

FSDP2 (`torch.distributed.fsdp.fully_shard`, set up by accelerate from `recipes/accelerate/fsdp2.yaml`) holds a part of
each weight in each process and gathers a unit's weights around the unit's forward pass. What goes wrong with
accelerate 1.15, trl 1.16 and transformers 5.23, and stands here:

- accelerate makes the LM head a unit of its own, and trl's fused head multiplies with its weight without calling it, so
  nothing gathers it. trl takes `weight.full_tensor()`, whose backward pass hands each process the part of its own
  gradient, without the others'. Here the head is gathered with the model's forward pass; its gradient is then averaged
  as every other one is.
- Units are gathered again for each sampled token; and a process whose prompts have no pictures gathers no vision tower,
  and takes what the others gather for something else. Here all weights are whole while completions are sampled
  (`whole`), as trl has it for ZeRO-3.
- In mixed precision accelerate casts each unit's inputs and the model's outputs to it, the vision tower's sines as well
  as log-probabilities and loss, and sums gradients in it. Here activations stay as they are computed, and gradients are
  summed in float32.
- transformers finds the published names of weights by the model's class, which `fully_shard` renames, and tied weights
  by their place in memory, of which gathered ones have two. Here it is told both.
- Its checkpoints hold the weights twice, and it does not read them strictly. Here each process keeps its part of the
  optimiser's state, and the weights are those of model.safetensors (`stage.checkpoints`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import PrefixChange

from stage.parallel.sharding import fsdp_launched
from vlm.common.errors import RecipeError, UserError

OPTIMISER, SCHEDULE = "optimizer_{}.pt", "scheduler.pt"
"""In a checkpoint: one of the first for each process."""


class FullySharded:
    """Stands before a transformers Trainer among the bases; does nothing where FSDP is not on.

    Overridden: `create_accelerator_and_postprocess`, `_prepare_for_training`, `_get_grad_norm`, `_save`,
    `_save_optimizer_and_scheduler`, `_load_optimizer_and_scheduler`.
    """

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if not fsdp_launched():
            return
        if not self.is_fsdp_enabled:
            raise RecipeError(
                "accelerate was launched with FSDP and did not take it up, as without GPUs: each process would train "
                "by itself; take recipes/accelerate/cpu2.yaml where there is no GPU"
            )
        plugin = self.accelerator.state.fsdp_plugin
        if (policy := plugin.mixed_precision_policy) is not None:
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                policy.param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
            )

    def _prepare_for_training(self, *positional, **named):
        if self.is_fsdp_enabled:
            remember_names(self.model)
        prepared = super()._prepare_for_training(*positional, **named)
        if self.is_fsdp_enabled:
            gather_head(self.model)
        return prepared

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _save_optimizer_and_scheduler(self, output_dir):
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        file = OPTIMISER.format(self.args.process_index)
        torch.save(own_part(self.optimizer), Path(output_dir) / file)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULE)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if not self.is_fsdp_enabled or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        file = Path(checkpoint) / OPTIMISER.format(self.args.process_index)
        take_part(self.optimizer, torch.load(file, map_location=self.args.device, weights_only=True))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULE, weights_only=True))

    def _save(self, output_dir=None, state_dict=None):
        if self.is_fsdp_enabled and state_dict:  # in the process that writes
            for name, twin in self.model.all_tied_weights_keys.items():
                if name in state_dict:
                    state_dict[name] = state_dict[twin]
        super()._save(output_dir, state_dict)

    def whole(self):
        """A context in which all weights are whole in each process, and forward passes are its own affair."""
        return whole(self.model, self.accelerator.state.fsdp_plugin.reshard_after_forward)


def remember_names(model) -> None:
    """Before a model is split: the names that it is saved under, which transformers looks up by its class's own name.

    The same as `transformers.core_model_loading.revert_weight_conversion` finds for a model that is not split.
    """
    renamings = get_model_conversion_mapping(model, add_legacy=False)
    model._weight_conversions = [renaming for renaming in renamings if not isinstance(renaming, PrefixChange)]


def gather_head(model) -> None:
    """Gather the LM head whenever the model's forward pass begins; it is split again with the backward pass."""
    head = model.get_output_embeddings()
    if isinstance(head, FSDPModule):
        model.register_forward_pre_hook(lambda *_: head.unshard())


@contextmanager
def whole(model, reshard: bool) -> Iterator[None]:
    """See `FullySharded.whole`. Collective at its beginning. reshard: whether units are split after a forward pass."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(reshard and unit is not model, recurse=False)


def own_part(optimizer) -> dict[str, Any]:
    """The optimiser's state with this process's parts of split tensors; `sharded` tells which.

    Raises: UserError for an optimiser whose tensors are not split as their parameters are.
    """
    content = optimizer.state_dict()
    weights = parameters(optimizer)
    state, sharded = {}, []
    for number, kept in content["state"].items():
        for name, value in kept.items():
            if not isinstance(value, DTensor):
                continue
            if (value.shape, value.placements) != (weights[number].shape, weights[number].placements):
                raise UserError(
                    f"{type(optimizer.optimizer).__name__} keeps {name} split in another way than its weight, which a "
                    "checkpoint under FSDP cannot hold; take adamw_torch, or training.save_strategy=no"
                )
            sharded.append((number, name))
        state[number] = {name: part(value) for name, value in kept.items()}
    return {**content, "state": state, "sharded": sharded}


def take_part(optimizer, content: dict[str, Any]) -> None:
    """The inverse of `own_part`, in as many processes."""
    weights = parameters(optimizer)
    for number, name in content.pop("sharded"):
        weight, kept = weights[number], content["state"][number]
        layout = {"shape": weight.shape, "stride": weight.stride()}
        kept[name] = DTensor.from_local(kept[name], weight.device_mesh, weight.placements, run_check=False, **layout)
    optimizer.load_state_dict(content)


def parameters(optimizer) -> list[torch.Tensor]:
    """In the order in which the optimiser numbers them."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def part(value: Any) -> Any:
    """This process's part of a split tensor; anything else as it is."""
    return value.to_local() if isinstance(value, DTensor) else value
