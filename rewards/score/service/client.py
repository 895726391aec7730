"""Ask score services for scores, as if the model were here.

    with ScoreClient(["http://127.0.0.1:8100", "http://127.0.0.1:8101"]) as scorer:
        scorer.score([Exchange.of("How many ships are there?", "Two.", images=["harbor.png"])])  # [1.25]

A call is cut into requests, which are spread over the replicas. What becomes of one:

    no connection, time-out, 429, 502–504   the next replica immediately; after all of them a pause, longer each time
    500 (the model failed)                  the same, but at most MODEL_FAILURES rounds
    no scores within `patience`             ScorerUnavailable
    an exchange is refused                  RowsRefused, which has the scores of the others
    the request is too large (413)          its halves, each by itself
    any other answer                        ScorerRefused immediately: the token, the form, another model

So a service that is killed and started again costs time and nothing else, and no failure ever becomes a score.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import tenacity
from pydantic import ValidationError

from rewards.score.model.exchange import Exchange
from rewards.score.scorer import RowsRefused, ScorerRefused, ScorerUnavailable, count_cut
from rewards.score.service import token, wire
from rewards.score.service.replicas import Replica, Replicas
from vlm.common.addresses import warn_if_open
from vlm.common.errors import RecipeError

logger = logging.getLogger(__name__)

PASSING = (408, 429, 502, 503, 504)
"""Statuses that a service in trouble, or a proxy before it, gives for a while."""
MODEL_FAILURES = 3
"""Rounds after which a model that fails on every replica is taken to fail always."""
TOO_LARGE = 413
JSON = {"Content-Type": "application/json"}
CONNECT_TIMEOUT = 5.0
"""Seconds; a machine that is up answers or refuses a connection much sooner."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds. Pauses are drawn from 0 to a bound that doubles ("full jitter"), so that ranks do not come in step."""


class Unanswered(Exception):
    """A try that may be repeated. `model_failed`: the service is up, and its model raised."""

    def __init__(self, cause: str, model_failed: bool = False):
        super().__init__(cause)
        self.model_failed = model_failed


class Refused(ScorerRefused):
    """An answer with a status that no repetition changes. `errors`: of single exchanges, by number."""

    def __init__(self, message: str, status: int, errors: dict[int, str]):
        super().__init__(message)
        self.status, self.errors = status, errors


class ScoreClient:
    """A scorer (`.score(exchanges) -> list[float]`) that is served elsewhere. Safe to use from several threads.

    urls: the replicas; they must serve the same model.
    token_variable: name of the environment variable with the bearer token, or None.
    timeout: seconds for one request, which includes waiting in the service's queue. The service is told, and answers
        before that.
    patience: seconds for which one request is tried in all, over all replicas.
    exchanges_per_request, bytes_per_request: where a call is cut (bytes of images, before base64).
    requests_per_replica: in flight at a time; two keep the service busy while an answer is on its way.
    image_root: a folder that the services see as their `image_root`: files in it travel as paths.
    model: the fingerprint that replicas must show; by default that of the first answer.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token_variable: str | None = None,
        timeout: float = 300.0,
        patience: float = 600.0,
        exchanges_per_request: int = 16,
        bytes_per_request: int = 32 * 2**20,
        requests_per_replica: int = 2,
        image_root: str | None = None,
        model: str | None = None,
    ):
        if not 0 < timeout <= patience:
            raise RecipeError(f"timeout = {timeout}, patience = {patience}; expected 0 < timeout ≤ patience (seconds)")
        if min(exchanges_per_request, bytes_per_request, requests_per_replica) < 1:
            raise RecipeError("exchanges_per_request, bytes_per_request and requests_per_replica are at least 1")
        self.replicas = Replicas([urls] if isinstance(urls, str) else urls)
        warn_if_open((replica.url for replica in self.replicas.all), token_variable)
        self.timeout, self.patience, self.model = timeout, patience, model
        self.cut = 0
        "Answers so far that were longer than the model reads, and were scored without their end."
        self._cut = partial(
            wire.requests_of,
            max_exchanges=exchanges_per_request,
            max_bytes=bytes_per_request,
            image_root=image_root,
        )
        self._threads = requests_per_replica * len(self.replicas.all)
        self._agreed = threading.Lock()
        self._http = httpx2.Client(
            headers=token.header(token.read(token_variable)),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=5.0),  # the service keeps them for longer
            trust_env=False,  # a proxy of the environment is for the outside, and would see images and token
        )

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Raw scores, in order.

        Raises: ScorerUnavailable when no replica gave any within `patience`, RowsRefused where some exchanges have
        none, ScorerRefused, DataError for an image that cannot be read here.
        """
        scores: list[float | None] = []
        errors: dict[int, str] = {}
        for reply in self._replies(exchanges):
            errors |= {len(scores) + number: said for number, said in reply.errors.items()}
            scores += reply.scores
        if errors:
            number, said = next(iter(errors.items()))
            raise RowsRefused(
                f"{len(errors)} of {len(scores)} exchanges have no score; number {number}: {said}", scores
            )
        return scores

    def _replies(self, exchanges: Sequence[Exchange]) -> list[wire.ScoreReply]:
        """Of all requests, in order."""
        requests, given_up = list(self._cut(exchanges)), threading.Event()
        with ThreadPoolExecutor(min(self._threads, len(requests)) or 1, "score-client") as pool:
            replies = [pool.submit(self._ask_patiently, request, given_up) for request in requests]
            try:
                return [reply.result() for reply in replies]
            except BaseException:  # also Ctrl-C: the other requests must not wait on
                given_up.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def fingerprint(self) -> str:
        """The model that every replica serves, asked from each, so that a run can check them before it starts.

        Raises: ScorerUnavailable where one does not answer within `patience`, ScorerRefused where two differ.
        """
        for replica in self.replicas.all:
            self._patiently(partial(self._model_of, replica), threading.Event())
        return self.model

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> ScoreClient:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _ask_patiently(self, request: wire.ScoreRequest, given_up: threading.Event) -> wire.ScoreReply:
        """The scores of a request; a row has none where its error says why."""
        content, count = request.model_dump_json(exclude_none=True).encode(), len(request.exchanges)
        try:
            reply = self._patiently(partial(self._round, content), given_up)
        except Refused as cause:
            if cause.errors:
                return wire.ScoreReply(scores=[None] * count, model="", errors=cause.errors)
            if cause.status != TOO_LARGE:
                raise
            if count == 1:
                return wire.ScoreReply(scores=[None], model="", errors={0: str(cause)})
            first, second = (self._ask_patiently(half, given_up) for half in wire.halves(request))
            later = {len(first.scores) + number: said for number, said in second.errors.items()}
            return wire.ScoreReply(scores=first.scores + second.scores, model="", errors=first.errors | later)
        missing = [number for number, score in enumerate(reply.scores) if score is None]
        if len(reply.scores) != count or missing != sorted(reply.errors):
            raise ScorerRefused(
                f"found {len(reply.scores)} scores for {count} exchanges in an answer, {len(missing)} of them null, "
                f"and {len(reply.errors)} errors; expected one or the other of each exchange"
            )
        with self._agreed:
            self.cut = count_cut(self.cut, len(reply.cut), "of the services")
        return reply

    def _patiently(self, ask, given_up: threading.Event):
        """`ask(deadline)`, repeated with pauses while it raises Unanswered. No pause is longer than what is left of the
        patience, so the last try is at its end."""
        deadline = time.monotonic() + self.patience
        pauses = tenacity.wait_random_exponential(FIRST_PAUSE, LONGEST_PAUSE)
        tries = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(self.patience), tenacity.stop_when_event_set(given_up), _model_always_fails
            ),
            wait=lambda state: max(0.0, min(pauses(state), deadline - time.monotonic())),
            retry=tenacity.retry_if_exception_type(Unanswered),
            sleep=tenacity.sleep_using_event(given_up),
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return tries(ask, deadline)
        except Unanswered as cause:
            count = tries.statistics["attempt_number"]
            raise ScorerUnavailable(
                f"no scores after {count} {'tries' if count > 1 else 'try'} in "
                f"{time.monotonic() - tries.statistics['start_time']:.1f} s (patience {self.patience:g} s): {cause}"
            ) from cause

    def _tell(self, state: tenacity.RetryCallState) -> None:
        """Once an outage, not at each try."""
        if state.attempt_number == 1:
            cause = state.outcome.exception()
            logger.warning("no score service answers (%s); trying for up to %g s", cause, self.patience)

    def _round(self, content: bytes, deadline: float) -> wire.ScoreReply:
        """Try each replica once, until one answers. Raises: Unanswered with the cause of each."""
        tried, causes = [], []
        while len(tried) < len(self.replicas.all):
            with self.replicas.next(tried) as replica:
                tried.append(replica)
                try:
                    answer = self._ask(replica, "/score", deadline, content)
                    self.replicas.answered(replica)
                    return self._checked(replica, answer)
                except Unanswered as cause:
                    self.replicas.failed(replica)
                    causes.append(cause)
        raise Unanswered("; ".join(map(str, causes)), all(cause.model_failed for cause in causes))

    def _model_of(self, replica: Replica, deadline: float) -> None:
        self._checked(replica, self._ask(replica, "/model", deadline))

    def _ask(self, replica: Replica, route: str, deadline: float, content: bytes | None = None) -> httpx2.Response:
        """A successful response. Raises: Unanswered, ScorerRefused."""
        url = replica.url + route
        left = min(self.timeout, max(deadline - time.monotonic(), 0.1))
        timeout = httpx2.Timeout(left, connect=min(left, CONNECT_TIMEOUT))
        try:
            if content is None:
                answer = self._http.get(url, timeout=timeout)
            else:
                answer = self._http.post(
                    url, content=content, headers=JSON | {"Prefer": f"wait={math.ceil(left)}"}, timeout=timeout
                )
        except httpx2.TimeoutException as error:
            raise Unanswered(f"{replica.url}: no answer in {left:.1f} s ({type(error).__name__})") from error
        except httpx2.TransportError as error:
            raise Unanswered(f"{replica.url}: {error or type(error).__name__}") from error
        if answer.is_success:
            return answer
        message, errors = _message(answer)
        where = f"{replica.url}: {answer.status_code} {answer.reason_phrase}"
        said = f"{where}: {message}"
        if answer.status_code in PASSING or answer.status_code == 500:
            raise Unanswered(said, model_failed=answer.status_code == 500)
        raise Refused(said, answer.status_code, {number: f"{where}: {error}" for number, error in errors.items()})

    def _checked(self, replica: Replica, answer: httpx2.Response) -> wire.ScoreReply:
        """The answer as a record, from the model that the other replicas serve. Raises: ScorerRefused."""
        try:
            reply = wire.ScoreReply.model_validate_json(answer.content)
        except ValidationError as error:
            found = answer.text[:200]
            raise ScorerRefused(f"{replica.url}: found {found!r}, expected the answer of a score service") from error
        with self._agreed:
            self.model = self.model or reply.model
        if reply.model != self.model:
            raise ScorerRefused(
                f"{replica.url} serves the model {reply.model}, expected {self.model} (configured, or seen first); "
                "scores of two models cannot be mixed, so start every replica with the same checkpoint and recipe"
            )
        return reply


def _model_always_fails(state: tenacity.RetryCallState) -> bool:
    cause = state.outcome.exception()
    return isinstance(cause, Unanswered) and cause.model_failed and state.attempt_number >= MODEL_FAILURES


def _message(answer: httpx2.Response) -> tuple[str, dict[int, str]]:
    """The `error` of our own services and those of single exchanges, else the beginning of what came."""
    try:
        said = wire.Refusal.model_validate_json(answer.content)
    except ValidationError:
        return answer.text[:200], {}
    return said.error, said.errors
