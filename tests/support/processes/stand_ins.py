"""Stand-ins for programs that a script calls and that are not here, such as Slurm's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path


def install(folder: Path, programs: Mapping[str, str]) -> Callable[..., int]:
    """(script, arguments, variables) → the exit code of bash, which finds the stand-ins before anything else.

    programs: name → what it does, in shell. The script runs in `folder`, which the programs know as `$LOGS`.
    """
    there = folder / "bin"
    there.mkdir(exist_ok=True)
    for name, body in programs.items():
        (there / name).write_text(f"#!/bin/bash\n{body}\n")
        (there / name).chmod(0o755)

    def run(script: str | Path, *arguments: str, **variables: str) -> int:
        own = {**os.environ, **variables, "PATH": f"{there}:{os.environ['PATH']}", "LOGS": str(folder)}
        return subprocess.run(["bash", script, *arguments], cwd=folder, env=own, check=False).returncode

    return run
