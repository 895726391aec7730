"""The score model's pass over the completions of a step: ways of scoring U·G answers about U pictures.

    python -m benchmarks.score --group 8 16

- `plain`: every exchange with its own picture and prompt, in batches of 8, by `ScoreModel.forward` (TRL has no score
  model that sees pictures; this is what a user of stock transformers would write).
- `pictures`: `ScoreModel.score`, each picture decoded and encoded once, each prompt as often as it has answers.
- `shared`: `ScoreModel.score(…, share_prefix=True)`, each prompt once too.

Untrained weights, noise pictures, answers of R tokens. Scores are compared before timing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks import report
from benchmarks.support import common, worlds
from rewards.score import Exchange, ScoreModel, encode

BATCH = 8


class Plain:
    """A scorer for the reward `score` (an object with `score(exchanges)`) that shares nothing."""

    def __init__(self, model: ScoreModel):
        self.model = model

    @torch.no_grad()
    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(exchanges), BATCH):
            batch = encode(exchanges[start : start + BATCH], self.model.processor)
            found += self.model(**{name: value.to(self.model.device) for name, value in batch.items()}).logits[:, 0]
        return [float(value) for value in found]


class Ours:
    """The same by `ScoreModel.score`."""

    def __init__(self, model: ScoreModel, share_prefix: bool = True):
        self.model, self.share_prefix = model, share_prefix

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return self.model.score(exchanges, BATCH, share_prefix=self.share_prefix)


def score_model(world: worlds.World) -> ScoreModel:
    """Untrained, in evaluation mode; its processor is the world's."""
    model = worlds.build(ScoreModel, world.config, world.options, seed=1, positions="mrope").eval()
    model.processor = world.processor
    return model


class Case:
    """The ways of one case; `plain` is the first."""

    def __init__(self, options):
        self.world = worlds.World(options)
        model = score_model(self.world)
        self.exchanges = [
            Exchange.of(question, self.world.texts.text(options.answer), [picture])
            for question, picture in zip(self.world.questions, self.world.pictures, strict=True)
            for _ in range(options.group)
        ]
        scorers = {"plain": Plain(model), "pictures": Ours(model, share_prefix=False), "shared": Ours(model)}
        self.ways = {name: self._way(scorer) for name, scorer in scorers.items()}

    def _way(self, scorer):
        def way(clock: common.Clock) -> list[float]:
            with clock.phase("score"):
                return scorer.score(self.exchanges)

        return way

    def prompt(self) -> int:
        """Tokens of the part that the answers to one question have in common."""
        ids = encode(self.exchanges[:1], self.world.processor)["input_ids"]
        return ids.shape[1] - self.world.options.answer


def measure(options) -> list[dict]:
    made = Case(options)
    counted = {name: common.once(way, options.device, count=True) for name, way in made.ways.items()}
    scores = {name: torch.tensor(found) for name, (_, found) in counted.items()}
    deltas = {f"Δscore {name}": (one - scores["plain"]).abs().max().item() for name, one in scores.items()}
    del deltas["Δscore plain"]
    found = common.differ(f"score {report.label(made.world.case())}", deltas, options.dtype)
    clocks = common.interleave(made.ways, options.repeats, options.device)
    prompt = made.prompt()
    cost = worlds.Ideal(made.world.config, made.world.visual)
    plain, shared = cost.forward(prompt, options.answer, options.group, heads=False)
    group = {"plain": plain, "pictures": plain - (options.group - 1) * cost.picture, "shared": shared}
    needs = {"score": {way: options.prompts * flops for way, flops in group.items()}}
    counts = {name: clock for name, (clock, _) in counted.items()}
    rows = common.rows(made.world.case() | {"P": prompt}, clocks, counts, needs, ("score",))
    memory = common.peaks("benchmarks.score", options, made.ways)
    return [row | {"differences": found, "peak_gib": memory} for row in rows]


def main(argv: Sequence[str] | None = None) -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args(argv)
    notes = ["P: the part of an exchange before the answer; ideal: that part and each picture once"]
    report.run("score", options, lambda case: Case(case).ways, measure, notes)


if __name__ == "__main__":
    main()
