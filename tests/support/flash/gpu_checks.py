"""benchmarks/gpu.sh without a GPU: what it would start, and its rehearsal in this process."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from pathlib import Path

from benchmarks.support.common import ROOT

SCRIPT = ROOT / "benchmarks/gpu.sh"
STANDING_IN = "tests.support.flash.standing_in"
PYTHON = """#!/bin/sh
[ "$1" = -c ] && { echo "$INSTALLED"; exit; }
echo "$@" >> "$0.log"
case "$*" in *"${FAILS:-nothing fails}"*) exit 3 ;; esac
"""


def limits() -> dict[str, int]:
    """Seconds of each check of the list."""
    found = re.findall(r"^    check (\d+) +(\w+) ", SCRIPT.read_text(), re.MULTILINE)
    return {name: int(seconds) for seconds, name in found}


def asked(script: Path, folder: Path, *given: str, status: int = 0, **more: str) -> tuple[list[list[str]], str]:
    """Module and options of each start of python by a benchmark script, and what the script printed.

    Its python does nothing; INSTALLED are packages that it has, and a start whose words contain FAILS fails.
    """
    fake = folder / "python"
    fake.write_text(PYTHON)
    fake.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(fake), "OUT": str(folder / "out"), **more}
    done = subprocess.run([str(script), *given], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    log = folder / "python.log"
    lines = [line.split() for line in log.read_text().splitlines()]
    log.unlink()
    return [words[1:] for words in lines], done.stdout  # behind -m


def rehearse(name: str, folder: Path) -> dict:
    """One check of the list as GPU_REHEARSAL=1 asks for it, in this process; its NAME.json."""
    starts, _ = asked(SCRIPT, folder, name, GPU_REHEARSAL="1", INSTALLED="vllm")
    module, *argv = next(words for words in starts if "benchmarks.support.summary" not in words)
    if module == STANDING_IN:  # the fixture `flash_attn` has installed it
        module, *argv = argv
    importlib.import_module(module).main(argv)
    return json.loads((folder / f"out/rehearsal/{name}.json").read_text())


def environment(python: str, out: Path) -> dict[str, str]:
    """For a rehearsal of the script itself."""
    return {**os.environ, "GPU_REHEARSAL": "1", "PYTHON": python, "OUT": str(out)}
