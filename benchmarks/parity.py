"""Shared prefixes in half precision: is the shared path as close to float32 as the plain path is?

    python -m benchmarks.parity --shape 7b --layers 4 --device cuda --dtype bfloat16 --attention auto

One update each of three trainers with the same weights, prompts and completions. The reference is stock TRL in float32
under SDPA, whose weights are those of the others, which compute in `--dtype`: stock TRL (plain) and ours (shared).
Judged are log-probabilities of the completions and the gradient of every parameter; nothing is timed. The exit status
is 1 where the shared path is further from float32 than `LIMITS` times what the plain path is.

`--layers` keeps the width and leaves layers out: three models and their gradients have to fit, and float32 is slow.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence

import torch
from transformers import Qwen2VLForConditionalGeneration

from benchmarks import report
from benchmarks.grpo_step import parser as step_parser
from benchmarks.support import common, worlds
from benchmarks.support.trainers import Sharing, Side, Stock, quiet

LIMITS = {"log-probabilities": 1.5, "gradient": 1.5, "gradient, worst parameter": 2.0}
"""How many times the plain path's error the shared path's may be.

Both round as often, in another order, so their errors are of one size: 0.9 to 1.05 times was seen, of the worst
parameter up to 1.3 (6M parameters, bfloat16, FlashAttention-2's stand-in). The shared path rounds once more in a layer,
where attention to prompt and to completion are merged; did nothing else round, that would make √2. A fault is far
above: the M-RoPE position of one prompt token off by one gave 6 to 17 times, of the worst parameter 20 and more. Means
over tokens and norms are judged, because rounding alone moves single values by much (`rl.sharing.parity`)."""


class Update:
    """One update of one trainer: (R,) log-probabilities by completion, and gradients, where they were computed."""

    def __init__(self, cls, world: worlds.World, model, script: list[list[int]]):
        side = Side(cls, world, copy.copy(model), copy.copy(model), None)  # same weights; each gets a head of its own
        side.trainer.script = script
        side.step(common.Clock())
        self.logps = {ids: values[:-1] for ids, values in side.references().items()}  # the last is the advantage
        self.gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()  # the next update makes new ones


def updates(options: argparse.Namespace) -> dict[str, Update]:
    """`exact`, `plain` and `shared`."""
    world = worlds.World(options)
    exact = copy.copy(world)
    exact.options = argparse.Namespace(**{**vars(options), "dtype": "float32", "attention": "sdpa"})
    model = worlds.build(Qwen2VLForConditionalGeneration, world.config, options)
    wide = worlds.build(Qwen2VLForConditionalGeneration, world.config, exact.options)
    wide.load_state_dict(model.state_dict())
    script = [world.texts.ids(options.answer) for _ in range(options.prompts * options.group)]
    ways = {"exact": (Stock, exact, wide), "plain": (Stock, world, model), "shared": (Sharing, world, model)}
    return {name: Update(*way, script) for name, way in ways.items()}


def errors(found: Update, exact: Update) -> tuple[float, float, dict[str, float]]:
    """Mean |Δ log-probability| of a token in nats, ‖Δ gradient‖ over ‖gradient‖, and by parameter its part of that.

    A part below 1e-6 counts as that, so that a gradient of nothing but rounding is no fault.
    """
    if found.gradients.keys() != exact.gradients.keys():
        raise SystemExit(f"gradients of other parameters: {found.gradients.keys() ^ exact.gradients.keys()}")
    logps = torch.cat([(found.logps[ids] - values).abs() for ids, values in exact.logps.items()]).mean().item()
    whole = sum(value.double().norm().item() ** 2 for value in exact.gradients.values()) ** 0.5
    apart = {name: (found.gradients[name] - value).norm().item() for name, value in exact.gradients.items()}
    relative = sum(value**2 for value in apart.values()) ** 0.5 / whole
    return logps, relative, {name: max(value / whole, 1e-6) for name, value in apart.items()}


def judge(made: Mapping[str, Update]) -> list[dict]:
    """A row for each of `LIMITS`: errors of both paths, and how many times the plain one's the shared one's is."""
    plain, shared = (errors(made[way], made["exact"]) for way in ("plain", "shared"))
    times = {name: shared[2][name] / plain[2][name] for name in plain[2]}
    worst = max(times, key=lambda name: (times[name] != times[name], times[name]))  # NaN first
    pairs = [(plain[0], shared[0], ""), (plain[1], shared[1], ""), (plain[2][worst], shared[2][worst], worst)]
    return [
        {"what": what, "of": name, "plain": a, "shared": b, "times": b / a, "limit": limit, "holds": b <= limit * a}
        for (what, limit), (a, b, name) in zip(LIMITS.items(), pairs, strict=True)
    ]


def table(rows: Sequence[Mapping]) -> str:
    lines = ["| error against float32 | plain | shared | times | at most |", "|" + " --- |" * 5]
    for row in rows:
        what = f"{row['what']} ({row['of']})" if row["of"] else row["what"]
        times = f"{row['times']:.2f}" if row["holds"] else f"**{row['times']:.2f}**"
        lines.append(f"| {what} | {row['plain']:.3g} | {row['shared']:.3g} | {times} | {row['limit']} |")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = step_parser(__doc__.splitlines()[0])
    parser.set_defaults(rollout="none", rewards="rule", optimizer="none", dtype="bfloat16", one_model=True)
    options = parser.parse_args(argv)
    if options.dtype == "float32":
        parser.error("--dtype: bfloat16 or float16 expected; in float32 benchmarks.grpo_step compares both paths")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    (case,) = common.cases(options)
    with quiet():
        rows = judge(updates(case))
    attention = worlds.resolve_attention(options.attention, options.dtype)
    notes = [
        f"{attention}; {options.shape} wide, {options.layers or 'all'} layers, P {case.prompt}, R {case.answer}, "
        f"G {case.group}, U {case.prompts}",
        "log-probabilities: mean over tokens, nats; gradients: norm of the error over that of the whole gradient",
    ]
    line = "; ".join(
        f"{row['what']} {row['plain']:.2g}, shared {row['shared']:.2g} ({row['times']:.2f}×)" for row in rows
    )
    report.record("parity", options, rows, notes, table(rows), f"{attention}: {line}")
    if failed := [row["what"] for row in rows if not row["holds"]]:
        raise SystemExit(f"shared prefixes are not as exact as the plain path: {', '.join(failed)}; see the table")


if __name__ == "__main__":
    main()
