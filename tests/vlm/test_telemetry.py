"""Nothing phones home by default, neither in the product nor from these tests."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vlm.common import telemetry

ROOT = Path(__file__).parents[2]


def test_quiet_sets_defaults_and_respects_the_user(monkeypatch):
    for name in telemetry.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    for module in telemetry.READ_AT_IMPORT.values():
        monkeypatch.delitem(sys.modules, module, raising=False)
    telemetry.quiet()
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0"
    assert {n: os.environ[n] for n in telemetry.DEFAULTS if n != "HF_HUB_DISABLE_TELEMETRY"} == {
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "WANDB_ERROR_REPORTING": "false",
        "VLLM_NO_USAGE_STATS": "1",
    }


def test_quiet_too_late_is_an_error(monkeypatch):
    import huggingface_hub.constants  # noqa: F401

    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    with pytest.raises(RuntimeError, match="before huggingface_hub.constants is imported"):
        telemetry.quiet()


def test_the_libraries_honour_what_quiet_sets():
    """In a fresh process, as in a launcher; and the installed sources still ask for these very names."""
    code = (
        "from vlm.common.telemetry import quiet; quiet()\n"
        "import huggingface_hub.constants as hub, datasets.config as data, wandb.env as wandb\n"
        "from transformers.utils.import_utils import is_env_variable_true\n"
        "print(hub.HF_HUB_DISABLE_TELEMETRY, data.HF_UPDATE_DOWNLOAD_COUNTS)\n"
        "print(wandb.error_reporting_enabled(), is_env_variable_true('DISABLE_SAFETENSORS_CONVERSION'))\n"
    )
    clean = {k: v for k, v in os.environ.items() if k not in telemetry.DEFAULTS}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False", "True"]
    import transformers.modeling_utils

    assert '"DISABLE_SAFETENSORS_CONVERSION"' in Path(transformers.modeling_utils.__file__).read_text()


def test_trl_reports_through_the_hub_switch_alone():
    import huggingface_hub.utils._telemetry as sender
    import trl

    sources = {p: p.read_text(encoding="utf-8") for p in Path(trl.__file__).parent.rglob("*.py")}
    assert [p.name for p, text in sources.items() if "send_telemetry(" in text] == ["base_trainer.py"]
    assert "from huggingface_hub.utils import send_telemetry" in next(
        text for p, text in sources.items() if p.name == "base_trainer.py"
    )
    assert "constants.HF_HUB_DISABLE_TELEMETRY" in Path(sender.__file__).read_text()


def test_the_socket_guard_of_these_tests(no_network):
    with socket.socket() as probe, pytest.raises(OSError, match="tests have no network"):
        probe.connect(("192.0.2.1", 80))  # TEST-NET-1, RFC 5737: never a real host
    assert no_network == [("192.0.2.1", 80)]
    no_network.clear()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()):
            pass
