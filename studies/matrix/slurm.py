"""A plan as a script for Slurm: one array job for each wave of stages that need none of their own wave.

    python launch/ablate.py recipes/ablation.yaml --slurm runs/ablation/jobs.sh
    bash runs/ablation/jobs.sh          # submits the waves, each after the one before it

An element is one stage, on one node: `launch/ablate.py … --stage R1-with/seed-0/grpo`. Stopped by a signal before the
time limit, it is queued again; what has finished ends in a moment, so the same script may be submitted again.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from studies.matrix.commands import ROOT
from studies.matrix.planning import Plan, Stage
from vlm.common.errors import RecipeError

SCRIPT = """#!/bin/bash
# {name}: {count} stages in {waves} waves, written by launch/ablate.py. Submit with:  bash {file}
{options}
set -euo pipefail
cd {here}
stages=(
{stages}
)
if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
{submit}
    exit
fi
status=0
srun --ntasks=1 {python} {ablate} {arguments} --stage "${{stages[$SLURM_ARRAY_TASK_ID]}}" || status=$?
if [ "$status" -eq 75 ]; then     # stopped by a signal, with a checkpoint
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def waves(stages: list[Stage]) -> list[list[Stage]]:
    """Stages that need none, those that need only these, and so on."""
    depth: dict[Stage, int] = {}
    for stage in stages:  # those needed stand first
        depth[stage] = 1 + max((depth[one] for one in stage.needs if one in depth), default=-1)
    return [
        [stage for stage in stages if depth[stage] == level] for level in range(1 + max(depth.values(), default=-1))
    ]


def script(plan: Plan, stages: list[Stage], arguments: list[str], file: Path) -> str:
    """arguments: of launch/ablate.py, the matrix and its overrides. Raises: RecipeError for an option set here."""
    found = waves(stages)
    options = {
        "job-name": plan.name,
        "nodes": 1,
        "ntasks": 1,
        "gpus-per-node": plan.matrix.per_run,
        "signal": "TERM@900",
        "requeue": None,
        "open-mode": "append",
        "output": "%x-%A-%a.out",
    }
    for key in plan.matrix.slurm:
        if key in ("array", "nodes", "ntasks", "dependency"):
            raise RecipeError(f"slurm.{key} is set by launch/ablate.py: an element is one stage on one node")
    options |= plan.matrix.slurm
    submit, first = [], 0
    for number, wave in enumerate(found):
        # afterany: one that failed does not keep the others from running
        after = f' --dependency="afterany:$wave{number - 1}"' if number else ""
        submit.append(f'    wave{number}=$(sbatch --parsable --array={first}-{first + len(wave) - 1}{after} "$0")')
        first += len(wave)
    return SCRIPT.format(
        name=plan.name,
        count=len(stages),
        waves=len(found),
        file=file,
        options="\n".join(f"#SBATCH --{key}" + ("" if v in (None, True) else f"={v}") for key, v in options.items()),
        here=shlex.quote(os.getcwd()),
        stages="\n".join(f"    {shlex.quote(stage.key)}" for wave in found for stage in wave),
        submit="\n".join(submit),
        python="python",
        ablate=shlex.quote(str(ROOT / "launch/ablate.py")),
        arguments=shlex.join(arguments),
    )


def listing(stages: list[Stage], command: Callable[[Stage], list[str]]) -> str:
    """The commands, wave by wave: those of one wave may run side by side."""
    lines = []
    for number, wave in enumerate(waves(stages), 1):
        lines.append(f"# wave {number} of {len(waves(stages))}")
        lines += [shlex.join(command(stage)) for stage in wave]
    return "\n".join(lines)
