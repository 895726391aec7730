"""The routes of the score service, over a model that may still be loading.

    GET  /health   200 while the process runs
    GET  /ready    200 once the model is loaded, 503 before
    GET  /model    the model's fingerprint (needs the token)
    POST /score    scores of exchanges (needs the token); the JSON is described in wire.py

Errors are JSON, too: {"error": message}. 401 token, 403 path, 408 too slow, 413 too large, 415 not JSON, 422 wrong
content, 500 the model failed, 503 loading, busy or shutting down. No message tells where things lie on this machine.
The token is looked at before anything of the body is read.
"""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rewards.score.model.exchange import Exchange
from rewards.score.scorer import Scorer
from rewards.score.service import token as bearer
from rewards.score.service import wire
from rewards.score.service.batching import Batcher, Busy, Closed
from rewards.score.service.recipe import BatchingSection, LimitsSection
from vlm.common.errors import DataError
from vlm.common.redaction import redact
from vlm.sections import RasterSection

logger = logging.getLogger(__name__)

LOADING = "the model is loading"
PATH = re.compile(r"(?<![\w./])/(?:[\w.+@-]+/)+[\w.+@-]*")
GONE = 499
"""nginx's status for "the client went away"; nobody reads it."""


class Service:
    """What the routes share: the one model, once it is there, and its batches."""

    def __init__(self, batching: BatchingSection):
        self.batching = batching
        self.batcher: Batcher | None = None
        self.model = ""
        "The model's fingerprint."

    def open(self, scorer: Scorer, model: str) -> None:
        """The model is loaded: take requests from now on."""
        self.model = model
        self.batcher = Batcher(scorer.score, self.batching.max_batch, self.batching.window, self.batching.max_waiting)

    def close(self) -> None:
        if self.batcher is not None:
            self.batcher.close()

    def submit(self, exchanges: list[Exchange]) -> Future[list[float]]:
        """Raises: HTTPException 503 where no more are taken now."""
        if self.batcher is None:
            raise HTTPException(503, LOADING)
        try:
            return self.batcher.submit(exchanges)
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
    made.state.raster = raster
    return made


async def health(request: Request) -> Response:
    return JSONResponse({"alive": True})


async def ready(request: Request) -> Response:
    loaded = request.app.state.service.batcher is not None
    return JSONResponse({"ready": loaded}, 200 if loaded else 503)


async def model(request: Request) -> Response:
    """An answer to no exchanges."""
    state = request.app.state
    _check_token(request)
    if state.service.batcher is None:
        raise HTTPException(503, LOADING)
    return _reply([], state.service.model)


async def score(request: Request) -> Response:
    state = request.app.state
    _check_token(request)
    _check_type(request)
    body = await _body(request, state.limits)
    exchanges = await run_in_threadpool(wire.decode, body, state.limits, state.image_root, state.raster)
    return _reply(await _scores(state.service.submit(exchanges), request, state.limits.answer), state.service.model)


def _reply(scores: list[float], model: str) -> Response:
    return Response(wire.ScoreReply(scores=scores, model=model).model_dump_json(), media_type="application/json")


def _check_token(request: Request) -> None:
    if not bearer.accepted(request.headers.get("authorization"), request.app.state.token):
        raise HTTPException(401, "wrong or missing bearer token", {"WWW-Authenticate": "Bearer"})


def _check_type(request: Request) -> None:
    """Also keeps web pages out: a browser asks before it sends JSON to another origin, and gets no permission here."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json")


async def _body(request: Request, limits: LimitsSection) -> bytes:
    """The body, read no further and waited for no longer than the limits, whatever its header says.

    Raises: Refused 413, HTTPException 408.
    """
    parts, size, limit = [], 0, limits.body_bytes
    try:
        async with asyncio.timeout(limits.receive):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise wire.Refused(
                        413,
                        f"found a body of more than {limit} bytes, which limits.body_bytes allows; send fewer "
                        "exchanges at a time, or smaller images",
                    )
    except TimeoutError as error:
        raise HTTPException(
            408, f"the request did not arrive within {limits.receive:g} s (limits.receive)", {"Connection": "close"}
        ) from error
    return b"".join(parts)


async def _scores(future: Future[list[float]], request: Request, limit: float) -> list[float]:
    """The scores. Where the client leaves first (its time-out), or after `limit` seconds, the request leaves the queue.

    Raises: ClientDisconnect; HTTPException 503 and 500, Refused 422.
    """
    scores = asyncio.wrap_future(future)
    leaving = asyncio.ensure_future(request.receive())  # the body is read, so only a disconnect can come
    await asyncio.wait({scores, leaving}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    gone = leaving.done()
    leaving.cancel()
    if not scores.done():
        scores.cancel()
        if gone:
            raise ClientDisconnect
        raise HTTPException(503, f"no scores within {limit:g} s (limits.answer)")
    try:
        return scores.result()
    except Closed as error:
        raise HTTPException(503, str(error)) from error
    except DataError as error:  # an image that turned out broken when its pixels were decoded
        raise wire.Refused(422, str(error)) from error
    except Exception as error:  # whatever the model raised
        logger.error("the model failed on a request", exc_info=error)
        raise HTTPException(500, f"the model failed: {type(error).__name__}: {str(error)[:500]}") from error


async def _refusal(request: Request, error: Any) -> Response:
    status, message = (error.status_code, error.detail) if isinstance(error, HTTPException) else (error.status, error)
    said = _without_paths(str(message), request.app.state.image_root, status)
    return JSONResponse({"error": redact(said)}, status, getattr(error, "headers", None))


def _without_paths(text: str, image_root: str | None, status: int) -> str:
    """A message without where things lie on this machine: images by the names that were asked for."""
    if image_root is not None:
        for root in {str(image_root), str(Path(image_root).resolve())}:
            text = text.replace(root.rstrip("/") + "/", "")
    return PATH.sub("[path]", text) if status >= 500 else text


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=GONE)
