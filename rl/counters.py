"""What a training step costs, in every run's log: seconds by phase, tokens and pictures against the least possible.

`stage.metrics.cost` (docs/metrics.md) says what each name means. Phases happen once in a generation batch, updates in
each step: over logs of several steps they are means. vLLM counts its own tokens, so `tokens/rollout` is missing there;
`_ideal` is missing where prompts are not shared.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from stage.guards.progress import phase
from stage.planning.gpus import peak_flops
from vlm import families
from vlm.adapters import part_of
from vlm.prefix import media, model_config
from vlm.weights import elements


class Counters:
    """Sums since the last `take`."""

    def __init__(self, model):
        self.sums: Counter[str] = Counter()
        self.peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
        self.config, self.costs = model_config(model), costs(model)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = now()
        try:
            with phase(name):
                yield
        finally:
            self.sums[f"time/{name}"] += now() - start

    def passed(self, phase: str, places: int, tokens: float, shown: media.Media) -> None:
        """A forward pass: places of the language model's input, of which `tokens` hold one.

        shown: what went through the vision tower.
        """
        family, pictures, patches = families.of(self.config), len(media.rows(shown)), 0
        if shown and family.units:
            patches = family.patches(shown, self.config)
        self.sums.update({f"tokens/{phase}": places, f"real/{phase}": tokens, "images/encoded": pictures})
        language, vision = self.costs["update" if phase == "update" else "forward"]
        self.sums["flops"] += language * tokens + vision * patches

    def ideal(self, phase: str, tokens: float, pictures: float) -> None:
        self.sums.update({f"tokens/{phase}_ideal": tokens, "images/ideal": pictures})

    def generated(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        shown: media.Media,
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
        self.passed("rollout", places, sum(lengths) + sum(sampled), shown)
        if first is not None:
            self.ideal("rollout", sum(lengths) + sum(sampled), pictures)

    def take(self, seconds: Sequence[float], seen: float) -> dict[str, float]:
        """Means over steps that took this many seconds each, in which `seen` tokens were trained on; then all is 0."""
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
        return found


class Counted:
    """Costs of each training step in its log. Evaluations do not count.

    Overridden: `__init__`; timed are `_generate_and_score_completions`, `_generate_single_turn`, `_calculate_rewards`
    and, without gradients, `_get_per_token_logps_and_entropies`; `log` (adds the means), `kept_state`, `take_state`.
    What goes through the model is counted where it is known (`rl.sharing.prompts`).
    """

    def __init__(self, *positional: Any, **named: Any):
        super().__init__(*positional, **named)
        self.counters, self._seen = Counters(self.model), 0

    def _timed(self, phase: str) -> AbstractContextManager:
        return self.counters.timed(phase) if self.model.training else nullcontext()

    def _generate_and_score_completions(self, inputs):
        with self._timed("generation"):
            return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, *positional, **named):
        with self._timed("rollout"):
            return super()._generate_single_turn(*positional, **named)

    def _calculate_rewards(self, *positional, **named):
        with self._timed("rewards"):
            return super()._calculate_rewards(*positional, **named)

    def _get_per_token_logps_and_entropies(self, *positional, **named):
        with nullcontext() if torch.is_grad_enabled() else self._timed("reference"):
            return super()._get_per_token_logps_and_entropies(*positional, **named)

    def log(self, logs, start_time=None):
        metrics = self._metrics["train"]
        if self.model.training and metrics.get("step_time"):
            seen = self.state.num_input_tokens_seen - self._seen
            self._seen = self.state.num_input_tokens_seen
            found = self.counters.take(metrics["step_time"], seen)
            metrics.update({name: [value] for name, value in found.items()})
        super().log(logs, start_time)

    def kept_state(self) -> dict[str, Any]:
        return super().kept_state() | {"counters": dict(self.counters.sums), "seen": self._seen}

    def take_state(self, state: dict[str, Any]) -> None:
        super().take_state(state)
        self.counters.sums, self._seen = Counter(state["counters"]), state["seen"]


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
    config = model_config(model)
    joined = families.of(config).joined(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or getattr(parameter, "ds_shape", (0,))[1:]:  # ZeRO-3 leaves a split one without shape
            part = "language" if part_of(name) == "language_model" else "vision"
            if part == "vision" or ".layers." in name:
                size = elements(parameter)
                sizes[part, parameter.requires_grad] += size / joined if part_of(name) == "merger" else size
    found: dict[str, list[float]] = {"forward": [], "update": []}
    for part in ("language", "vision"):
        trained, size = sizes[part, True], sizes[part, True] + sizes[part, False]
        found["forward"].append(2.0 * size)
        found["update"].append(2.0 * (size + trained + (size if trained or part == "language" else 0)))
    return {name: tuple(values) for name, values in found.items()}
