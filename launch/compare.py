"""Evaluations side by side:  python launch/compare.py base=runs/eval/base r1=runs/eval/r1 [--out DIR]

Several seeds of one model are joined by commas: r1=runs/a/eval,runs/b/eval. Each name is compared with the one before,
paired by question, with a 95% bootstrap interval.
"""

import argparse
import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evals.sidebyside import show  # noqa: E402
from vlm.errors import UserError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="name=folder[,folder…]")
    parser.add_argument("--out", type=Path, help="write table.md here")
    arguments = parser.parse_args()
    try:
        show(arguments.runs, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
