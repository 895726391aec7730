"""The routes of the score service, over a model that may still be loading.

    GET  /health   200 while the process runs
    GET  /ready    200 once the model is loaded, 503 before
    GET  /model    the model's fingerprint (needs the token)
    POST /score    scores of exchanges (needs the token); the JSON is described in wire.py

Errors are JSON, too: {"error": message}. 401 token, 403 path, 408 too slow, 413 too large, 415 not JSON, 422 wrong
content, 500 the model failed, 503 loading, busy or shutting down. No message tells where things lie on this machine.
The token is looked at before anything of the body is read, and a body is bounded while it arrives (`body`).

A client that says how long it waits (`Prefer: wait=120`, RFC 7240) is answered before that: either with scores, or with
a 503 that it can still read. One that has gone is not scored for.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rewards.score.model.exchange import Exchange
from rewards.score.scorer import Fitted, Scorer
from rewards.score.service import token as bearer
from rewards.score.service import wire
from rewards.score.service.batching import Batcher, Busy, Closed, Outcome
from rewards.score.service.body import Body, Room
from rewards.score.service.recipe import BatchingSection, LimitsSection
from vlm.common.errors import DataError
from vlm.common.redaction import redact
from vlm.sections import RasterSection

logger = logging.getLogger(__name__)

LOADING = "the model is loading"
PATH = re.compile(r"(?<![\w./])/(?:[\w.+@-]+/)+[\w.+@-]*")
GONE = 499
"""nginx's status for "the client went away"; nobody reads it."""
WAIT = re.compile(r"\bwait=(\d{1,6})\b")
IN_TIME = 0.95
"""The share of a client's wait after which it is answered, so that it reads the answer."""
DECODED_AT_A_TIME = 2
"""Requests; a full body needs three times its size then, and parsing holds Python's lock."""
LONGEST_MESSAGE = 1000
"""Characters."""


def unfitted(exchange: Exchange) -> Fitted:
    """For a scorer that reads exchanges of any length."""
    return Fitted(exchange, 1 + sum(len(turn["content"]) for turn in exchange.messages) // 4)


class Service:
    """What the routes share: the one model, once it is there, and its batches."""

    def __init__(self, batching: BatchingSection, broken: Callable[[Exception], object] = lambda error: None):
        """broken: of a `Batcher`."""
        self.batching, self.broken = batching, broken
        self.batcher: Batcher | None = None
        self.model = ""
        "The model's fingerprint."

    def open(self, scorer: Scorer, model: str, fit: Callable[[Exchange], Fitted] = unfitted) -> None:
        """The model is loaded: take requests from now on. fit: cuts what the scorer cannot read; raises DataError."""
        self.model, self.fit, settings = model, fit, self.batching
        self.batcher = Batcher(
            scorer.score, settings.max_batch, settings.window, settings.max_waiting, settings.max_tokens, self.broken
        )

    def close(self) -> None:
        if self.batcher is not None:
            self.batcher.close()

    def fitted(self, row: wire.Row, number: int) -> tuple[wire.Row, int]:
        """(a row that the model can read or that is refused, its tokens)."""
        if row.exchange is None:
            return row, 0
        try:
            exchange, tokens, cut = self.fit(row.exchange)
        except DataError as error:
            return wire.Row(refusal=wire.Refused(413, f"exchanges.{number}: {error}")), 0
        return replace(row, exchange=exchange, cut=row.cut or cut), tokens

    def submit(self, exchanges: list[Exchange], tokens: Sequence[int], connection: Any) -> Future[list[Outcome]]:
        """Raises: HTTPException 503 where no more are taken now."""
        assert self.batcher is not None
        try:
            return self.batcher.submit(exchanges, tokens, connection)
        except (Busy, Closed) as error:
            raise HTTPException(503, str(error)) from error


def app(
    service: Service,
    limits: LimitsSection,
    token: str | None = None,
    image_root: str | None = None,
    raster: RasterSection | None = None,
) -> Starlette:
    """The ASGI application. `token`: what callers must show, if anything. raster: how rasters in requests are read."""
    routes = [
        Route("/health", health),
        Route("/ready", ready),
        Route("/model", model),
        Route("/score", score, methods=["POST"]),
    ]
    handlers = {HTTPException: _refusal, wire.Refused: _refusal, ClientDisconnect: _gone}
    made = Starlette(routes=routes, exception_handlers=handlers)
    made.state.service, made.state.limits, made.state.token, made.state.image_root = service, limits, token, image_root
    made.state.raster, made.state.room = raster, Room(limits)
    made.state.decoding = asyncio.Semaphore(DECODED_AT_A_TIME)
    return made


LAST = {"Connection": "close"}
"""Where no token is asked for: a connection that shows none ends with its answer."""


async def health(request: Request) -> Response:
    return JSONResponse({"alive": True}, headers=LAST)


async def ready(request: Request) -> Response:
    loaded = request.app.state.service.batcher is not None
    return JSONResponse({"ready": loaded}, 200 if loaded else 503, headers=LAST)


async def model(request: Request) -> Response:
    """An answer to no exchanges."""
    state = request.app.state
    _check_token(request)
    if state.service.batcher is None:
        raise HTTPException(503, LOADING)
    return _reply([], state.service.model)


async def score(request: Request) -> Response:
    state, loop = request.app.state, asyncio.get_running_loop()
    begun = loop.time()
    _check_token(request)
    _check_type(request)
    service, limits = state.service, state.limits
    with state.room.request() as body:
        waits = _waits(request)
        await _receive(request, body, min(limits.receive, waits), limits)
        async with state.decoding:
            if service.batcher is None:
                raise HTTPException(503, LOADING)
            if await request.is_disconnected():
                raise ClientDisconnect
            rows, tokens = await run_in_threadpool(_rows, body.take(), state)
        exchanges = [row.exchange for row in rows if row.exchange is not None]
        outcomes: list[Outcome] = []
        if exchanges:
            left = min(limits.answer, begun + waits - loop.time())
            future = service.submit(
                exchanges, [n for row, n in zip(rows, tokens, strict=True) if row.exchange], request.client
            )
            outcomes = await _outcomes(future, request, left)
    return _answer(rows, outcomes, request)


def _waits(request: Request) -> float:
    """Seconds in which the client has to have an answer."""
    said = WAIT.search(request.headers.get("prefer", ""))
    return IN_TIME * int(said[1]) if said else float("inf")


def _rows(body: bytes, state: Any) -> tuple[list[wire.Row], list[int]]:
    """The rows of a request and their tokens; in a thread, for it opens images and counts tokens."""
    rows = wire.decode(body, state.limits, state.image_root, state.raster)
    fitted = [state.service.fitted(row, number) for number, row in enumerate(rows)]
    return [row for row, _ in fitted], [tokens for _, tokens in fitted]


def _answer(rows: Sequence[wire.Row], outcomes: Sequence[Outcome], request: Request) -> Response:
    """Scores of the rows that have one, and why the others have none. `outcomes`: of those that were not refused."""
    scores: list[float | None] = []
    failed: dict[int, wire.Refused] = {}
    left = iter(outcomes)
    for number, row in enumerate(rows):
        outcome = row.refusal or next(left)
        if isinstance(outcome, Exception):
            failed[number] = outcome if isinstance(outcome, wire.Refused) else _failure(outcome, number)
        scores.append(None if isinstance(outcome, Exception) else outcome)
    errors = {number: _said(error, request) for number, error in failed.items()}
    if len(errors) == len(rows):
        status = max(error.status for error in failed.values())
        first = next(number for number, error in failed.items() if error.status == status)
        return JSONResponse({"error": errors[first], "errors": errors}, status)
    return _reply(scores, request.app.state.service.model, errors, [n for n, row in enumerate(rows) if row.cut])


def _failure(error: Exception, number: int) -> wire.Refused:
    if isinstance(error, DataError):  # an image that turned out broken when its pixels were decoded
        return wire.Refused(422, f"exchanges.{number}: {error}")
    logger.error("the model failed on an exchange", exc_info=error)
    return wire.Refused(500, f"the model failed: {type(error).__name__}: {str(error)[:500]}")


def _reply(
    scores: list[float | None], model: str, errors: dict[int, str] | None = None, cut: Sequence[int] = ()
) -> Response:
    reply = wire.ScoreReply(scores=scores, model=model, errors=errors or {}, cut=list(cut))
    return Response(reply.model_dump_json(exclude_defaults=True), media_type="application/json")


def _check_token(request: Request) -> None:
    if not bearer.accepted(request.headers.get("authorization"), request.app.state.token):
        raise HTTPException(401, "wrong or missing bearer token", {"WWW-Authenticate": "Bearer"})
    request.state.admit()  # of `connections`


def _check_type(request: Request) -> None:
    """Also keeps web pages out: a browser asks before it sends JSON to another origin, and gets no permission here."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json")


async def _receive(request: Request, body: Body, seconds: float, limits: LimitsSection) -> None:
    """Read no further and wait no longer than the limits, whatever the request's header says.

    Raises: Refused 413 and 503, HTTPException 408.
    """
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body.add(part)
    except TimeoutError as error:
        limit = "limits.receive" if seconds == limits.receive else "the client's own wait"
        raise HTTPException(408, f"the request did not arrive within {seconds:g} s ({limit})", LAST) from error


async def _outcomes(future: Future[list[Outcome]], request: Request, limit: float) -> list[Outcome]:
    """Of the exchanges. Where the client leaves first (its time-out), or after `limit` seconds, they leave the queue.

    Raises: ClientDisconnect; HTTPException 503.
    """
    outcomes = asyncio.wrap_future(future)
    leaving = asyncio.ensure_future(request.receive())  # the body is read, so only a disconnect can come
    await asyncio.wait({outcomes, leaving}, timeout=max(limit, 0.0), return_when=asyncio.FIRST_COMPLETED)
    gone = leaving.done()
    leaving.cancel()
    if not outcomes.done():
        future.cancel()  # not `outcomes`, which would tell it in the loop's next turn: after the answer has been sent
        if gone:
            raise ClientDisconnect
        raise HTTPException(503, f"no scores within {limit:g} s (limits.answer, or the client's own wait)")
    try:
        return outcomes.result()
    except Closed as error:
        raise HTTPException(503, str(error)) from error


async def _refusal(request: Request, error: Any) -> Response:
    status, message = (error.status_code, error.detail) if isinstance(error, HTTPException) else (error.status, error)
    said = _said(wire.Refused(status, str(message)), request)
    return JSONResponse({"error": said}, status, getattr(error, "headers", None))


def _said(error: wire.Refused, request: Request) -> str:
    """The message as the client gets it."""
    text = str(error)
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]} …"
    return redact(_without_paths(text, request.app.state.image_root, error.status))


def _without_paths(text: str, image_root: str | None, status: int) -> str:
    """A message without where things lie on this machine: images by the names that were asked for."""
    if image_root is not None:
        for root in {str(image_root), str(Path(image_root).resolve())}:
            text = text.replace(root.rstrip("/") + "/", "")
    return PATH.sub("[path]", text) if status >= 500 else text


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=GONE)
