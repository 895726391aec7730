"""What asking an endpoint costs: estimated before anything is sent, and counted while replies come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stage.endpoint.client import limited
from stage.endpoint.sections import CostSection, EndpointSection
from vlm.common.errors import UserError

MILLION = 1_000_000


class Call(NamedTuple):
    """One request that is to be sent."""

    said: int
    "Characters of its texts."
    sizes: Sequence[tuple[int, int]]
    "(width, height) in pixels of each image, before it is reduced."
    reply: int
    "Characters of the reply that is expected."


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sums over all calls, each counted once: replies that must be asked for again come on top."""

    what: str
    "Which rows these are, such as `rows to be judged`."
    rows: int
    calls: int
    input_tokens: int
    output_tokens: int
    "Replies of the length that is expected."
    most_output_tokens: int
    "Replies of the longest length each."
    cost: float
    most_cost: float

    def __str__(self) -> str:
        lines = [
            f"{self.rows} {self.what} in {self.calls} calls",
            f"about {self.input_tokens:,} tokens in, {self.output_tokens:,} out (at most {self.most_output_tokens:,})",
        ]
        if self.most_cost:
            lines.append(f"cost about {self.cost:.2f}, at most {self.most_cost:.2f}; repeated requests come on top")
        return "\n".join(lines)


def estimate(
    rows: Iterable[Sequence[Call]], endpoint: EndpointSection, section: CostSection, what: str = "rows"
) -> Estimate:
    """The cost of this many rows' calls: image tokens from each image's size, text tokens from characters."""

    def tokens(characters: int) -> int:
        return math.ceil(characters / section.characters_per_token)

    def image_tokens(size: tuple[int, int]) -> int:
        return math.ceil(math.prod(limited(size, endpoint.max_pixels)) / section.pixels_per_token)

    of_rows = [list(row) for row in rows]
    calls = [call for row in of_rows for call in row]
    tokens_in = sum(tokens(call.said) + sum(map(image_tokens, call.sizes)) for call in calls)
    tokens_out = sum(tokens(call.reply) for call in calls)
    most_out = max(len(calls) * endpoint.max_tokens, tokens_out)
    cost_in = price(tokens_in, 0, section)
    return Estimate(
        what,
        len(of_rows),
        len(calls),
        tokens_in,
        tokens_out,
        most_out,
        cost_in + price(0, tokens_out, section),
        cost_in + price(0, most_out, section),
    )


def price(input_tokens: int, output_tokens: int, section: CostSection) -> float:
    """What this many tokens cost, in the currency of the recipe's prices."""
    return (input_tokens * section.input + output_tokens * section.output) / MILLION


def refuse_above(found: Estimate, section: CostSection, called: str = EndpointSection.called) -> None:
    """called: the endpoint's section. Raises: UserError where the estimate is above `cost.max_cost`, or replies of full
    length would be."""
    if section.max_cost is not None and found.most_cost > section.max_cost:
        raise UserError(
            f"{found.calls} calls may cost {found.most_cost:.2f} (about {found.cost:.2f}, more if replies reach "
            f"{called}.max_tokens), and cost.max_cost is {section.max_cost:g}; nothing was sent. Raise max_cost, lower "
            f"{called}.max_tokens or {called}.max_pixels, or limit the data"
        )
