"""Several seeds of several runs as one table and one figure:  python launch/table.py runs/ablation [-h]"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evals.benchmarks.published import figures  # noqa: E402
from evals.comparing.sidebyside import evaluations  # noqa: E402
from studies.tables import command  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main(None, evaluations, figures))
