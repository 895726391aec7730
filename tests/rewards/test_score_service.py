"""The score service over HTTP: routes, token, limits, batching. The command itself: test_serve.py."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.score import Exchange
from rewards.score.service.body import Values
from rewards.score.service.recipe import BatchingSection, LimitsSection, ServeRecipe
from rewards.score.service.server import LOADING
from stage.recipe import config
from tests.support.processes.commands import ROOT
from tests.support.scores.score_servers import LIMIT, Lengths, Running, png, services, until
from vlm.common.errors import RecipeError
from vlm.pictures import images as pictures

pytestmark = pytest.mark.versions

ONE = [{"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A ship."}], "images": []}]
SHIP = 7.0  # characters of the answer


@pytest.fixture
def serve():
    """Starts services that end with the test."""
    with services() as start:
        yield start


def post(server: Running, body, **headers) -> tuple[int, dict]:
    """(status, JSON) of a request; `body`: JSON-able, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with httpx2.Client(trust_env=False, timeout=LIMIT) as http:
        answer = http.post(
            f"{server.url}/score", content=content, headers={"Content-Type": "application/json", **headers}
        )
    return answer.status_code, answer.json()


def get(server: Running, route: str, **headers) -> tuple[int, dict]:
    with httpx2.Client(trust_env=False, timeout=LIMIT) as http:
        answer = http.get(server.url + route, headers=headers)
    return answer.status_code, answer.json()


def image(data: bytes) -> dict:
    return {"data": base64.b64encode(data).decode()}


def with_images(*images: dict, used: int | None = None) -> dict:
    indexes = list(range(len(images))) if used is None else [used]
    return {"images": list(images), "exchanges": [{**ONE[0], "images": indexes}]}


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width × height pixels (PNG specification, 11.2.2 IHDR)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_request_as_anybody_would_write_it(serve):
    server = serve(model="f00d")
    assert post(server, {"exchanges": ONE}) == (200, {"scores": [SHIP], "model": "f00d"})
    picture = png(30, 20)
    assert post(server, with_images(image(picture))) == (200, {"scores": [SHIP], "model": "f00d"})
    assert server.scorer.batches[-1] == [Exchange.of("What?", "A ship.", [picture])]


def test_health_readiness_and_model(serve):
    server = serve(loaded=False, model="f00d")
    assert get(server, "/health") == (200, {"alive": True})
    assert get(server, "/ready") == (503, {"ready": False})
    assert get(server, "/model") == post(server, {"exchanges": ONE}) == (503, {"error": LOADING})
    server.load()
    assert get(server, "/ready") == (200, {"ready": True})
    assert get(server, "/model") == (200, {"scores": [], "model": "f00d"})


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer", "Basic right", "right", "Bearer rightly"])
def test_without_the_token_nothing_is_scored_or_told(serve, authorization):
    server = serve(token="right", model="f00d")
    headers = {} if authorization is None else {"Authorization": authorization}
    for status, said in (post(server, {"exchanges": ONE}, **headers), get(server, "/model", **headers)):
        assert status == 401 and said == {"error": "wrong or missing bearer token"}
    assert get(server, "/health")[0] == get(server, "/ready")[0] == 200
    assert server.scorer.batches == []
    assert post(server, {"exchanges": ONE}, Authorization="bearer right")[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 422, "Invalid JSON"),
        ({"exchanges": []}, 422, "exchanges: List should have at least 1 item"),
        ({"exchanges": ONE, "text": "a"}, 422, "text: Extra inputs are not permitted"),
        ({"exchanges": [{"messages": ONE[0]["messages"][:1]}]}, 422, "exchanges.0.messages"),
        ({"exchanges": [{"messages": ONE[0]["messages"][::-1]}]}, 422, "the assistant's, which is scored, last"),
        (
            {"exchanges": [{**ONE[0], "images": [0]}]},
            422,
            "exchanges.0.images: found 0, expected an index below",
        ),
        (with_images({"data": "!"}), 422, "images.0.data: Data should be valid base64"),
        (with_images({}), 422, "images.0: expected either data or path"),
        (with_images(image(b"not an image")), 422, "images.0: image of 12 bytes: cannot be read (not an image file)"),
        (with_images(image(png(kind="EPS"))), 422, "cannot be read (not an image file); expected JPEG, PNG"),
        (with_images(image(bomb(60_000, 60_000))), 422, "exceeds limit"),
        (with_images(image(bomb(300, 100))), 413, "images.0: found 300 x 100 pixels, at most 20000 are taken"),
        (with_images(*[image(png(100, 100))] * 4), 413, "found 40000 pixels in 4 images, at most 30000 are taken"),
        ({"exchanges": ONE * 4}, 413, "found 4 exchanges, at most 3 are taken"),
        (
            {"exchanges": [{"messages": [*ONE[0]["messages"], *ONE[0]["messages"] * 9]}]},
            413,
            "exchanges.0: found 113 characters before the last turn, at most 100 are taken",
        ),
        (b'{"exchanges": [%s1]}' % (b"1," * 4096), 413, "found more than 4096 values"),
        ({"exchanges": ONE, "k" * 5000: 1}, 422, f"{'k' * 100}: Extra inputs are not permitted"),
        (b" " * 10_001, 413, "a body of more than 10000 bytes"),
        (b" " * 50_000, 413, "a body of more than 10000 bytes"),
        (with_images({"path": "a.png"}), 403, "found a path, but this service takes bytes only"),
    ],
)
def test_what_is_refused(serve, body, status, words):
    limits = LimitsSection(
        body_bytes=10_000, exchanges=3, characters=100, image_pixels=20_000, request_pixels=30_000, connections=8
    )
    server = serve(limits=limits)
    found, said = post(server, body)
    assert found == status and words in said["error"]
    assert server.scorer.batches == []
    assert post(server, {"exchanges": ONE})[0] == 200  # and the service goes on


def test_a_page_of_a_browser_cannot_ask(serve):
    """Without a preflight a browser sends only form types, and text."""
    status, said = post(serve(), {"exchanges": ONE}, **{"Content-Type": "text/plain"})
    assert status == 415 and said == {"error": "expected Content-Type: application/json"}


def test_paths_lead_nowhere_but_below_the_root(serve, tmp_path):
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    for place in (root / "deep/a.png", tmp_path / "secret.png"):
        place.write_bytes(png())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    server = serve(image_root=str(root))
    assert post(server, with_images({"path": "deep/a.png"}))[0] == 200
    assert server.scorer.batches[0][0].images == (str(root / "deep/a.png"),)
    outside = ["../secret.png", "deep/../../secret.png", str(tmp_path / "secret.png"), "link.png", "deep", "", "a\0b"]
    for path in [*outside, "no/such.png", "x" * 5000]:
        status, said = post(server, with_images({"path": path}))
        assert (status, said["error"]) == (403, f"images.0: no image {path[:500]!r} below this service's image_root")
    assert len(server.scorer.batches) == 1


def test_requests_that_meet_are_scored_together(serve):
    server = serve(batching=BatchingSection(max_batch=8, window=0.0))
    server.scorer.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, server, {"exchanges": ONE})
        assert server.scorer.entered.wait(LIMIT)
        later = [pool.submit(post, server, {"exchanges": ONE * 2}) for _ in range(3)]
        until(lambda: len(server.service.batcher._waiting) == 3)
        server.scorer.gate.set()
        assert [len(call.result(LIMIT)[1]["scores"]) for call in (first, *later)] == [1, 2, 2, 2]
    assert server.scorer.sizes == [1, 6]


def test_a_full_queue_says_that_it_is_busy(serve):
    server = serve(batching=BatchingSection(max_batch=1, window=0.0, max_waiting=1))
    server.scorer.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(post, server, {"exchanges": ONE})]
        assert server.scorer.entered.wait(LIMIT)
        calls.append(pool.submit(post, server, {"exchanges": ONE}))
        until(lambda: server.service.batcher._waiting)
        assert post(server, {"exchanges": ONE}) == (503, {"error": "1 exchanges are waiting, at most 1 may"})
        server.scorer.gate.set()
        assert [call.result(LIMIT)[0] for call in calls] == [200, 200]


def test_who_leaves_is_not_scored(serve):
    server = serve()
    server.scorer.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, {"exchanges": ONE})
        assert server.scorer.entered.wait(LIMIT)
        body = json.dumps({"exchanges": ONE}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            lines = [
                "POST /score HTTP/1.1",
                "Host: a",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
            ]
            raw.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            until(lambda: server.service.batcher._waiting)
        until(lambda: server.service.batcher._waiting[0].given_up)
        server.scorer.gate.set()
        assert first.result(LIMIT)[0] == 200
    assert post(server, {"exchanges": ONE})[0] == 200
    assert server.scorer.sizes == [1, 1]


def test_of_four_rows_the_refused_ones_fail_alone(serve):
    """An index too high, a picture that breaks off when its pixels are decoded, and a model that fails on one."""

    class Opens(Lengths):
        def value(self, answer: str) -> float:
            if answer == "crash":
                raise RuntimeError("out of memory")
            return super().value(answer)

        def score(self, batch: list[Exchange]) -> list[float]:
            for exchange in batch:
                for picture in exchange.images:
                    pictures.load(picture)
            return super().score(batch)

    server = serve(scorer=Opens())
    rows = [{**ONE[0], "images": shown} for shown in ([], [2], [1], [0])]
    crash = {"messages": [ONE[0]["messages"][0], {"role": "assistant", "content": "crash"}]}
    body = {"images": [image(png()), image(png(64, 64)[:60])], "exchanges": [*rows, crash]}
    status, said = post(server, body)
    assert (
        status == 200 and said["scores"] == [SHIP, None, None, SHIP, None] and sorted(said["errors"]) == ["1", "2", "4"]
    )
    assert said["errors"]["1"] == "exchanges.1.images: found 2, expected an index below 2"
    assert "exchanges.2: image of 60 bytes: cannot be read" in said["errors"]["2"]
    assert said["errors"]["4"] == "the model failed: RuntimeError: out of memory"
    status, said = post(server, {**body, "exchanges": rows[1:2]})
    assert status == 422 and said["errors"] == {"0": said["error"]}


def test_an_answer_that_is_too_long_is_cut_and_told(serve):
    """66,000 characters where 1,000 are taken, of which the question has 5; the other row keeps its own."""
    server = serve(limits=LimitsSection(characters=1000))
    long = {"messages": [ONE[0]["messages"][0], {"role": "assistant", "content": "a" * 66_000}]}
    assert post(server, {"exchanges": [long, *ONE]}) == (200, {"scores": [995.0, SHIP], "model": "m1", "cut": [0]})


def test_who_says_how_long_it_waits_is_answered_before(serve):
    """One second of `Prefer: wait`, long before the 900 of limits.answer; what it asked for leaves the queue."""
    server = serve()
    server.scorer.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, {"exchanges": ONE})
        assert server.scorer.entered.wait(LIMIT)
        status, said = post(server, {"exchanges": ONE}, Prefer="wait=1")
        assert status == 503 and "the client's own wait" in said["error"]
        server.scorer.gate.set()
        assert first.result(LIMIT)[0] == 200
    assert post(server, {"exchanges": ONE})[0] == 200
    assert server.scorer.sizes == [1, 1]


def test_requests_beyond_what_all_may_hold_are_told_to_come_again(serve):
    server = serve(limits=LimitsSection(connections=1, all_bytes=1000))
    assert post(server, b" " * 1001)[0] == 503
    server.scorer.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, {"exchanges": ONE})
        assert server.scorer.entered.wait(LIMIT)
        status, said = post(server, {"exchanges": ONE})
        assert status == 503 and "1 requests are under way (limits.connections)" in said["error"]
        assert get(server, "/health")[0] == 200
        server.scorer.gate.set()
        assert first.result(LIMIT)[0] == 200
    assert post(server, {"exchanges": ONE})[0] == 200


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_values_are_counted_wherever_the_body_is_cut(document, cuts):
    """Against the parsed document: a list or an object of n members has a bracket, and n - 1 commas."""

    def count(value) -> int:
        if not isinstance(value, (list, dict)):
            return 0
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(len(inner) - 1, 0) + sum(map(count, inner))

    text, values, places = (
        json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"),
        Values(),
        itertools.cycle(cuts),
    )
    while text:
        size = next(places)
        values.add(text[:size])
        text = text[size:]
    assert values.count == count(document)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("host=0.0.0.0", "host = 0.0.0.0 can be reached by others, and there is no token"),
        ("host=''", "can be reached by others"),
        ("host='::'", "can be reached by others"),
        ("host=gpu7", "can be reached by others"),
        ("token_variable=not-a-name", "token_variable is no variable's name"),
        ("port=70000", "port = 70000; expected 0 to 65535"),
        ("limits.exchanges=0", "exchanges = 0; expected at least 1"),
        ("batching.max_batch=0", "max_batch = 0"),
        ("batching.window=-1", "window = -1"),
    ],
)
def test_recipes_that_are_refused(change, words):
    with pytest.raises(RecipeError, match=words):
        config.load(ROOT / "recipes/score/serve.yaml", ServeRecipe, [change])


def test_addresses_that_are_allowed():
    for changes in (["host=localhost"], ["host='::1'"], ["host=0.0.0.0", "token_variable=NADIR_SCORE_TOKEN"]):
        config.load(ROOT / "recipes/score/serve.yaml", ServeRecipe, changes)
    assert config.load(ROOT / "recipes/score/serve.yaml", ServeRecipe).host == "127.0.0.1"
