"""Detection in large scenes: cut them into tiles, ask a model, merge its answers, score detectors:

    python launch/detect.py run DOTA/val --model runs/rscovlm --notation rscovlm_quad --out runs/val
    python launch/detect.py cut | merge | score … (-h)

Exit code: 0 done; 2 the command, or a file that it names, is wrong; 130 Ctrl-C, the same command continues.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from vlm.common import telemetry  # noqa: E402

telemetry.quiet()

from evals.merging import commands  # noqa: E402
from evals.scoring.detectors import command as detectors  # noqa: E402
from stage.cli import guarded  # noqa: E402
from vlm.common.console import terminal  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add(subparsers)
    detectors.add(subparsers)
    arguments = commands.parse(parser)
    return guarded(lambda: arguments.run(arguments))


if __name__ == "__main__":
    with terminal():
        sys.exit(main())
