"""Serve a score model until interrupted: listen, answer /health, load the model, answer /ready, score."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import threading

from rewards.score.placement import InProcess, options_of
from rewards.score.service import token as bearer
from rewards.score.service.recipe import ServeRecipe
from vlm.common.errors import RecipeError, UserError
from vlm.common.processes import processes

logger = logging.getLogger(__name__)

OTHER_FILES = 256
"""Open files besides connections: libraries, weights, devices, images."""
LAST_ANSWERS = 30
"""Seconds that requests in flight get when the service is told to end."""
KEEP_ALIVE = 60
"""Seconds for which an idle connection stays open: longer than clients keep it, so that none is closed under them."""


def serve(recipe: ServeRecipe) -> None:
    """Serve until SIGINT or SIGTERM. Raises: RecipeError for token, address or checkpoint; BrokenGPU."""
    import uvicorn

    from rewards.score.service.connections import protocol
    from rewards.score.service.server import Service, app

    if processes() > 1:
        raise UserError(
            f"a score service is one process, and {processes()} were launched; start each replica by itself: "
            "python launch/serve.py recipes/score/serve.yaml port=8101 model.device=cuda:1"
        )
    token = bearer.read(recipe.token_variable)
    allow_files(recipe.limits.connections + recipe.limits.strangers)
    failures: list[Exception] = []

    def end(error: Exception) -> None:  # raised again below, in the main thread
        failures.append(error)
        server.should_exit = True

    with listen(recipe.host, recipe.port) as listening:
        service = Service(recipe.batching, end)
        settings = uvicorn.Config(
            app(service, recipe.limits, token, recipe.image_root, recipe.images.raster),
            http=protocol(recipe.limits),
            log_config=None,  # the launcher's
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
        server = uvicorn.Server(settings)

        def load() -> None:
            try:
                scorer = loaded(recipe)
                service.open(scorer, scorer.fingerprint(), scorer.fit)
            except Exception as error:
                end(error)
            else:
                logger.info("ready: %s, fingerprint %s", recipe.model.path, service.model)

        logger.info("score service on %s; loading %s", address(listening), recipe.model.path)
        threading.Thread(target=load, name="load", daemon=True).start()
        try:
            server.run(sockets=[listening])
        finally:
            service.close()
        if failures:
            raise failures[0]


def allow_files(connections: int) -> None:
    """Raise this process's soft limit of open files to what connections need, as far as the hard limit goes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logger.warning(
            "limits.connections and limits.strangers of one address need %d open files, and this machine allows %d "
            "(ulimit -Hn); lower them, or raise it",
            wanted,
            allowed,
        )


def loaded(recipe: ServeRecipe) -> InProcess:
    """The score model, which scores batches of the service's size. Raises: RecipeError."""
    section, batching = recipe.model, recipe.batching
    options = options_of(section) | {"device": section.device}
    scorer = InProcess(section.path, batching.max_batch, batching.share_prefix, **options)
    if scorer.load().processor is None:
        raise RecipeError(
            f"model.path: {section.path} has no tokenizer, so it cannot read exchanges; copy the files of "
            "its base's processor (tokenizer and preprocessor_config.json) next to it"
        )
    return scorer


def listen(host: str, port: int) -> socket.socket:
    """A socket on the address; port 0 takes a free one. Raises: RecipeError where the address is not available."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:  # a name
        family = socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # what Python adds repeats the address
        raise RecipeError(
            f"host, port: cannot listen on {host}:{port} ({reason}); choose another port, or 0 for a free one"
        ) from error


def address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def plan(recipe: ServeRecipe) -> None:
    """Print what would be served (`--dry-run`); neither model nor token need be here yet: what is not is noted."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    lines = [InProcess(recipe.model.path, **options_of(recipe.model)).ready()]
    try:
        bearer.read(recipe.token_variable)
    except RecipeError as error:
        if os.environ.get(recipe.token_variable or "", "").strip():
            raise
        lines.append(f"note: {error}")
    batching, limits = recipe.batching, recipe.limits
    lines += [
        f"listening on {recipe.host}, port {recipe.port or 'any that is free'}",
        f"bearer token from ${recipe.token_variable}" if recipe.token_variable else "no token: this machine only",
        f"images as bytes, or as paths below {recipe.image_root}" if recipe.image_root else "images as bytes",
        f"batches of up to {batching.max_batch} exchanges, gathered for {1000 * batching.window:g} ms; up to "
        f"{batching.max_waiting} wait",
        f"a request holds up to {limits.exchanges} exchanges and {limits.body_bytes:,} bytes; all of them, "
        f"{limits.all_bytes:,} bytes",
    ]
    for line in lines:
        console.print(line, markup=False)
