"""The command line of launch/ablate.py."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from stage.recipe import config
from stage.recipe.editors import json_schema
from stage.recipe.keys import page
from studies import study
from studies.matrix import axes, commands, marks, planning, slurm, view
from studies.matrix.planning import Plan, Stage
from studies.matrix.recipe import Launchers, MatrixRecipe
from studies.matrix.running import Outcome, Runner
from vlm.common.errors import RESUMABLE, UserError

LAST_WORDS = 3
"""Lines of a failed stage's log that are repeated."""


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("matrix", nargs="?", help="YAML matrix")
    made.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the matrix")
    made.add_argument("--keys", nargs="?", const="", metavar="all|WORD", help="list the keys of a matrix and stop")
    made.add_argument("--schema", action="store_true", help="print the matrix's JSON schema, for editors, and stop")
    made.add_argument("--dry-run", action="store_true", help="resolve and check everything, print the plan and stop")
    made.add_argument("--commands", action="store_true", help="print the command of each stage to do and stop")
    made.add_argument("--slurm", type=Path, metavar="FILE", help="write a script of array jobs and stop")
    made.add_argument("--only", action="append", metavar="LABEL", help="only these runs (R1-*; may be repeated)")
    made.add_argument("--stage", metavar="KEY", help="only this one stage, such as R1-with/seed-0/grpo")
    made.add_argument("--jobs", type=int, help="stages at a time, where no GPUs are given; 1 by default")
    made.add_argument("--gpus", metavar="0,1,…", help="GPUs to share out, `per_run` to each stage; else all see all")
    return made


def main(arguments: argparse.Namespace, launchers: Launchers) -> int:
    """Returns the exit code: 0 all asked for has finished, 1 a stage has failed, 75 stopped by a signal.

    Raises: UserError before anything runs.
    """
    if arguments.keys is not None or arguments.schema:
        print(json_schema(MatrixRecipe) if arguments.schema else page(MatrixRecipe, arguments.keys))
        return 0
    if arguments.matrix is None:
        raise UserError("a matrix is needed, e.g. recipes/ablation.yaml")
    file = Path(arguments.matrix)
    matrix = config.load(file, MatrixRecipe, arguments.overrides)
    plan = planning.plan(matrix, file, launchers)
    marks.check(plan)
    stages = selected(plan, arguments.only, arguments.stage)
    places = slots(matrix, arguments.gpus, arguments.jobs)
    todo = [stage for stage in stages if marks.ended(stage) is None]

    def command(stage: Stage) -> list[str]:
        return commands.words(stage, plan, launchers)

    if arguments.commands:
        print(slurm.listing(todo, command))
        return 0
    if arguments.stage is None:
        view.show(plan, len(places))
    if arguments.dry_run:
        return 0
    study.write(plan, {values[0].axis: [value.name for value in values] for values in axes.read(matrix, file)})
    if arguments.slurm is not None:
        text = slurm.script(plan, stages, [arguments.matrix, *arguments.overrides], arguments.slurm)
        arguments.slurm.parent.mkdir(parents=True, exist_ok=True)
        arguments.slurm.write_text(text, encoding="utf-8")
        print(f"written: {arguments.slurm}; submit with: bash {shlex.quote(str(arguments.slurm))}")
        return 0
    code = report(Runner(places, command, lambda line: print(line, flush=True)).run(stages))
    if code == 0 and stages == plan.stages:
        print(f"next: python launch/report.py {matrix.output} --compare; python launch/table.py {matrix.output}")
    return code


def selected(plan: Plan, labels: Sequence[str] | None, key: str | None) -> list[Stage]:
    """The stages of the runs that were asked for, or the one. Raises: UserError where there are none."""
    if key is not None:
        found = [stage for stage in plan.stages if stage.key == key]
        if not found:
            raise UserError(f"--stage {key}: expected one of {', '.join(stage.key for stage in plan.stages)}")
        for need in found[0].needs:
            if marks.ended(need) is None:
                raise UserError(f"{key} needs {need.key}, which has not finished; see {marks.log(need)}")
        return found
    if labels is None:
        return plan.stages
    known = list(dict.fromkeys(run.label for run in plan.runs))
    for pattern in labels:
        if not any(fnmatchcase(label, pattern) for label in known):
            raise UserError(f"--only {pattern}: no run is called so; expected one of {', '.join(known)}")
    runs = [run for run in plan.runs if any(fnmatchcase(run.label, pattern) for pattern in labels)]
    return [stage for stage in plan.stages if any(run in runs for run in stage.runs)]


def slots(matrix: MatrixRecipe, gpus: str | None, jobs: int | None) -> list[str | None]:
    """What each stage of those that may run at a time sees. Raises: UserError."""
    if gpus is None:
        if jobs is not None and jobs < 1:
            raise UserError(f"--jobs {jobs}; expected at least 1")
        return [None] * (jobs or 1)
    names = [name.strip() for name in gpus.split(",")]
    if jobs is not None:
        raise UserError("--gpus says how many stages run at a time (one for each `per_run` GPUs); leave --jobs out")
    if not all(names) or len(set(names)) < len(names) or len(names) % matrix.per_run:
        raise UserError(f"--gpus {gpus}: expected different GPUs, a multiple of per_run = {matrix.per_run}")
    return [",".join(names[at : at + matrix.per_run]) for at in range(0, len(names), matrix.per_run)]


def report(outcome: Outcome) -> int:
    """Print how it ended; returns the exit code."""
    for stage, code in outcome.failed.items():
        runs = ", ".join(run.folder for run in stage.runs)
        print(f"\nfailed: {stage.key} (exit code {code}; of {runs})\n  log: {marks.log(stage)}", file=sys.stderr)
        lines = marks.log(stage).read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(f"  | {line}" for line in lines[-LAST_WORDS:]), file=sys.stderr)
    if outcome.waiting:
        print(f"\nnot run: {', '.join(stage.key for stage in outcome.waiting)}", file=sys.stderr)
    if outcome.failed:
        print("\nThe same command tries again what failed, and continues with the rest.", file=sys.stderr)
        return 1
    if outcome.stopped or outcome.waiting:
        print("\nstopped; to continue: the same command", file=sys.stderr)
        return RESUMABLE
    print("all stages have finished")
    return 0
