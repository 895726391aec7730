"""Connections that nobody vouches for: few of one address, not for long, and never in the way of who has the token.

uvicorn itself waits without end for a request's header, and counts idle connections against its limit: whoever can
reach the port could hold all of them open, token or not, with a byte now and then. Here a connection is a stranger
until a complete header with the token has come (without a token in the recipe, any complete header). Strangers have
`limits.header` seconds. Of one address there are at most `limits.strangers`; the next one has the oldest closed, so an
owner of the token gets in from the same address, too: its header is there in milliseconds.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from rewards.score.service.recipe import LimitsSection

ADMIT = "admit"
"""The name in a request's `state` under which the application finds what to call once it has seen the token."""


class _Hasty(H11Protocol):
    """Overridden: `__init__`, `connection_made`, `data_received`, `connection_lost`, around a timer."""

    limits: LimitsSection
    strangers: dict[str, dict[_Hasty, None]]
    "By address, oldest first; shared by all connections."
    _timer: asyncio.TimerHandle | None = None
    _address: str | None = None
    "Of a stranger."

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ws_protocol_class = None  # an upgrade would take the connection away from here
        self.app_state = {**self.app_state, ADMIT: self._admit}

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._address = _network(self.client[0]) if self.client else ""
        present = self.strangers.setdefault(self._address, {})
        present[self] = None
        if len(present) > self.limits.strangers:
            oldest = next(iter(present))
            oldest._known()
            oldest.transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._known()
        super().connection_lost(exc)

    def _admit(self) -> None:
        """The application has seen the token."""
        self._known()
        self._wait()

    def _known(self) -> None:
        if self._address is not None:
            present = self.strangers[self._address]
            del present[self]
            if not present:
                del self.strangers[self._address]
            self._address = None

    def _wait(self) -> None:
        """A stranger's clock runs from the connection on; of others, from the first byte after an answer until a
        request's header is there."""
        if self._address is None and self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(min(self.limits.header, self.limits.receive), self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _network(host: str) -> str:
    """An address; of IPv6, the 64 bits that one owner has all the others below."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))


def protocol(limits: LimitsSection) -> type[H11Protocol]:
    """For `uvicorn.Config(http=…)`."""
    return type("Hasty", (_Hasty,), {"limits": limits, "strangers": {}})
