"""`zero_cpu.py` where FlashAttention-2 is asked for:  accelerate launch flash_cpu.py RECIPE …

With the stand-in for flash-attn, whose calls each process prints at its end.
"""

import json
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def allow_bf16(put=setattr):
    """transformers takes bf16 on a CPU only by `use_cpu`, which would leave DeepSpeed out. put: or a monkeypatch's."""
    from transformers import training_args

    put(training_args, "is_torch_bf16_gpu_available", lambda: True)


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    sys.path.insert(0, str(ROOT))
    from vlm.common import telemetry

    telemetry.quiet()  # as the launcher does, which comes after these imports here
    from tests.support.flash.standing_in import install

    install()
    allow_bf16()
    import flash_attn

    try:
        runpy.run_path(str(Path(__file__).with_name("zero_cpu.py")), run_name="__main__")
    finally:
        print(f"flash_attn: {json.dumps(flash_attn.calls)}", flush=True)
