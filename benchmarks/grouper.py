"""Reference pass and update with the PyPI package `prefix_grouper`, ours and stock TRL's, in one process.

    pip install prefix_grouper
    python -m benchmarks.grouper --group 8 16

One prompt a step with a picture, G completions of R tokens, the reference's log-probabilities (KL weight 0.04), forward
and backward pass: the phases of `grpo_step.py` that shared prefixes change, on the same inputs, with a third trainer
(`grouped.Grouping`). Log-probabilities, loss and all gradients of both are compared with stock's before timing. Where
the package is not installed, stock and ours are measured and a note says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import grouped, grpo_step, report
from benchmarks.support import common, worlds
from benchmarks.support.trainers import Side, quiet, sides

PHASES = ("reference", "update", "reference + update")
NAME = "prefix_grouper"


def parse(argv: Sequence[str] | None):
    """`grpo_step`'s options; no rollout, no learned reward, and one prompt a step."""
    parser = grpo_step.parser(__doc__.splitlines()[0])
    parser.set_defaults(prompts=1, rollout="none", rewards="rule", optimizer="none")
    options = parser.parse_args(argv)
    if options.prompts != 1:
        parser.error("--prompts: 1 expected; TRL's shuffle scatters the groups of several prompts")
    if (options.rollout, options.rewards, options.one_model) != ("none", "rule", False):
        parser.error("only reference and update are measured: no --rollout, --rewards or --one-model")
    if options.attention != "sdpa":
        parser.error("--attention: the adapter for prefix_grouper is written for sdpa")
    return options


def made(world: worlds.World) -> dict[str, Side]:
    return sides(world, {NAME: grouped.Grouping} if grouped.version() else {})


def measure(options) -> list[dict]:
    world = worlds.World(options)
    case = world.case()
    names = ("stock", "ours", *([NAME] if grouped.version() else []))
    memory = {} if options.device == "cuda" else common.peaks("benchmarks.grouper", options, dict.fromkeys(names))
    all_sides = made(world)
    differences = {
        name: grpo_step.compare(f"{report.label(case)}, {name}", {"stock": all_sides["stock"], name: side}, options)
        for name, side in all_sides.items()
        if name != "stock"
    }
    ways = grpo_step.steps(all_sides)
    counts = {name: common.once(way, options.device, count=True)[0] for name, way in ways.items()}
    clocks = common.interleave(ways, options.repeats, options.device)
    if options.device == "cuda":
        memory = common.peaks("benchmarks.grouper", options, ways)
    rows = common.rows(case, clocks, counts, grpo_step.needs(world, names), PHASES)
    if NAME in clocks:  # and ours against it, from the same repetitions
        rows += common.rows(case, {name: clocks[name] for name in (NAME, "ours")}, counts, {}, PHASES)
    for row in rows:
        row["differences"] = differences[row["way"]]
        if row["phase"] == PHASES[-1]:
            row["peak_gib"] = memory
    return rows


def notes() -> list[str]:
    version = grouped.version()
    return [
        "stock: trl.GRPOTrainer; ours: rl.GRPOTrainer, share_prefix true; prefix_grouper: trl.GRPOTrainer with the "
        "package under its log-probabilities",
        "ideal: each prompt's tokens and picture once, each completion's tokens once; attention counted in full",
        f"prefix_grouper (PyPI) {version}: attention of SDPA by our adapter, LM head on completions only"
        if version
        else "prefix_grouper (PyPI) is not installed, so it is left out: pip install prefix_grouper",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    with quiet():
        report.run("grouper", options, lambda case: grpo_step.steps(made(worlds.World(case))), measure, notes())


if __name__ == "__main__":
    main()
