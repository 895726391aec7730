"""Which replica is asked next: the least busy one, and those that failed lately last."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from vlm.common.errors import RecipeError

LONGEST_REST = 60.0
"""Seconds after which a replica that keeps failing is no longer put behind the others."""


@dataclass
class Replica:
    url: str
    busy: int = 0
    "Requests in flight."
    failures: int = 0
    "In a row."
    rests_until: float = 0.0
    "Seconds of `time.monotonic`; until then the others are asked first."
    turn: int = 0
    "When it was asked last, counted in requests."


class Replicas:
    """The replicas of one model, shared by the threads that ask them."""

    def __init__(self, urls: Sequence[str]):
        self.all = [Replica(checked(url)) for url in urls]
        if not self.all:
            raise RecipeError("urls is empty; name at least one score service, e.g. http://127.0.0.1:8100")
        self._lock = threading.Lock()
        self._turn = 0

    @contextmanager
    def next(self, tried: Collection[Replica]) -> Iterator[Replica]:
        """One of those not tried yet, counted as busy inside."""
        with self._lock:
            now = time.monotonic()
            left = [replica for replica in self.all if all(replica is not other for other in tried)]
            replica = min(left, key=lambda r: (r.rests_until > now and r.rests_until, r.busy, r.turn))
            self._turn += 1
            replica.busy, replica.turn = replica.busy + 1, self._turn
        try:
            yield replica
        finally:
            with self._lock:
                replica.busy -= 1

    def failed(self, replica: Replica) -> None:
        """It rests for 1 s, then 2, 4 … so that a hung replica does not cost a time-out for each request."""
        with self._lock:
            replica.failures += 1
            rest = min(2.0 ** min(replica.failures - 1, 30), LONGEST_REST)
            replica.rests_until = time.monotonic() + rest

    def answered(self, replica: Replica) -> None:
        with self._lock:
            replica.failures, replica.rests_until = 0, 0.0


def checked(url: str) -> str:
    """The URL without a slash at its end. Raises: RecipeError where it is none of a service, or holds a password."""
    try:
        parts = urlsplit(url)
        if parts.username or parts.password:  # the URL is not quoted: what stands there is a secret
            raise RecipeError(
                f"a URL of a score service on {parts.hostname} holds a name or password, which would end up in logs; "
                "use token_variable"
            )
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        parts.port  # noqa: B018  # raises ValueError where it is no number
    except ValueError:
        good = False
    if not good:
        raise RecipeError(f"score service {url!r}: expected a URL such as http://127.0.0.1:8100")
    return url.rstrip("/")
