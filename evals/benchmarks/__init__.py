"""Public benchmarks by name: where their files lie, how their project asks, and how it counts.

    python launch/eval.py --benchmarks dior-rsvg,lhrs-bench --model runs/r1/final --data data --out runs/eval/r1

`evals.benchmarks.catalogue` declares them, one `Benchmark(...)` each.
"""

from evals.benchmarks.catalogue import BENCHMARKS, find
from evals.benchmarks.spec import Benchmark, Source

__all__ = ["BENCHMARKS", "Benchmark", "Source", "find"]
