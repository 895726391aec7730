"""Several seeds of several runs as one table and one figure:  python launch/table.py runs/ablation [-h]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from evals.benchmarks.published import figures  # noqa: E402
from evals.comparing.sidebyside import evaluations  # noqa: E402
from studies.tables import command  # noqa: E402
from vlm.common.console import terminal  # noqa: E402

if __name__ == "__main__":
    with terminal():
        sys.exit(command.main(None, evaluations, figures))
