"""One chat-completions address of the OpenAI kind: asking, repeating what may pass, counting what it used.

What is repeated: time-outs and broken connections, and the statuses 408, 409, 429 and 5xx; the wait doubles from one
second on (with jitter, so that many workers do not return at once), or is what `Retry-After` asks for. What is not:

    401, 402, 403, 404      the key, the credit, the model or the address: EndpointError ends the run
    a wait beyond the limit EndpointError too: a used-up quota
    other statuses 4xx      Refused, which is this row's failure alone
    the rest, and the last repetition     Unanswered: the same, and the next start may fare better

The API key is read from the environment, sent in the header, and struck out of every message. What a reply says is the
caller's to read: one that is not of the form asked for is sent back once with what is wrong (`Endpoint.ask_for`).
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

import httpx2
from PIL.Image import Image

from stage.endpoint.sections import EndpointSection
from vlm.common.addresses import warn_if_open
from vlm.common.errors import RecipeError, UserError
from vlm.common.redaction import keep_secret
from vlm.pictures import images
from vlm.pictures.images import limited

logger = logging.getLogger(__name__)

REPEATED = (408, 409, 429)
"""Statuses below 500 that may pass: time-out, conflict, too many requests."""
FATAL = {
    401: "the API key is not accepted",
    402: "there is no credit left",
    403: "access is refused",
    404: "no such address or model",
}
REASONING = ("reasoning", "reasoning_content")
"""Fields of a message in which servers put thoughts."""
FIRST_WAIT_S = 1.0
JPEG_QUALITY = 95
Messages = list[dict[str, Any]]
"""Turns of a conversation as the API takes them, oldest first."""
R = TypeVar("R")
Section = TypeVar("Section", bound=EndpointSection)


class Unanswered(Exception):
    """This request got no reply that can be used; another row's may."""


class Refused(Unanswered):
    """The server will not answer this request, and says so by its status: repeating it is of no use."""


class Malformed(Exception):
    """A reply is not of the form that was asked for; says how, in words the model can correct it by."""


class EndpointError(UserError):
    """No row will be answered; what is done is kept."""


@dataclass(slots=True)
class Usage:
    """Tokens that replies reported, and how many replies there were."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cut: int = 0
    "Replies that ended at the longest length."
    empty: int = 0
    "Replies without text, such as refusals."

    def add(self, reported: Any) -> None:
        """Count one reply. reported: its `usage`; an endpoint that says nothing counts no tokens."""
        self.calls += 1
        if isinstance(reported, dict):
            self.input_tokens += _count(reported.get("prompt_tokens"))
            self.output_tokens += _count(reported.get("completion_tokens"))

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def _plain(content: Any) -> str:
    """A message's text, which may come in parts. Raises: TypeError, LookupError for what is none."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str | type(None)):
        raise TypeError(f"content of type {type(content).__name__}")
    return content or ""


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def key_of(section: EndpointSection) -> str | None:
    """The API key from the variable that the recipe names. Raises: RecipeError where it is not set."""
    if section.key is None:
        return None
    named = f"{section.called}.key: the environment variable {section.key}"
    if not (key := os.environ.get(section.key, "").strip()):
        raise RecipeError(f"{named} is not set; export the API key in it")
    if not key.isascii() or not key.isprintable():
        raise RecipeError(f"{named} holds what no header can carry")
    return keep_secret(key)


class Reply(NamedTuple):
    """What came back."""

    text: str
    tokens: int
    "Of the reply, as it reports them; 0 of an endpoint that says nothing."
    cut: bool
    "Whether it ended at the longest length."


class Endpoint(Generic[Section]):
    """An open connection to the model; use as `async with Endpoint(section) as endpoint`.

    pause: waits this many seconds. usage: where replies are counted.
    """

    def __init__(
        self,
        section: Section,
        pause: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        usage: Usage | None = None,
    ):
        self.section, self.pause = section, pause
        self.usage = Usage() if usage is None else usage
        self._key = key_of(section)
        warn_if_open([section.address], section.key)
        self._told: set[str] = set()
        self._url = f"{section.address.rstrip('/')}/chat/completions"
        self._client = httpx2.AsyncClient(
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
            timeout=None,  # `ask` limits the whole of a request; httpx2 would limit each wait inside it
            limits=httpx2.Limits(max_connections=section.concurrency),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def ask(self, messages: Messages, **more: Any) -> str:
        """The text of the reply. more: fields of this request alone. Raises: Unanswered, EndpointError."""
        return (await self.reply(messages, **more)).text

    async def reply(self, messages: Messages, **more: Any) -> Reply:
        """The same with what else the reply tells."""
        body = {
            "model": self.section.model,
            "messages": messages,
            self.section.limit_field: self.section.max_tokens,
            **self.section.request,
            **more,
        }
        for repetition in range(self.section.retries + 1):
            wait = None
            try:
                async with asyncio.timeout(self.section.timeout):
                    response = await self._client.post(self._url, json=body)
            except TimeoutError:
                fault = f"no reply within {self.section.timeout:g} s"
            except httpx2.RequestError as error:
                fault = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.status_code == 200:
                    return self._reply(response)
                fault = self._refusal(response)
                wait = retry_after(response.headers.get("retry-after"))
            if repetition < self.section.retries:
                await self._wait(repetition, wait, fault)
        raise Unanswered(f"{self._struck(fault)}, {self.section.retries + 1} times")

    async def ask_for(self, messages: Messages, parse: Callable[[str], R], repair: Callable[[str], str]) -> R:
        """What `parse` reads from the reply; a Malformed one is sent back once, with `repair` of what is wrong.

        Raises: Malformed where the second is no better; Unanswered, EndpointError.
        """
        reply = await self.ask(messages)
        try:
            return parse(reply)
        except Malformed as fault:
            answered = [{"role": "assistant", "content": reply}, {"role": "user", "content": repair(str(fault))}]
        return parse(await self.ask([*messages, *answered]))

    async def _wait(self, repetition: int, asked: float | None, fault: str) -> None:
        longest = self.section.longest_wait
        if asked is not None and asked > longest:
            raise EndpointError(
                f"{self._url}: {fault}; it asks to wait {asked:.0f} s, more than {self.section.called}.longest_wait "
                f"({longest:g} s). What is done is kept: start the same command again later"
            )
        doubled = min(longest, FIRST_WAIT_S * 2**repetition) * random.uniform(0.5, 1)
        await self.pause(doubled if asked is None else asked)

    def _refusal(self, response: httpx2.Response) -> str:
        """What a status that may pass says; raises for the others."""
        status = response.status_code
        said = self._struck(f"status {status} {_error_text(response)}".rstrip())
        if status in FATAL:
            called = self.section.called
            raise EndpointError(f"{self._url}: {FATAL[status]} ({said}); fix `{called}` in the recipe, or its key")
        if status in REPEATED or status >= 500:
            return said
        raise (Refused if 400 <= status < 500 else Unanswered)(said)

    def _reply(self, response: httpx2.Response) -> Reply:
        try:
            reply = response.json()
            before = self.usage.output_tokens
            self.usage.add(reply.get("usage"))
            tokens = self.usage.output_tokens - before
            choice = min(reply["choices"], key=lambda one: one.get("index") or 0)
            said, end = choice["message"], choice.get("finish_reason")
            text = _plain(said.get("content"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Unanswered(self._struck(f"no chat completion: {response.text[:200]!r}")) from error
        if end == "error" or choice.get("error"):  # a gateway says so of a model that broke off
            raise Unanswered(self._struck(f"a reply that broke off: {response.text[:200]!r}"))
        self._doubt(reply.get("model"), said)
        self.usage.cut += end == "length"
        # a lone surrogate, which JSON lets through, could not be sent back for repair
        found = text.encode(errors="replace").decode()
        self.usage.empty += not found.strip()
        return Reply(found, tokens, end == "length")

    def _doubt(self, model: Any, said: dict[str, Any]) -> None:
        """Say, once each, who answers under another name, and where thoughts are cut out of the text."""
        asked, told = self.section.model, set[str]()
        if isinstance(model, str) and model != asked:
            told.add(f"{self._url}: {model!r} answers, and {asked!r} was asked")
        if any(said.get(field) for field in REASONING):
            told.add(
                f"{self._url}: the server sends the model's reasoning apart from the text, and the text alone is read; "
                "where <think> is asked for, start vLLM's without --reasoning-parser"
            )
        for doubt in sorted(told - self._told):
            logger.warning("%s", self._struck(doubt))
        self._told |= told

    def _struck(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[key]")


def user_turn(pictures: Sequence[str], text: str) -> dict[str, Any]:
    """A user's turn of a conversation: pictures (as `data_url` gives them), then the text."""
    return {"role": "user", "content": [*map(shown_at, pictures), {"type": "text", "text": text}]}


def shown_at(url: str) -> dict[str, Any]:
    """The part of a turn that is a picture."""
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(image: str | bytes, max_pixels: int) -> str:
    """The image as an endpoint gets it: upright RGB JPEG of at most `max_pixels`, as a data URL."""
    size = limited(images.size(image), max_pixels)
    picture = images.load(image, size)
    if size != picture.size:
        picture = picture.resize(size)
    return encoded(picture, "JPEG", quality=JPEG_QUALITY)


def encoded(picture: Image, kind: Literal["JPEG", "PNG"], **options: Any) -> str:
    """The picture as a data URL. options: of Pillow's writer."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date); None where it is unusable."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def _error_text(response: httpx2.Response) -> str:
    """The message of an OpenAI-style error body, else the body's beginning."""
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        return response.text[:200]
    return str(error.get("message", error) if isinstance(error, dict) else error)[:200]
