"""Connections that do not get to the point are closed: uvicorn itself waits without end for a request's header.

Without this, whoever can reach the port holds all `limits.connections` open, token or not, with a byte now and then.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class _Hasty(H11Protocol):
    """Overridden: `connection_made`, `data_received`, `connection_lost` (each uvicorn's, around a timer)."""

    seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        """The clock runs from the connection, or the first byte after an answer, until a request's header is there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(seconds: float) -> type[H11Protocol]:
    """For `uvicorn.Config(http=…)`: a request's header has to be there within `seconds`."""
    return type("Hasty", (_Hasty,), {"seconds": seconds})
