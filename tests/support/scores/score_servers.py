"""Score services for tests: the real application under a real uvicorn, on a loopback port, around a scorer one sees."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from PIL import Image

from rewards.score.model.exchange import Exchange
from rewards.score.service.connections import protocol
from rewards.score.service.recipe import BatchingSection, LimitsSection
from rewards.score.service.server import Service, app
from rewards.score.service.stage import listen

LIMIT = 60
"""Seconds after which something that should happen counts as not happening."""


def png(width: int = 8, height: int = 8, color: str = "red", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, kind)
    return file.getvalue()


def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait for what another thread or process does; fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@contextmanager
def services() -> Iterator[Callable[..., Running]]:
    """Starts services, which end with the block."""
    started = []

    def start(**options) -> Running:
        started.append(Running(**options))
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.kill()


def exchanges(*answers: str, images: tuple = ()) -> list[Exchange]:
    return [Exchange.of("What is it?", answer, images) for answer in answers]


class Lengths:
    """Scores an answer by its number of characters. `gate` cleared: holds every batch; `entered`: one has begun."""

    def __init__(self):
        self.batches: list[list[Exchange]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def score(self, batch: list[Exchange]) -> list[float]:
        self.batches.append(list(batch))
        self.entered.set()
        assert self.gate.wait(LIMIT)
        return [self.value(exchange.messages[-1]["content"]) for exchange in batch]

    def value(self, answer: str) -> float:
        return float(len(answer))

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class _Server(uvicorn.Server):
    async def startup(self, sockets=None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


class Running:
    """One replica in a thread. Connections are taken from the first moment on (they wait in the socket's backlog).

    loaded: False leaves the model out until `load()`. requests: what was asked, by route.
    """

    def __init__(
        self,
        scorer=None,
        port: int = 0,
        model: str = "m1",
        loaded: bool = True,
        token=None,
        image_root=None,
        **sections,
    ):
        self.scorer, self.model = scorer or Lengths(), model
        self.service = Service(sections.get("batching") or BatchingSection(max_batch=4, window=0.0))
        self.requests: list[str] = []
        if loaded:
            self.load()
        inner = app(self.service, sections.get("limits") or LimitsSection(), token, image_root)

        async def counted(scope, receive, send):
            if scope["type"] == "http":
                self.requests.append(scope["path"])
            await inner(scope, receive, send)

        self._socket = listen("127.0.0.1", port)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        http = protocol(sections.get("limits") or LimitsSection())
        self._server = _Server(uvicorn.Config(counted, http=http, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def load(self) -> None:
        self.service.open(self.scorer, self.model)

    def kill(self) -> None:
        """Break every connection in mid-request and free the port, as when the process dies."""

        def abort() -> None:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()

        if self._thread.is_alive():
            if self._server.started:
                self._server.loop.call_soon_threadsafe(abort)
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(LIMIT)
            self._socket.close()
        if isinstance(self.scorer, Lengths):
            self.scorer.gate.set()
        self.service.close()


def unused_url() -> str:
    """Of a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class Warned(logging.Handler):
    """Sets `event` when the client says that it waits for a service."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.event, self.messages = threading.Event(), []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.event.set()
