"""The score service against those who reach its port: slow, greedy, guessing, or curious about the machine."""

from __future__ import annotations

import base64
import contextlib
import json
import multiprocessing
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError

from rewards.score.model.exchange import Exchange
from rewards.score.service import ScoreClient, token
from rewards.score.service.recipe import MOST, LimitsSection, ServeRecipe
from rewards.score.service.stage import plan
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


def _serve(pipe) -> None:
    """In a process of its own, until the pipe is closed."""
    with services() as start:
        pipe.send(start(token=SECRET).url)
        with contextlib.suppress(EOFError):
            pipe.recv()


@pytest.fixture(scope="module")
def process():
    """(address, process id) of a service whose memory is nobody else's."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    child.start()
    theirs.close()
    assert ours.poll(LIMIT)
    yield ours.recv(), child.pid
    ours.close()
    child.join(LIMIT)
    assert child.exitcode == 0


def resident(pid: int, name: str) -> float:
    """MB of a process: `VmRSS` now, `VmHWM` at most since it was last reset."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1000


MESSAGE = json.dumps({"messages": TALK}).encode()
GREEDY = {
    "empty pictures": lambda: b'{"images": [%s{}]}' % (b'{"data":""},' * 5_000_000),  # was 5 GB and 30 s
    "small exchanges": lambda: b'{"exchanges": [%s]}' % b",".join([MESSAGE] * 150_000),  # /health waited for 9 s
    "a long key": lambda: b'{"%s": 1}' % (b"k" * 20_000_000),  # and for 3 s for the message about it
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GREEDY)
def test_what_takes_memory_to_parse_is_not_parsed(process, kind):
    """Resident memory, not tracemalloc's, which does not see the parser; and others are answered meanwhile."""
    url, pid = process
    body = GREEDY[kind]()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets VmHWM
    before, waited, looks, done = resident(pid, "VmRSS"), [], threading.Event(), threading.Event()

    def look() -> None:
        with httpx2.Client(trust_env=False, timeout=LIMIT) as http:
            while not done.is_set():
                began = time.monotonic()
                assert http.get(f"{url}/health").status_code == 200
                waited.append(time.monotonic() - began)
                looks.set()

    with ThreadPoolExecutor(1) as pool, httpx2.Client(trust_env=False, timeout=LIMIT) as http:
        looking = pool.submit(look)
        assert looks.wait(LIMIT)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"}
        status = http.post(f"{url}/score", content=body, headers=headers).status_code
        done.set()
        looking.result(LIMIT)
    assert status == (422 if kind == "a long key" else 413)
    assert resident(pid, "VmHWM") - before < 20 + 4 * len(body) / 1e6 * (kind == "a long key")
    assert max(waited) < 2


@pytest.mark.slow
def test_six_hundred_slow_sockets_without_a_token_keep_nobody_out(process):
    """A thousand clients with the token, all of the same address as the slow ones, get in at once."""
    url, _ = process
    host, port = url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as held:
        for _ in range(600):
            held.enter_context(socket.create_connection((host, int(port)), LIMIT)).sendall(b"POST /score HT")
        message = head(len(BODY), f"Authorization: Bearer {SECRET}") + BODY
        began = time.monotonic()
        clients = [held.enter_context(socket.create_connection((host, int(port)), LIMIT)) for _ in range(1000)]
        for client in clients:
            client.sendall(message)
        answers = {client.recv(1024)[:12] for client in clients}
    assert answers == {b"HTTP/1.1 200"} and time.monotonic() - began < LIMIT / 2


def test_of_too_many_strangers_of_an_address_the_oldest_goes(serve):
    server = serve(limits=LimitsSection(strangers=2, header=LIMIT), token=SECRET)
    owner = head(len(BODY), f"Authorization: Bearer {SECRET}") + BODY

    def answer(connection: socket.socket) -> bytes:
        said = b""
        while not said.endswith(b"}"):
            said += connection.recv(1024)
        return said

    with contextlib.ExitStack() as held:
        raw = [held.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(3)]
        with contextlib.suppress(ConnectionResetError):
            assert until_closed(raw[0]) == b""
        known = raw[1]  # is none any more once it has shown the token
        known.sendall(owner)
        assert answer(known).startswith(b"HTTP/1.1 200")
        raw += [held.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(2)]
        with contextlib.suppress(ConnectionResetError):
            assert until_closed(raw[2]) == b""
        known.sendall(owner)
        assert answer(known).startswith(b"HTTP/1.1 200")


def test_a_stranger_has_no_longer_whatever_it_asks(serve):
    """A wrong token does not start the clock again."""
    server = serve(limits=LimitsSection(header=0.3), token=SECRET)
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET /model HTTP/1.1\r\nHost: a\r\n\r\n")
        assert until_closed(raw).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {SECRET[:-1]}", f"Bearer {SECRET}x", "Bearer \xff", "Basic"])
def test_wrong_tokens_are_compared_in_constant_time_and_not_repeated(serve, given, monkeypatch, caplog):
    compared = []
    monkeypatch.setattr(token.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    server = serve(token=SECRET)
    status, said = ask(server, Authorization=given.encode("latin-1"))
    assert status == 401 and json.loads(said) == {"error": "wrong or missing bearer token"}
    assert len(compared) == 1 and SECRET not in caplog.text and server.scorer.batches == []


@pytest.mark.parametrize("short", ["abc", SECRET[:15]])
def test_a_token_that_can_be_guessed_is_refused(monkeypatch, short):
    """By the service and by the client, on this machine, too; and by the plan."""
    monkeypatch.setenv("SHORT", short)
    serve = ServeRecipe(model={"path": "x/y"}, token_variable="SHORT")
    for ask in (
        partial(token.read, "SHORT"),
        partial(ScoreClient, ["http://127.0.0.1:1"], "SHORT"),
        partial(plan, serve),
    ):
        with pytest.raises(RecipeError, match=f"the token in SHORT has {len(short)} characters") as caught:
            ask()
        assert short not in str(caught.value)
    monkeypatch.setenv("SHORT", SECRET[:16])
    assert token.read("SHORT") == SECRET[:16]


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
