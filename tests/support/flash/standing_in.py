"""Makes transformers 5.23 and Nadir take the stand-in in `site/` for flash-attn on a GPU.

python -m tests.support.flash.standing_in MODULE …        # as `python -m MODULE …`, with it
"""

from __future__ import annotations

import importlib
import runpy
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

SITE = Path(__file__).parent / "site"


def install(put=setattr) -> None:
    """put: `setattr`, or a monkeypatch's.

    With `site/` on the path the package is found, with its version, as an installed one is. What is left to patch:
    transformers wants CUDA for it, and so does `vlm.loading`, which has to go on refusing float32.
    """
    put(sys, "path", [str(SITE), *sys.path])
    importlib.invalidate_caches()
    from transformers import modeling_flash_attention_utils, modeling_utils, utils
    from transformers.utils import import_utils

    from vlm import loading

    def available(kernels_fallback_ok=False):
        return True

    if hasattr(import_utils, "PACKAGE_DISTRIBUTION_MAPPING"):  # before transformers 5.23, read at its import
        import_utils.PACKAGE_DISTRIBUTION_MAPPING.update(packages_distributions())  # others hold it, too
    elif "flash_attn" not in import_utils._package_distribution_mapping():  # reading all metadata takes seconds
        import_utils._package_distribution_mapping.cache_clear()
    for owner in (utils, import_utils, modeling_flash_attention_utils):
        put(owner, "is_flash_attn_2_available", available)
    versions = modeling_utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX
    assert versions[2]["pkg_availability_check"](), "transformers does not see the stand-in's metadata"
    ours = {"general_availability_check": available, "supported_devices": ((available, "cpu"),)}
    put(modeling_utils, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", {**versions, 2: versions[2] | ours})
    fault = loading.flash_attention_fault

    def fault_but_cuda(dtype="bfloat16"):
        return fault(dtype) if dtype == "float32" else None

    put(loading, "flash_attention_fault", fault_but_cuda)


if __name__ == "__main__":
    install()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
