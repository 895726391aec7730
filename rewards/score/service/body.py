"""A request's body while it arrives: its bytes, its values, and what all requests together hold are bounded.

A parser makes about a kilobyte of a value as short as `{},`, so bytes alone bound no memory: 58 MB of them took 5 GB
and half a minute. Therefore values are counted before anything is parsed, as the bytes come: each has a comma or an
opening bracket of its own outside of strings. What is no JSON may be counted wrongly behind its first fault, where the
parser stops.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from rewards.score.service.recipe import LimitsSection
from rewards.score.service.wire import Refused

VALUES_PER_EXCHANGE = 128
"""Commas and brackets: 40 turns, of which each takes three."""
VALUES_PER_IMAGE = 3
"""Two of its record, and one where it is shown."""
FEWEST_VALUES, MOST_VALUES = 4096, 2**18
"""Whatever a recipe allows: one exchange may have a thousand turns, and a quarter of a gigabyte is the most."""


def most_values(limits: LimitsSection) -> int:
    wanted = VALUES_PER_EXCHANGE * limits.exchanges + VALUES_PER_IMAGE * limits.images
    return min(max(wanted, FEWEST_VALUES), MOST_VALUES)


class Values:
    """Counts a JSON document's commas and opening brackets outside of strings, piece by piece."""

    def __init__(self) -> None:
        self.count = 0
        self._inside = 0
        self._rest = b""

    def add(self, part: bytes) -> None:
        if self._rest or b"\\" in part:
            part = self._rest + part
            backslashes = len(part) - len(part.rstrip(b"\\"))
            kept = len(part) - backslashes % 2  # the last of an odd number escapes what is still to come
            self._rest, part = part[kept:], part[:kept].replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = part.split(b'"')
        for outside in pieces[self._inside :: 2]:
            self.count += outside.count(b",") + outside.count(b"{") + outside.count(b"[")
        self._inside = (self._inside + len(pieces) - 1) % 2


class Body:
    """What has arrived of one request."""

    def __init__(self, room: Room) -> None:
        self._room, self._values, self._file = room, Values(), io.BytesIO()
        self.size = 0

    def add(self, part: bytes) -> None:
        """Raises: Refused with 413 beyond a limit of the request, 503 beyond that of all."""
        limits = self._room.limits
        self.size += len(part)
        self._room.size += len(part)
        self._values.add(part)
        if self.size > limits.body_bytes:
            raise Refused(
                413,
                f"found a body of more than {limits.body_bytes} bytes, which limits.body_bytes allows; send fewer "
                "exchanges at a time, or smaller images",
            )
        if self._values.count > (most := most_values(limits)):
            raise Refused(
                413,
                f"found more than {most} values (objects, lists and their members), which limits.exchanges = "
                f"{limits.exchanges} and limits.images = {limits.images} allow; send fewer exchanges at a time",
            )
        if self._room.size > limits.all_bytes:
            raise Refused(
                503, f"requests of {limits.all_bytes} bytes (limits.all_bytes) are under way; ask again later"
            )
        self._file.write(part)

    def take(self) -> bytes:
        """The whole, once; it is not copied, and no longer kept here."""
        file, self._file = self._file, io.BytesIO()
        return file.getvalue()


class Room:
    """What all requests together may hold, until each is answered: theirs are the bytes of images in the queue."""

    def __init__(self, limits: LimitsSection) -> None:
        self.limits, self.requests, self.size = limits, 0, 0

    @contextmanager
    def request(self) -> Iterator[Body]:
        """Raises: Refused with 503 where `limits.connections` are under way."""
        if self.requests >= self.limits.connections:
            raise Refused(503, f"{self.requests} requests are under way (limits.connections); ask again later")
        self.requests += 1
        body = Body(self)
        try:
            yield body
        finally:
            self.requests -= 1
            self.size -= body.size
