"""What asking will cost, before anything is sent: calls, tokens, price."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rewards.prefer import prompts
from rewards.prefer.judge import limited
from rewards.prefer.recipe import CostSection, JudgeSection
from rewards.prefer.rows import Item
from vlm.common.errors import UserError

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sums over all calls, each counted once: replies that must be asked for again come on top."""

    rows: int
    calls: int
    input_tokens: int
    output_tokens: int
    "Replies of the length of a bare JSON object."
    most_output_tokens: int
    "Replies of `judge.max_tokens` each."
    cost: float
    most_cost: float

    def __str__(self) -> str:
        lines = [
            f"{self.rows} rows to be judged in {self.calls} calls",
            f"about {self.input_tokens:,} tokens in, {self.output_tokens:,} out (at most {self.most_output_tokens:,})",
        ]
        if self.most_cost:
            lines.append(f"cost about {self.cost:.2f}, at most {self.most_cost:.2f}; repeated requests come on top")
        return "\n".join(lines)


def estimate(items: Iterable[Item], judge: JudgeSection, section: CostSection) -> Estimate:
    """The cost of rating the items: image tokens from each image's size, text tokens from characters."""
    rows = calls = tokens_in = tokens_out = 0

    def tokens(characters: int) -> int:
        return math.ceil(characters / section.characters_per_token)

    for item in items:
        seen = [limited(size, judge.max_pixels) for size in item.sizes]
        image_tokens = sum(math.ceil(width * height / section.pixels_per_token) for width, height in seen)
        alone = judge.rating == "alone"
        for texts in [[text] for text in item.candidates] if alone else [list(item.candidates)]:
            said = len(prompts.SYSTEM) + len(prompts.request(item.question, texts, alone))
            tokens_in += image_tokens + tokens(said)
            tokens_out += tokens(len(prompts.example(len(texts), alone)))
            calls += 1
        rows += 1
    most_out = max(calls * judge.max_tokens, tokens_out)
    cost_in = price(tokens_in, 0, section)
    return Estimate(
        rows,
        calls,
        tokens_in,
        tokens_out,
        most_out,
        cost_in + price(0, tokens_out, section),
        cost_in + price(0, most_out, section),
    )


def price(input_tokens: int, output_tokens: int, section: CostSection) -> float:
    """What so many tokens cost, in the currency of the recipe's prices."""
    return (input_tokens * section.input + output_tokens * section.output) / MILLION


def refuse_above(found: Estimate, section: CostSection) -> None:
    """Raises: UserError where the estimate is above `cost.max_cost`, or replies of full length would be."""
    if section.max_cost is not None and found.most_cost > section.max_cost:
        raise UserError(
            f"{found.calls} calls may cost {found.most_cost:.2f} (about {found.cost:.2f}, more if replies reach "
            f"judge.max_tokens), and cost.max_cost is {section.max_cost:g}; nothing was sent. Raise max_cost, lower "
            "judge.max_tokens or judge.max_pixels, or limit the data"
        )
