"""GRPO's step, its reference pass and its update: ours against stock TRL 1.16, in one process.

    python -m benchmarks.grpo_step --group 8 16

One step: 8 prompts with a picture each, G completions of R tokens, one learned and one rule reward, the reference's
log-probabilities (KL weight 0.04), forward and backward pass in micro-batches of a group, the optimiser. Its phases are
timed within it: `reference + update` is what shared prefixes change, `total` is the whole step. Before timing, the
sampled tokens, the reference's log-probabilities with the advantages, the loss and all gradients are compared.
`--rollout none --rewards rule` leaves rollout and score model out (a 7B model with its gradients on one GPU).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence

import torch

from benchmarks import report
from benchmarks.support import common, worlds
from benchmarks.support.trainers import Side, quiet, sides

PHASES = ("rollout", "rewards", "reference", "update", "reference + update", "total")


def parser(description: str) -> argparse.ArgumentParser:
    parser = common.parser(description)
    parser.add_argument("--rollout", choices=("sampled", "none"), default="sampled")
    parser.add_argument("--rewards", choices=("learned", "rule"), default="learned", help="learned and rule, or rule")
    parser.add_argument("--optimizer", choices=("adamw", "none"), default="adamw", help="its learning rate is 0")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--one-model", action="store_true", help="both ways, and the reference, with the same weights")
    return parser


def parse(argv: Sequence[str] | None):
    return parser(__doc__.splitlines()[0]).parse_args(argv)


def steps(made: dict[str, Side]) -> common.Ways:
    return {name: side.step for name, side in made.items()}


def compare(title: str, made: Mapping[str, Side], options) -> dict[str, float]:
    """Run `stock` and the other one once, uncounted, and compare all that comes out."""
    (other,) = (name for name in made if name != "stock")
    logps, losses, gradients = {}, {}, {}
    for name, side in made.items():
        side.step(common.Clock())
        logps[name], losses[name], gradients[name] = side.references(), sum(side.losses), side.gradients()
    found = {
        "Δ(reference log-probabilities, advantages)": max(
            (logps[other][ids] - logps["stock"][ids]).abs().max().item() for ids in logps["stock"]
        ),
        "Δloss": abs(losses[other] - losses["stock"]),
        "relative Δgradient, worst parameter": worst(gradients["stock"], gradients[other]),
    }
    if options.rollout == "sampled":
        rows = list(zip(made["stock"].trainer.sampled, made[other].trainer.sampled, strict=True))
        found["rows sampled differently"] = sum(a != b for a, b in rows) / len(rows)
    return common.differ(f"grpo_step {title}", found, options.dtype)


def worst(stock: dict[str, torch.Tensor], ours: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of a parameter's gradient; a norm below 1e-6 of the largest counts as that.

    (The keys' biases get a gradient that is 0 but for rounding: softmax does not see them.)
    """
    if stock.keys() != ours.keys():
        return float("inf")
    floor = 1e-6 * max(value.norm().item() for value in stock.values())
    return max(((ours[n] - value).norm() / max(value.norm().item(), floor)).item() for n, value in stock.items())


def needs(world: worlds.World, ways: Iterable[str]) -> common.Needs:
    """FLOPs of a step by arithmetic: stock's, and with unique tokens and pictures only, which is every other way's.

    An update is three forward passes: backward takes as much for what comes in as for the weights.
    """
    options, cost = world.options, worlds.Ideal(world.config, world.visual)
    sizes = (world.length, options.answer, options.group)
    # Without Triton, TRL's LM head computes every place of a row, not the completion's alone
    heads = options.answer if options.device == "cuda" else sum(sizes[:2]) - 1
    forward = cost.forward(*sizes, plain_heads=heads)
    found = {"reference": forward, "update": [3 * flops for flops in forward]}
    found["reference + update"] = [4 * flops for flops in forward]
    if options.rollout == "sampled":
        found["rollout"] = cost.rollout(*sizes)
    if options.rewards == "learned":
        found["rewards"] = cost.forward(*sizes, heads=False)
    parts = [flops for phase, flops in found.items() if phase != "reference + update"]
    found["total"] = [sum(flops) for flops in zip(*parts, strict=True)]
    return {
        phase: {way: options.prompts * (plain if way == "stock" else once) for way in ways}
        for phase, (plain, once) in found.items()
    }


def measure(options) -> list[dict]:
    world = worlds.World(options)
    case = world.case()
    memory = {} if options.device == "cuda" else common.peaks("benchmarks.grpo_step", options, dict.fromkeys(SIDES))
    made = sides(world)
    found = compare(report.label(case), made, options)
    ways = steps(made)
    counts = {name: common.once(way, options.device, count=True)[0] for name, way in ways.items()}
    clocks = common.interleave(ways, options.repeats, options.device)
    if options.device == "cuda":
        memory = common.peaks("benchmarks.grpo_step", options, ways)
    phases = [phase for phase in PHASES if counts["stock"].flops[phase] or phase == "total"]
    rows = common.rows(case, clocks, counts, needs(world, made), phases)
    for row in rows:
        row["differences"] = found
        if row["phase"] == "total":
            row["peak_gib"] = memory
    return rows


SIDES = ("stock", "ours")


def notes(options) -> list[str]:
    found = [
        "stock: trl.GRPOTrainer; ours: rl.GRPOTrainer, share_prefix true",
        f"rewards ({options.rewards}): stock scores each completion with its own picture and prompt, ours shares both",
        "ideal: each prompt's tokens and picture once, each completion's tokens once; attention counted in full",
    ]
    if options.one_model:
        found.append("one model: stock's attention also goes through the registered function, which passes it on")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    with quiet():
        report.run("grpo_step", options, lambda case: steps(sides(worlds.World(case))), measure, notes(options))


if __name__ == "__main__":
    main()
