"""Launchers where FSDP trains with several processes and no GPU:  accelerate launch fsdp_cpu.py JOBS

JOBS and the drawing of tokens: tests/support/processes/common_numbers.py.

Without a GPU accelerate 1.15 finds no process group unless told to use the CPU, and told so it leaves FSDP out. Here it
is given gloo and the CPU under the name of several GPUs, and the launchers run as they are. Each process says on stdout
what became of the weights of each trainer.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))


def give_gloo():
    from accelerate.state import DistributedType, PartialState

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def announce_units():
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from stage.parallel.fsdp import FullySharded

    prepare = FullySharded._prepare_for_training

    def announced(self, *args, **kwargs):
        prepared = prepare(self, *args, **kwargs)
        units = sum(isinstance(module, FSDPModule) for module in self.model.modules())
        split = [isinstance(weight, DTensor) for weight in self.model.parameters()]
        print(f"units: {units} on {self.args.world_size} processes, {sum(split)} of {len(split)} split", flush=True)
        return prepared

    FullySharded._prepare_for_training = announced


if __name__ == "__main__":
    from vlm.common import telemetry

    telemetry.quiet()  # before what is imported here
    give_gloo()
    announce_units()
    from tests.support.processes.common_numbers import go

    go(json.loads(sys.argv[1]))
