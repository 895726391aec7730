"""What a training step costs, in every run's log: seconds by phase, tokens and pictures against the least possible.

| name                      | meaning, a step of this process                                                          |
|---------------------------|------------------------------------------------------------------------------------------|
| time/rollout              | seconds in which completions are generated                                               |
| time/rewards              | … in which rewards are computed, with the wait for other processes                       |
| time/reference            | … in the log-probabilities of the reference and of the policy before the update          |
| time/preparation          | … in the rest of a generation batch: decoding and preparing pictures, tokenising         |
| time/update               | … in forward and backward passes of the policy                                           |
| tokens/PHASE              | places of the language model's input, padding included; rollout, reference, update       |
| tokens/PHASE_ideal        | the same if each prompt came once, for all its completions, and nothing were padded      |
| padding/PHASE             | share of those places that hold no token                                                 |
| images/encoded            | pictures through the vision tower, in all phases                                         |
| images/ideal              | the same if each picture of a generation batch were encoded once a phase                 |
| throughput/tokens         | tokens of prompts and completions a second, each prompt counted with each completion     |
| throughput/mfu            | model FLOPs of the ideal tokens and pictures over the GPU's peak; what is computed twice |
|                           | or recomputed does not count (PaLM, arXiv 2204.02311, appendix B), nor does attention    |
| memory/peak_gib           | most memory that torch held on the GPU since the log before                              |

Phases happen once in a generation batch, updates in each step: over logs of several steps they are means. vLLM counts
its own tokens, so `tokens/rollout` is missing there; `_ideal` is missing where prompts are not shared.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from stage.guards.progress import phase
from stage.planning.gpus import peak_flops
from vlm.adapters import part_of

GIB = 2**30


class Counters:
    """Sums since the last `take`."""

    def __init__(self, model):
        self.sums: Counter[str] = Counter()
        self.peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        self.costs = costs(model)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = now()
        try:
            with phase(name):
                yield
        finally:
            self.sums[f"time/{name}"] += now() - start

    def passed(self, phase: str, places: int, tokens: float, grids: torch.Tensor | None) -> None:
        """A forward pass: places of the language model's input, of which `tokens` hold one.

        grids: (pictures, 3) in patches, of what went through the vision tower.
        """
        pictures, patches = (0, 0) if grids is None else (len(grids), int(grids.prod(-1).sum()))
        self.sums.update({f"tokens/{phase}": places, f"real/{phase}": tokens, "images/encoded": pictures})
        language, vision = self.costs["update" if phase == "update" else "forward"]
        self.sums["flops"] += language * tokens + vision * patches

    def ideal(self, phase: str, tokens: float, pictures: float) -> None:
        self.sums.update({f"tokens/{phase}_ideal": tokens, "images/ideal": pictures})

    def generated(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        grids: torch.Tensor | None,
        first: Sequence[int] | None = None,
        pictures: int = 0,
    ) -> None:
        """A rollout by transformers: the prompts of the rows `first` are prefilled (None: all), padded to the longest,
        and every row runs until the last one has its end. The last token of a row goes through no model.

        pictures: different ones, where `first` is given.
        """
        prefilled = prompts if first is None else [prompts[row] for row in first]
        lengths, sampled = list(map(len, prefilled)), [len(tokens) - 1 for tokens in completions]
        places = len(lengths) * max(lengths) + len(sampled) * max(sampled)
        self.passed("rollout", places, sum(lengths) + sum(sampled), grids)
        if first is not None:
            self.ideal("rollout", sum(lengths) + sum(sampled), pictures)

    def take(self, seconds: Sequence[float], seen: float) -> dict[str, float]:
        """Means over steps that took so many seconds each, in which `seen` tokens were trained on; starts anew."""
        sums, self.sums = self.sums, Counter()
        steps, whole = len(seconds), sum(seconds)
        generation = sums.pop("time/generation", 0.0)
        parts = sum(value for name, value in sums.items() if name.startswith("time/"))
        sums |= {"time/preparation": generation - parts, "time/update": whole - generation}
        flops, real = sums.pop("flops", 0.0), {name: sums.pop(name) for name in list(sums) if name.startswith("real/")}
        found = {name: value / steps for name, value in sums.items()}
        for name, value in real.items():
            phase = name.removeprefix("real/")
            found[f"padding/{phase}"] = 1 - value / max(sums[f"tokens/{phase}"], 1)
        found["throughput/tokens"] = seen / whole
        if self.peak is not None:
            found["throughput/mfu"] = flops / whole / self.peak
        if torch.cuda.is_available():
            found["memory/peak_gib"] = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.reset_peak_memory_stats()
        return found


def now() -> float:
    """Seconds, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def costs(model) -> dict[str, tuple[float, float]]:
    """FLOPs of a token in the decoder's layers and of a patch in the vision tower, in a forward pass and in an update.

    2 for each weight that multiplies it; in an update as much again for the gradient of what comes in, and for that
    of the weight where it is trained. Nothing goes back through a vision tower whose weights are all frozen.
    """
    sizes: Counter[tuple[str, bool]] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or getattr(parameter, "ds_shape", (0,))[1:]:  # ZeRO-3 leaves a split one without shape
            part = "language" if part_of(name) == "language_model" else "vision"
            if part == "vision" or ".layers." in name:
                size = getattr(parameter, "ds_numel", parameter.numel())
                sizes[part, parameter.requires_grad] += size / 4 if part_of(name) == "merger" else size  # 2 × 2 patches
    found: dict[str, list[float]] = {"forward": [], "update": []}
    for part in ("language", "vision"):
        trained, size = sizes[part, True], sizes[part, True] + sizes[part, False]
        found["forward"].append(2.0 * size)
        found["update"].append(2.0 * (size + trained + (size if trained or part == "language" else 0)))
    return {name: tuple(values) for name, values in found.items()}
