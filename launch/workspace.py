"""Saved view and ablation report in wandb:  python launch/workspace.py [ENTITY/]PROJECT --group NAME … [--dry-run]

Runs of one wandb group (`tracking.group`) or several, seeds averaged, grouped by the cells of `tracking.axes`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from stage.cli import guarded  # noqa: E402
from studies import workspace  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", metavar="[ENTITY/]PROJECT")
    parser.add_argument("--group", nargs="+", required=True, help="wandb groups, as tracking.group names them")
    parser.add_argument("--by", nargs="+", default=[], metavar="AXIS", help="group by these axes instead of the cell")
    parser.add_argument("--stage", default="grpo", help="show runs of this stage alone; `all` for every one")
    parser.add_argument("--title", default="", help="of the view and the report")
    parser.add_argument("--dry-run", action="store_true", help="print both as JSON; no network, no account")
    arguments = parser.parse_args()
    entity, _, project = arguments.project.rpartition("/")
    stage = None if arguments.stage == "all" else arguments.stage
    view = workspace.View(project, arguments.group, entity, arguments.by, stage, arguments.title)

    def work() -> None:
        made = [workspace.described(*workspace.definitions(view))] if arguments.dry_run else workspace.save(view)
        print(*made, sep="\n")

    return guarded(work)


if __name__ == "__main__":
    with terminal():
        sys.exit(main())
