"""Run a launcher, and print at its end which heavy libraries it has imported:  python light.py launch/grpo.py …"""

import runpy
import sys

HEAVY = ["torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "scipy", "pandas", "sympy"]

sys.argv = sys.argv[1:]
sys.path.insert(0, sys.path.pop(0).partition("/tests/")[0])

try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("heavy:", *sorted(set(HEAVY) & set(sys.modules)))
