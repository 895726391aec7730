"""Lets vLLM's CPU build run where there is no CPU build of torchvision, and take weights from a trainer.

On the path of `make test-vllm` alone, by PYTHONPATH, so that vLLM's own processes have it, too. Nothing happens before
torchvision or vLLM is imported.

torchvision: the wheel's compiled operators want CUDA; importing it fails on `operator torchvision::nms does not exist`.
They are declared without a body: Qwen2-VL's processor uses none of them.
vLLM: linear layers on a CPU pack their weights and drop them, so that later ones cannot be loaded; here they keep them.
It compiles nothing, which takes longer than a test.
"""

import contextlib
import importlib.abc
import importlib.util
import re
import sys
from pathlib import Path


def before_torchvision(spec):
    import torch

    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    for name in sorted(
        {one or other for one, other in re.findall(r'register_meta\("(\w+)"|torchvision::(\w+)', source)}
    ):
        with contextlib.suppress(RuntimeError):  # the wheel has it after all
            torch.library.define(f"torchvision::{name}", "(Tensor x) -> Tensor")


def after_utils(module):
    import torch

    def keep(layer, *rest, **named):
        layer.cpu_linear = torch.nn.functional.linear

    module.dispatch_cpu_unquantized_gemm = keep


def after_arguments(module):
    made = module.EngineArgs.create_engine_config

    def eager(self, *given, **named):
        self.enforce_eager = True
        return made(self, *given, **named)

    module.EngineArgs.create_engine_config = eager


BEFORE = {"torchvision": before_torchvision}
AFTER = {"vllm.model_executor.layers.utils": after_utils, "vllm.engine.arg_utils": after_arguments}


class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in BEFORE and name not in AFTER:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None:
            return None
        if name in BEFORE:
            BEFORE[name](spec)
        if name in AFTER:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                AFTER[name](module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
