"""The score service against those who reach its port: slow, greedy, guessing, or curious about the machine."""

from __future__ import annotations

import base64
import json
import socket
import time

import httpx2
import pytest
from pydantic import ValidationError

from rewards.score.model.exchange import Exchange
from rewards.score.service import token, wire
from rewards.score.service.recipe import MOST, LimitsSection
from tests.support.scores.score_servers import LIMIT, Lengths, Running, png, services
from vlm.common.errors import DataError, RecipeError
from vlm.pictures.images import load

TALK = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A ship."}]
BODY = json.dumps({"exchanges": [{"messages": TALK, "images": []}]}).encode()
SECRET = "w0rd-of-the-service-that-nobody-guesses"


@pytest.fixture
def serve():
    with services() as start:
        yield start


def ask(server: Running, content: bytes = BODY, **headers) -> tuple[int, str]:
    with httpx2.Client(trust_env=False, timeout=LIMIT) as http:
        answer = http.post(
            f"{server.url}/score", content=content, headers={"Content-Type": "application/json", **headers}
        )
    return answer.status_code, answer.text


def head(length: int, *more: str) -> bytes:
    lines = ["POST /score HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def until_closed(connection: socket.socket) -> bytes:
    connection.settimeout(LIMIT)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"POST /score HT", head(9)[:-2]], ids=["nothing", "a line", "half a header"])
def test_who_sends_no_header_is_cut_off(serve, sent):
    server = serve(limits=LimitsSection(receive=0.2), token=SECRET)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(sent)
        assert until_closed(raw) == b""
    assert 0.1 < time.monotonic() - began < LIMIT / 2
    assert ask(server, Authorization=f"Bearer {SECRET}")[0] == 200


def test_who_begins_a_second_request_slowly_is_cut_off(serve):
    server = serve(limits=LimitsSection(receive=0.2))
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head(len(BODY)) + BODY)
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
        raw.sendall(b"POST /sc")
        until_closed(raw)


def test_who_sends_no_body_is_told_and_cut_off(serve):
    server = serve(limits=LimitsSection(receive=0.2))
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(head(1000) + b"{")
        said = until_closed(raw)
    assert said.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.2 s" in said
    assert server.scorer.batches == []


def test_an_answer_that_takes_too_long_is_given_up(serve):
    """The client may ask another replica; the request leaves the queue."""
    server = serve(limits=LimitsSection(answer=0.2))
    server.scorer.gate.clear()
    try:
        status, said = ask(server)
        assert status == 503 and "no scores within 0.2 s" in said
    finally:
        server.scorer.gate.set()


def test_images_are_counted_where_they_are_shown(serve):
    server = serve(limits=LimitsSection(images=6, exchange_images=3))
    picture = {"data": base64.b64encode(png()).decode()}

    def body(table: int, *uses: list[int]) -> bytes:
        exchanges = [{"messages": TALK, "images": used} for used in uses]
        return json.dumps({"images": [picture] * table, "exchanges": exchanges}).encode()

    assert ask(server, body(1, [0] * 3, [0] * 3))[0] == 200
    for greedy, words in (
        (body(1, [0] * 3, [0] * 3, [0]), "found 7 images, at most 6 are taken"),
        (body(7, [0]), "found 7 images, at most 6 are taken"),
        (body(1, [0] * 4), "exchanges.0: found 4 images, at most 3 are taken"),
    ):
        status, said = ask(server, greedy)
        assert status == 413 and words in said


def test_parsing_stops_before_a_long_list_is_made():
    """Memory by tracemalloc: 200,000 small records were 98 MB without the limit, 31 MB with it."""
    content = b'{"images": [%s{}]}' % (b"{}," * 200_000)
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(wire.Refused, match=f"at most {MOST} items"):
        wire.decode(content, LimitsSection(), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x", "Bearer \xff", "Basic"])
def test_wrong_tokens_are_compared_in_constant_time_and_not_repeated(serve, given, monkeypatch, caplog):
    compared = []
    monkeypatch.setattr(token.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    server = serve(token=SECRET)
    status, said = ask(server, Authorization=given.encode("latin-1"))
    assert status == 401 and json.loads(said) == {"error": "wrong or missing bearer token"}
    assert len(compared) == 1 and SECRET not in caplog.text and server.scorer.batches == []


def test_a_token_that_can_be_guessed_is_for_this_machine_only():
    token.check_strength("short", "127.0.0.1")
    token.check_strength(SECRET, "0.0.0.0")
    token.check_strength(None, "localhost")
    with pytest.raises(RecipeError, match="has 5 characters, and 0.0.0.0 can be reached") as caught:
        token.check_strength("sh0rt", "0.0.0.0")
    assert "sh0rt" not in str(caught.value)


class Fails(Lengths):
    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def score(self, batch: list[Exchange]) -> list[float]:
        raise self.error


def test_errors_tell_neither_paths_nor_tokens(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "Q7x" * 11)
    error = OSError(f"cannot read {tmp_path}/model.safetensors with hf_{'Q7x' * 11} (errno 5)")
    status, said = ask(serve(scorer=Fails(error)))
    assert status == 500 and json.loads(said)["error"] == (
        "the model failed: OSError: cannot read [path] with [secret] (errno 5)"
    )


@pytest.mark.parametrize("when", ["header", "pixels"])
def test_an_image_below_the_root_is_named_as_it_was_asked_for(serve, tmp_path, when):
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep/a.png"
    file.write_bytes(b"no image" if when == "header" else png(64, 64)[:60])

    class Opens(Lengths):
        def score(self, batch):
            load(batch[0].images[0])

    body = {"images": [{"path": "deep/a.png"}], "exchanges": [{"messages": TALK, "images": [0]}]}
    status, said = ask(serve(scorer=Opens(), image_root=str(tmp_path)), json.dumps(body).encode())
    assert status == 422 and "image deep/a.png: cannot be read" in said and str(tmp_path) not in said
    with pytest.raises(DataError, match=str(tmp_path)):  # in the service's own log, and without a service, it is whole
        load(str(file))


@pytest.mark.parametrize("change", [{"receive": 0.0}, {"answer": 1e9}, {"images": MOST + 1}, {"exchange_images": 0}])
def test_limits_that_limit_nothing(change):
    with pytest.raises(ValidationError, match=f"{next(iter(change))} = "):
        LimitsSection(**change)
