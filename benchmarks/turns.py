"""GRPO's step over completions of two turns, a crop between them: ours against the plain way, in one process.

    python -m benchmarks.turns --group 8

One prompt with a picture, G completions of 24 tokens that call a tool, the crop that it gives back, and an answer of R
tokens; a rule reward, the reference's log-probabilities (KL weight 0.04), forward and backward pass, the optimiser.

- plain: the same trainer with share_prefix false: transformers' batched `generate`, each turn prefilled anew for each
  row, and TRL's batched update, in which each row computes its own prompt and picture.
- ours: the prompt prefilled once, further turns from each row's cache, and one packed row in the update.

Before timing, the sampled tokens, the loss and all gradients of the two are compared.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

from transformers import Qwen2VLForConditionalGeneration

import rl
from benchmarks import report
from benchmarks.grpo_step import worst
from benchmarks.support import common, worlds
from benchmarks.support.trainers import Side, quiet
from rl.turns.rollout import Conversations
from vlm.prefix.continued import Session
from vlm.sections import TurnSection
from vlm.tools.tool import Result, Shown
from vlm.tools.toolbox import Toolbox

CALL = 24
"""Tokens of the first turn."""
PHASES = ("rollout", "reference", "update", "total")
SIDES = ("plain", "ours")
FIXED = {
    "rollout": "sampled", "optimizer": "adamw", "checkpointing": False, "one_model": False, "rewards": "rule",
    "between": 0,
}  # fmt: skip
"""What `benchmarks.support.trainers` asks of the options; `between` is filled in: tokens of the tool's turn beside its
crop."""


class Cropping(Toolbox):
    """Answers each first turn with one crop, whatever it says."""

    def __init__(self, side: int):
        super().__init__([], TurnSection(limit=1))
        self.side = side

    def answer(self, text, context, where):
        return Result("This is that region. Go on.", [Shown(worlds.noise(self.side, len(text)))])


class Turned(rl.GRPOTrainer):
    """Completions of `CALL` tokens and then of the rest, neither of which ends by itself."""

    share = True

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named, share_prefix=self.share, toolbox=self.box)
        self.rolls, self.script = True, []

    box: Toolbox


class Plain(Turned):
    share = False


class Cut(Conversations):
    """A first turn is over after `CALL` tokens, whatever they are."""

    def heard(self, said, logps=None):
        first = {ids[-1] for ids in said.values() if len(ids) == CALL}
        self.ends |= first
        try:
            return super().heard(said, logps)
        finally:
            self.ends -= first


def until(self: Session, numbers: Sequence[int]) -> dict[str, Any]:
    first = not any(self.used)
    return {**self.options, "max_new_tokens": CALL if first else max(self.room(number) for number in numbers)}


def sides(world: worlds.World, only: str | None = None) -> dict[str, Side]:
    options = world.options
    made = {}
    for name, cls in (("plain", Plain), ("ours", Turned)):
        if only not in (None, name):
            continue
        policy = worlds.build(Qwen2VLForConditionalGeneration, world.config, options)
        reference = worlds.build(Qwen2VLForConditionalGeneration, world.config, options, seed=1)
        cls.box = Cropping(28 * math.isqrt(options.crop))
        made[name] = Side(cls, world, policy, reference, None)
        made[name].trainer.args.max_completion_length = CALL + options.answer
    return made


def limited(side: Side, world: worlds.World) -> None:
    """No turn ends by itself."""
    trainer = side.trainer
    banned = sorted({*trainer.args.generation_kwargs["suppress_tokens"], *trainer.eos_token_ids})
    trainer.generation_kwargs = trainer.args.generation_kwargs = {"suppress_tokens": banned}
    trainer.generation_config.update(suppress_tokens=banned, min_new_tokens=None)


def completions(side: Side) -> list[list[int]]:
    rows = []
    for part in side.trainer._buffered_inputs:
        for ids, there in zip(part["completion_ids"], part["completion_mask"], strict=True):
            rows.append(ids[there.bool()].tolist())
    return sorted(rows)


def ideal(world: worlds.World) -> dict[str, dict[str, float]]:
    """FLOPs of a step by arithmetic: each way's own, of the plain one each row's prompt and crops in each turn."""
    options = world.options
    prompt = worlds.Ideal(world.config, world.visual)
    crop = worlds.Ideal(world.config, options.crop)
    given = options.crop + options.between
    group, length, answer = options.group, world.length, options.answer
    whole = length + CALL + given + answer

    def decoded(start: int, count: int) -> float:
        return group * sum(prompt.tokens(1, start + step, 1) for step in range(1, count))

    decoding = decoded(length, CALL) + decoded(length + CALL + given, answer)
    second = length + CALL + given
    plain = group * (prompt.picture + prompt.tokens(length, length, 1))
    plain += group * (prompt.picture + crop.picture + prompt.tokens(second, second, 1)) + decoding
    once = prompt.picture + prompt.tokens(length, length, 1)
    once += group * (crop.picture + prompt.tokens(given + 1, second, 1)) + decoding
    rolled = {"plain": plain, "ours": once}
    rows = group * (prompt.picture + crop.picture + prompt.tokens(whole, whole, whole - 1))
    packed = prompt.picture + prompt.tokens(length - 1, length - 1)
    packed += group * (crop.picture + prompt.tokens(whole - length, whole - 1, CALL + answer))
    passed = {"plain": rows, "ours": packed}
    found = {"rollout": rolled, "reference": passed, "update": {name: 3 * value for name, value in passed.items()}}
    found["total"] = {name: rolled[name] + 4 * passed[name] for name in SIDES}
    return found


def measure(options) -> list[dict]:
    world = worlds.World(options, options.crop)
    asked = argparse.Namespace(**{name: value for name, value in vars(options).items() if name not in FIXED})
    memory = common.peaks("benchmarks.turns", asked, dict.fromkeys(SIDES))
    made = sides(world)
    for side in made.values():
        limited(side, world)
    gradients, losses = {}, {}
    for name, side in made.items():
        side.step(common.Clock())
        gradients[name], losses[name] = side.gradients(), sum(side.losses)
    rows = [completions(side) for side in made.values()]
    shown = rows[0][0].count(world.config.image_token_id)
    if shown != options.crop:
        raise SystemExit(f"turns: the crop is {shown} tokens, expected {options.crop} (--crop: a square number)")
    options.between = len(rows[0][0]) - CALL - options.crop - options.answer
    found = common.differ(
        f"turns G {options.group}",
        {
            "Δloss": abs(losses["ours"] - losses["plain"]),
            "relative Δgradient, worst parameter": worst(gradients["plain"], gradients["ours"]),
            "rows sampled differently": sum(a != b for a, b in zip(*rows, strict=True)) / len(rows[0]),
        },
        options.dtype,
    )
    ways = {name: side.step for name, side in made.items()}
    counts = {name: common.once(way, options.device, count=True)[0] for name, way in ways.items()}
    clocks = common.interleave(ways, options.repeats, options.device)
    case = world.case() | {"crop": options.crop}
    measured = common.rows(case, clocks, counts, ideal(world), PHASES)
    for row in measured:
        row["differences"] = found
        if row["phase"] == "total":
            row["peak_gib"] = memory
    return measured


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--crop", type=int, default=64, help="visual tokens of the crop, a square number")
    parser.set_defaults(visual=256, prompts=1)
    return argparse.Namespace(**vars(parser.parse_args(argv)), **FIXED)


def steps(made: Mapping[str, Side], world: worlds.World) -> common.Ways:
    for side in made.values():
        limited(side, world)
    return {name: side.step for name, side in made.items()}


def one(case) -> common.Ways:
    world = worlds.World(case, case.crop)
    return steps(sides(world, case.only), world)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    notes = [
        "plain: rl.GRPOTrainer with share_prefix false, which is TRL's batched update, and transformers' batched "
        "generate, each turn prefilled anew; ours: share_prefix true",
        f"a first turn of {CALL} tokens, a crop, an answer of R tokens; AdamW; a reference model",
        "ideal: each prompt's tokens and picture once, each completion's and crop's once; attention counted in full",
    ]
    cut = mock.patch.object(rl.turns.conversing, "Conversations", Cut)
    with quiet(), cut, mock.patch.object(Session, "_until", until):
        report.run("turns", options, one, measure, notes)


if __name__ == "__main__":
    main()
