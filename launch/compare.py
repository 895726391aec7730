"""Evaluations side by side:  python launch/compare.py base=runs/eval/base r1=runs/eval/r1 [--out DIR] [--published]

Several seeds of one model are joined by commas: r1=runs/a/eval,runs/b/eval. Each name is compared with the one before,
paired by question, with a 95% bootstrap interval. A folder is one evaluation, or holds one for each benchmark; with
--published, what papers report on those benchmarks is shown, too.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from evals.comparing.sidebyside import show  # noqa: E402
from stage.cli import guarded  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="name=folder[,folder…]")
    parser.add_argument("--out", type=Path, help="write table.md and comparison.png here")
    parser.add_argument("--published", action="store_true", help="show published figures too, marked as such")
    arguments = parser.parse_args()
    return guarded(lambda: show(arguments.runs, arguments.out, arguments.published))


if __name__ == "__main__":
    with terminal():
        sys.exit(main())
