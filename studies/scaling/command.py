"""Over-optimisation of a learned reward: best-of-N and GRPO, the learned reward against gold over sqrt(KL).

    python launch/scaling.py runs/demo/bon runs/demo/grpo_score --out runs/demo/scaling
    python launch/scaling.py GRPO=runs/a/grpo,runs/b/grpo --gold rewards/reward/mean

A FOLDER is a run of launch/bon.py or of launch/grpo.py; label=folder,folder puts the seeds of one training together.
Writes scaling.json (for reports), table.md, scaling.png and scaling.svg, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage.cli import guarded
from studies.scaling import best_of_n, figure, grpo, summary
from vlm.common.errors import UserError


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("runs", nargs="+", metavar="FOLDER|label=folder[,folder…]")
    out.add_argument("--out", type=Path, help="write the files here (default: print the table only)")
    out.add_argument("--learned", default=grpo.LEARNED, help="GRPO's learned reward in metrics.jsonl (%(default)s)")
    out.add_argument("--gold", help="GRPO's gold there (default: the reward that the recipe gives weight 0)")
    out.add_argument("--metric", help="best-of-N's gold (default: open_ended/gold, or the only one)")
    out.add_argument("--selector", default="score", help="best-of-N's learned reward (%(default)s)")
    out.add_argument("--title", default="", help="of the figure")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = parser().parse_args(argv)
    return guarded(lambda: show(arguments))


def show(arguments: argparse.Namespace) -> None:
    """Table and files. Raises: UserError for what cannot be read."""
    records = [record(spec, arguments) for spec in arguments.runs]
    told = summary.markdown(records)
    sys.stdout.write(told)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "table.md").write_text(told, encoding="utf-8")
        text = json.dumps({"curves": records}, indent=1, ensure_ascii=False, allow_nan=False)
        (arguments.out / "scaling.json").write_text(text + "\n", encoding="utf-8")
        figure.draw(records, arguments.out / "scaling.png", arguments.title)


def record(spec: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One argument as a curve. Raises: UserError for a folder that holds neither kind of run."""
    label, equals, folders = spec.partition("=")
    if not equals or Path(spec).exists():
        label, folders = Path(spec).resolve().name, spec
    places = [Path(folder) for folder in folders.split(",")]
    if any((place / best_of_n.FILE).exists() for place in places):
        if len(places) > 1:
            raise UserError(f"{spec}: best-of-N has one folder a curve; give each a label of its own")
        return summary.of_bon(best_of_n.read(places[0], arguments.metric, arguments.selector), label)
    return summary.of_grpo([grpo.read(place, arguments.learned, arguments.gold) for place in places], label)
