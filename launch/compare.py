"""Evaluations side by side:  python launch/compare.py base=runs/eval/base r1=runs/eval/r1 [--out DIR] [--published]

Several seeds of one model are joined by commas: r1=runs/a/eval,runs/b/eval. Each name is compared with the one before,
paired by question, with a 95% bootstrap interval. A folder is one evaluation, or holds one for each benchmark; with
--published, what papers report on those benchmarks stands beside.
"""

import argparse
import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evals.comparing.sidebyside import show  # noqa: E402
from vlm.common.errors import UserError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="name=folder[,folder…]")
    parser.add_argument("--out", type=Path, help="write table.md and comparison.png here")
    parser.add_argument("--published", action="store_true", help="put published figures beside, marked as such")
    arguments = parser.parse_args()
    try:
        show(arguments.runs, arguments.out, arguments.published)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
