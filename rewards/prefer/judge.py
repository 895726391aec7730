"""The judge, a vision-language model behind an endpoint: what it is asked about a row, and how its ratings are read.

A reply that is not exactly the JSON asked for is sent back once with what is wrong; if the second is no better, the row
has failed: a rating is never guessed, filled in or clipped.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rewards.prefer import prompts
from rewards.prefer.prompts import DIMENSIONS, HIGHEST, LOWEST
from rewards.prefer.recipe import JudgeSection, PreferRecipe
from rewards.prefer.rows import Item
from stage.endpoint import cost
from stage.endpoint.asking import Answers, ask_all
from stage.endpoint.client import Endpoint, Malformed, Usage, data_url, user_turn
from stage.endpoint.sections import CostSection

JUDGED = "judged.jsonl"
DECISIVE = ("model", "rating", "max_pixels", "request")
"""Keys of `judge` that ratings depend on."""

Ratings = dict[str, int]
"""Dimension → 1 to 5, in the order of `DIMENSIONS`."""


def parse(text: str, names: list[str] | None) -> list[Ratings]:
    """The ratings in a reply, one for each of `names`; None: the reply is one candidate's ratings.

    Raises: Malformed for anything but one JSON object with exactly these keys and whole numbers from 1 to 5.
    """
    if not text.strip():
        raise Malformed("it is empty")
    try:
        reply = json.loads(text, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is not one JSON object and nothing else ({error})") from error
    if names is None:
        return [_ratings(reply, "it")]
    _keys(reply, names, "it")
    return [_ratings(reply[name], f"`{name}`") for name in names]


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Malformed(f"a key is given twice among {_named(key for key, _ in pairs)}")
    return found


def _keys(value: Any, expected: list[str], where: str) -> None:
    if not isinstance(value, dict):
        raise Malformed(f"{where} is {type(value).__name__}, not an object with the keys {', '.join(expected)}")
    if missing := [key for key in expected if key not in value]:
        raise Malformed(f"{where} lacks {', '.join(missing)}")
    if surplus := [key for key in value if key not in expected]:
        raise Malformed(f"{where} has the unknown keys {_named(surplus)}")


def _named(keys: Iterable[str]) -> str:
    """Keys as the judge wrote them, in ASCII: half a surrogate pair could not be sent back."""
    return ", ".join(map(json.dumps, keys))[:120]


def _ratings(value: Any, where: str) -> Ratings:
    _keys(value, list(DIMENSIONS), where)
    for name, rating in value.items():
        if type(rating) is not int or not LOWEST <= rating <= HIGHEST:
            raise Malformed(f"{name} of {where} is {json.dumps(rating)[:40]}, not a whole number from 1 to 5")
    return {name: value[name] for name in DIMENSIONS}


def answers(recipe: PreferRecipe) -> Answers[list[Ratings]]:
    """Where the ratings of a run lie; they hold for the judge and the seed with which they were asked for."""
    judge = recipe.judge
    asked = {} if judge is None else {name: getattr(judge, name) for name in DECISIVE} | {"seed": recipe.seed}
    return Answers(Path(recipe.output) / JUDGED, JudgeSection.called, asked, "ratings")


def kept(value: Any, item: Item) -> list[Ratings]:
    """The ratings of an item from the journal. Raises: Malformed, ValueError."""
    ratings = [parse(json.dumps(one), None)[0] for one in value]
    if len(ratings) != len(item.candidates):
        raise ValueError(f"{len(ratings)} ratings of {len(item.candidates)} candidates")
    return ratings


def estimate(items: Iterable[Item], judge: JudgeSection, section: CostSection) -> cost.Estimate:
    """The cost of rating the items; replies are taken to be bare JSON objects."""
    alone = judge.rating == "alone"

    def calls(item: Item) -> list[cost.Call]:
        shown = [[text] for text in item.candidates] if alone else [list(item.candidates)]
        return [
            cost.Call(
                len(prompts.SYSTEM) + len(prompts.request(item.question, texts, alone)),
                item.sizes,
                len(prompts.example(len(texts), alone)),
            )
            for texts in shown
        ]

    return cost.estimate(map(calls, items), judge, section, "rows to be judged")


async def rate_all(recipe: PreferRecipe, items: Sequence[Item], found: Answers[list[Ratings]], usage: Usage) -> None:
    """Rate the items; finished rows go into `found`. Raises: EndpointError."""
    assert recipe.judge is not None
    endpoint = Endpoint(recipe.judge, usage=usage)
    await ask_all(endpoint, items, lambda item: rate(endpoint, item, recipe.seed), found, recipe.cost, "prefer")


async def rate(endpoint: Endpoint[JudgeSection], item: Item, seed: int) -> list[Ratings]:
    """The ratings of an item's candidates, in their order.

    Rated together, they are shown in an order drawn by `seed` and the row's key, so that a judge's liking for first
    places favours no candidate over many rows.
    Raises: Unanswered, Malformed (this row has failed), EndpointError (every row will).
    """
    # encoding is work for the processor, which would keep the other requests waiting
    pictures = [await asyncio.to_thread(data_url, image, endpoint.section.max_pixels) for image in item.sample.images]
    if endpoint.section.rating == "alone":
        found = []
        for text in item.candidates:
            found += await _asked(endpoint, pictures, prompts.request(item.question, [text], alone=True), None)
        return found
    order = shown_order(item, seed)
    shown = [item.candidates[index] for index in order]
    names = prompts.labels(len(shown))
    rated = await _asked(endpoint, pictures, prompts.request(item.question, shown), names)
    return [ratings for _, ratings in sorted(zip(order, rated, strict=True), key=lambda pair: pair[0])]


def shown_order(item: Item, seed: int) -> list[int]:
    """Indices of the candidates in the order in which the judge sees them."""
    order = list(range(len(item.candidates)))
    random.Random(f"{seed}/{item.key}").shuffle(order)
    return order


async def _asked(endpoint: Endpoint, pictures: list[str], text: str, names: list[str] | None) -> list[Ratings]:
    messages = [{"role": "system", "content": prompts.SYSTEM}, user_turn(pictures, text)]
    return await endpoint.ask_for(messages, lambda reply: parse(reply, names), prompts.repair)
