"""Switches off, by default, everything in the libraries underneath that reports to somebody else.

`quiet()` stands at the top of each launcher, before the libraries are imported: they read these variables
once, at import. A variable that the user has set already is left alone, so HF_HUB_DISABLE_TELEMETRY=0 turns
it on again. What the user asks for (a model by hub id, wandb in the recipe) still works; this is about what
nobody asked for.
"""

import os
import sys

DEFAULTS = {
    # huggingface_hub: TRL's ping when a trainer is built (model type, GPU, world size), and the software
    # versions that transformers and datasets put into the user agent of every download.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # datasets: a request to a counter on S3 each time a dataset of the hub is loaded, from the cache too.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # transformers: a thread that asks a public service to convert a hub checkpoint not in safetensors.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    # wandb: crash reports and usage metrics of the library itself, apart from the run.
    "WANDB_ERROR_REPORTING": "false",
    # vLLM, where TRL is told to generate with it: usage statistics.
    "VLLM_NO_USAGE_STATS": "1",
}

# The modules that read the variables when imported; later they no longer look.
READ_AT_IMPORT = {
    "HF_HUB_DISABLE_TELEMETRY": "huggingface_hub.constants",
    "HF_UPDATE_DOWNLOAD_COUNTS": "datasets.config",
}


def quiet() -> None:
    """Sets those of DEFAULTS that are not set. RuntimeError when a library has read its own already."""
    for name, value in DEFAULTS.items():
        module = READ_AT_IMPORT.get(name)
        if name not in os.environ and module in sys.modules:
            raise RuntimeError(
                f"vlm.common.telemetry.quiet() must run before {module} is imported: it reads {name} once"
            )
        os.environ.setdefault(name, value)
