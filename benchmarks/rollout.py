"""Prefill and whole rollout: `vlm.prefix.rollout.generate` against transformers' own `generate` on repeated rows.

    python -m benchmarks.rollout --group 8 16

Third way, `copied`: each prompt is prefilled once, but its keys are copied to each row, in transformers' own cache,
which concatenates everything for each token. What `shared` gains over it is what `vlm.cache` does.

The same prompts, pictures and seed; R tokens are forced (none may end a row). Phases: `prefill` (one new token) and
`rollout` (R new tokens). Before timing, greedy tokens of both are compared, and sampled ones at equal seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, Qwen2VLForConditionalGeneration

from benchmarks import report
from benchmarks.support import common, worlds
from vlm.prefix import rollout


class Case:
    """The two ways of one case; `plain` is the first."""

    def __init__(self, options):
        world = worlds.World(options)
        self.world, self.options = world, options
        self.model = worlds.build(Qwen2VLForConditionalGeneration, world.config, options).eval()
        words = world.processor.tokenizer
        self.model.generation_config = GenerationConfig(
            pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id
        )
        self.pictures = [world.config.image_token_id, world.config.video_token_id]
        self.inputs = world.encoded()
        self.index = torch.arange(options.prompts).repeat_interleave(options.group)
        self.full = rollout.select(self.inputs, self.index.tolist(), world.config)
        self.ways = {"plain": self.plain, "copied": self.copied, "shared": self.shared}

    def settings(self, new: int, sample: bool = True) -> dict[str, Any]:
        how = {"do_sample": sample, "suppress_tokens": self.pictures} | ({"top_k": 0} if sample else {})
        return how | {"min_new_tokens": new, "max_new_tokens": new}

    def plain(self, clock: common.Clock) -> torch.Tensor:
        return self._phases(clock, lambda new: self.model.generate(**self.full, **self.settings(new)))

    def shared(self, clock: common.Clock) -> torch.Tensor:
        return self._phases(
            clock, lambda new: rollout.generate(self.model, self.inputs, self.index, **self.settings(new))
        )

    def copied(self, clock: common.Clock) -> torch.Tensor:
        def generate(new: int):
            own = DynamicCache(config=self.world.config.text_config)  # a cache that is handed in stays what it is
            return rollout.generate(self.model, self.inputs, self.index, past_key_values=own, **self.settings(new))

        return self._phases(clock, generate)

    def _phases(self, clock: common.Clock, generate) -> torch.Tensor:
        torch.manual_seed(0)
        with clock.phase("prefill"):
            generate(1)
        torch.manual_seed(0)
        with clock.phase("rollout"):
            return generate(self.options.answer)

    def compare(self) -> dict[str, float]:
        """Shares of tokens that differ, greedy and sampled. After a token that differs, others do too."""
        how = self.settings(self.options.answer, sample=False)
        greedy = self.model.generate(**self.full, **how), rollout.generate(self.model, self.inputs, self.index, **how)
        sampled = self.plain(common.Clock()), self.shared(common.Clock())
        pairs = (("greedy tokens that differ", greedy), ("sampled tokens that differ", sampled))
        return {name: (a != b).float().mean().item() for name, (a, b) in pairs}


def measure(options) -> list[dict]:
    made = Case(options)
    title = report.label(made.world.case())
    found = common.differ(f"rollout {title}", made.compare(), options.dtype)
    counts = {name: common.once(way, options.device, count=True)[0] for name, way in made.ways.items()}
    clocks = common.interleave(made.ways, options.repeats, options.device)
    cost = worlds.Ideal(made.world.config, made.world.visual)
    sizes = (made.world.length, options.answer, options.group)
    groups = {"prefill": cost.rollout(sizes[0], 1, sizes[2]), "rollout": cost.rollout(*sizes)}
    needs = {
        phase: {"plain": options.prompts * plain} | dict.fromkeys(("copied", "shared"), options.prompts * once)
        for phase, (plain, once) in groups.items()
    }
    rows = common.rows(made.world.case(), clocks, counts, needs, ("prefill", "rollout"))
    memory = common.peaks("benchmarks.rollout", options, made.ways)
    return [row | {"differences": found, "peak_gib": memory} for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args(argv)
    notes = ["plain: transformers' generate on U·G rows; shared: `rollout.generate`; R tokens forced, sampled at T 1"]
    notes.append("copied: vlm.prefix.rollout.generate into transformers' own cache")
    report.run("rollout", options, lambda case: Case(case).ways, measure, notes)


if __name__ == "__main__":
    main()
