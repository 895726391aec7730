"""Over-optimisation of a learned reward:  python launch/scaling.py BON_RUN GRPO_RUN… --out DIR [-h]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py

from studies.scaling import command  # noqa: E402
from vlm.common.console import terminal  # noqa: E402

if __name__ == "__main__":
    with terminal():
        sys.exit(command.main())
