"""Every test: one thread, a fixed seed, nothing from the hub, no network beyond this machine.

The environment is set when this file is imported, before any test module imports a library that reads it, and
is inherited by the processes that tests start (the socket guard is not: there, offline mode does its work).

Which tests run: those marked `full` or `vllm` where -m names them, those marked `gpu` where there is a GPU. Any other
that is skipped fails a session of CI (.ci/run sets NADIR_CI): there, everything that a test needs is to be installed.
"""

import logging
import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    WANDB_MODE="disabled",
    WANDB_ERROR_REPORTING="false",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
)
# A test is a process of its own, not a rank of whatever started pytest.
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

import atexit  # noqa: E402
import functools  # noqa: E402
import ipaddress  # noqa: E402
import random  # noqa: E402
import runpy  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# Kept tables of data (`samples.store`) are this session's, and go with it.
os.environ["NADIR_CACHE"] = tempfile.mkdtemp(prefix="nadir-cache-")
atexit.register(shutil.rmtree, os.environ["NADIR_CACHE"], ignore_errors=True)
# The same examples in each run, and no time limit on one: on two busy cores it measures the neighbours.
hypothesis.settings.register_profile("nadir", deadline=None, derandomize=True)
hypothesis.settings.load_profile("nadir")


def pytest_collection_modifyitems(config, items):
    """No -m of another kind ("not slow") may bring in the tests that take minutes each, or need vLLM."""
    unasked = {mark for mark in ("full", "vllm") if mark not in config.option.markexpr}
    dropped = [item for item in items if unasked & {mark.name for mark in item.iter_markers()}]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA GPU here")


def unwanted_skips(config) -> list[str]:
    """In CI: test or module and reason, one a line, of each that was skipped and is not marked `gpu`."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")  # xdist's workers have none
    if "NADIR_CI" not in os.environ or reporter is None:
        return []
    skipped = reporter.stats.get("skipped", [])
    unwanted = [
        report for report in skipped if isinstance(report, pytest.CollectReport) or "gpu" not in report.keywords
    ]
    return [f"{report.nodeid}: {report.longrepr[2]}" for report in unwanted]


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.OK and unwanted_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if found := unwanted_skips(config):
        terminalreporter.section("skipped in CI, where only GPU tests may be", red=True, bold=True)
        terminalreporter.write("".join(f"{line}\n" for line in found))


def is_local(family: int, address) -> bool:
    """Whether a socket address stays on this machine: Unix, loopback, or the name localhost."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:  # a name
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Connecting anywhere but to this machine is an error, also where a library would swallow the failure."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    tried = []

    def guard(real):
        def guarded(self, address):
            if not is_local(self.family, address):
                tried.append(address)
                raise OSError(f"tests have no network; tried to reach {address}")
            return real(self, address)

        return guarded

    monkeypatch.setattr(socket.socket, "connect", guard(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guard(connect_ex))
    yield tried
    assert not tried, f"the test tried to reach {tried}"


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for each test, in whatever order they run; torch too where it is in use."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(0)
        torch.set_num_threads(1)


@pytest.fixture
def flash_attn(monkeypatch):
    """The stand-in for flash-attn, installed for one test, with its counters at 0."""
    from tests.support.flash.standing_in import install

    install(monkeypatch.setattr)
    import flash_attn

    flash_attn.calls.clear()
    return flash_attn


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """Folder of a tiny Qwen2-VL with random weights (float32, 112 × 112 pixels). Read only: many tests share it."""
    from demo import tiny

    folder = tmp_path_factory.mktemp("tiny_model")
    tiny.build(folder)
    return str(folder)


@pytest.fixture(scope="session")
def family_checkpoints(tmp_path_factory):
    """Kind of a family → folder of its tiny checkpoint (`tests.support.families`). Read only: many tests share them."""
    from tests.support.families import checkpoint

    return functools.cache(lambda kind: checkpoint(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory):
    """A small demo data set as demo.dataset writes it. Read only: many tests share it.

    16 rows each of sft/traces.json and grpo/{prompts,captions}.jsonl; 4 each of test/{vg_test.json,vqa_test.jsonl,
    choice_test.jsonl,caption_test.jsonl}.
    """
    from demo import dataset
    from demo.world.scene import SPLIT_SEEDS

    folder = tmp_path_factory.mktemp("demo_data")
    dataset.traces(folder / "sft", SPLIT_SEEDS["sft"], 16)
    dataset.prompts(folder / "grpo", SPLIT_SEEDS["grpo"], 16)
    dataset.test(folder / "test", SPLIT_SEEDS["test"], 4)
    return folder


@pytest.fixture(autouse=True)
def log_levels():
    """`launch` sets the packages' log levels; other tests of this process get back what they had."""
    loggers = [logging.getLogger(name) for name in ("vlm", "samples", "stage", "rewards", "sft", "rl", "evals")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def started(monkeypatch, capsys, log_levels):
    """(launcher, its words, environment variables) → its standard output: a launcher in this process.

    Saves the ten seconds of imports of a process of its own. Fails where the launcher exits with another code than 0.
    """

    def go(launcher: str, *words: object, **variables: str) -> str:
        path = list(sys.path)
        with monkeypatch.context() as patch:
            for name, value in {"COLUMNS": "100", **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", [launcher, *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(Path(__file__).parents[1] / launcher), run_name="__main__")
        sys.path[:] = path
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return said.out

    return go


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB; one checkpoint of the tiny model takes 35. Only root may mount it; CI may ask sudo."""
    place = tmp_path / "disk"
    place.mkdir()
    by = ["sudo", "-n"] if "NADIR_CI" in os.environ and os.geteuid() else []
    command = [*by, "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here (needs root)")
    yield place
    subprocess.run([*by, "umount", "-l", str(place)], check=True)
