"""Asking the judge about one row, and reading its ratings strictly.

A reply that is not exactly the JSON asked for is sent back once with what is wrong; if the second is no better, the row
has failed: a rating is never guessed, filled in or clipped.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import random
from collections.abc import Iterable
from typing import Any

from rewards.prefer import prompts
from rewards.prefer.endpoint import Endpoint
from rewards.prefer.prompts import DIMENSIONS, HIGHEST, LOWEST
from rewards.prefer.rows import Item
from vlm.pictures import images

Ratings = dict[str, int]
"""Dimension → 1 to 5, in the order of `DIMENSIONS`."""

JPEG_QUALITY = 95


class Malformed(Exception):
    """A reply is not the JSON that was asked for; says how, in words the judge can mend it by."""


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


async def rate(endpoint: Endpoint, item: Item, seed: int) -> list[Ratings]:
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
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": prompts.SYSTEM},
        {"role": "user", "content": [*shown, {"type": "text", "text": text}]},
    ]
    reply = await endpoint.ask(messages)
    try:
        return parse(reply, names)
    except Malformed as fault:
        messages += [
            {"role": "assistant", "content": reply},
            {"role": "user", "content": prompts.repair(str(fault))},
        ]
    return parse(await endpoint.ask(messages), names)


def data_url(image: str | bytes, max_pixels: int) -> str:
    """The image as the judge gets it: upright RGB JPEG of at most `max_pixels`, as a data URL."""
    picture = images.load(image)
    size = limited(picture.size, max_pixels)
    if size != picture.size:
        picture = picture.resize(size)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def limited(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """(width, height) in pixels after reducing an image to at most `max_pixels`; never enlarged, sides ≥ 1."""
    width, height = size
    if width * height <= max_pixels:
        return size
    shrink = math.sqrt(max_pixels / (width * height))
    return max(1, math.floor(width * shrink)), max(1, math.floor(height * shrink))
