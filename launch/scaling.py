"""Over-optimisation of a learned reward:  python launch/scaling.py BON_RUN GRPO_RUN… --out DIR [-h]"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where `sft.py` would shadow the package `sft`: the root goes before it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from studies.scaling import command  # noqa: E402

if __name__ == "__main__":
    sys.exit(command.main())
