"""launch/grpo.py where DeepSpeed trains with several processes and no GPU:  accelerate launch zero_cpu.py RECIPE …

LAUNCHER: another one, by name.

Without a GPU accelerate 1.15 finds no process group unless told to use the CPU, and told so it leaves DeepSpeed out.
Here it is given gloo, and the launcher runs as it is. Every tensor is split under ZeRO-3, where DeepSpeed would keep
those of up to 100,000 numbers whole: all but two of a tiny model's. Each DeepSpeed engine says on stdout what it is.
"""

import os
import runpy
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
ROOT = Path(__file__).parents[3]


def build_nothing():
    """DeepSpeed compiles an all-reduce through shared memory for CPUs, a minute or more; gloo has one. And it decorates
    Muon by torch.compile, for which each process would import Inductor."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def give_gloo():
    from accelerate.state import DistributedType, PartialState

    found = PartialState._prepare_backend

    def gloo(self, cpu=False, sagemaker_dp=False, backend=None):
        """accelerate's own choice, or gloo where it finds no device for the several processes."""
        chosen = found(self, cpu, sagemaker_dp, backend)
        return chosen if chosen[1] != DistributedType.NO else ("gloo", DistributedType.MULTI_CPU)

    PartialState._prepare_backend = gloo


def split_every_tensor():
    from stage.trainer import arguments

    ours = arguments.deepspeed_config

    def splitting(section):
        config = ours(section)
        if section.zero == 3:
            config["zero_optimization"] |= {"stage3_param_persistence_threshold": 0}
        return config

    arguments.deepspeed_config = splitting


def announce_engines():
    from deepspeed.runtime.engine import DeepSpeedEngine

    build = DeepSpeedEngine.__init__

    def announced(self, *args, **kwargs):
        build(self, *args, **kwargs)
        sizes = f"reduce {self.zero_reduce_bucket_size()}, prefetch {self.zero_prefetch_bucket_size()}"
        sizes += f", live {self.zero_max_live_parameters()}" if self.client_optimizer is not None else "; frozen"
        print(f"engine: ZeRO-{self.zero_optimization_stage()} on {self.dp_world_size} processes: {sizes}", flush=True)
        if self.zero_optimization_stage() == 3:
            whole = [p for p in self.module.parameters() if p.ds_persist]
            print(f"engine: tensors kept whole: {len(whole)}", flush=True)

    DeepSpeedEngine.__init__ = announced


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from vlm.common import telemetry

    telemetry.quiet()  # as the launcher does, which comes after these imports here
    build_nothing()
    give_gloo()
    split_every_tensor()
    announce_engines()
    runpy.run_path(str(ROOT / f"launch/{os.environ.get('LAUNCHER', 'grpo')}.py"), run_name="__main__")
