"""The client of the score service, against real servers: spread, failover, patience, and never a made-up score."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from PIL import Image

from rewards.score.reward.faults import attempt
from rewards.score.scorer import RowsRefused, ScorerRefused, ScorerUnavailable
from rewards.score.service import ScoreClient, client, replicas
from rewards.score.service.recipe import LimitsSection
from tests.support.scores.score_servers import LIMIT, Lengths, Running, Warned, exchanges, png, until, unused_url
from vlm.common.errors import DataError, RecipeError
from vlm.pictures import images as pictures

ANSWERS = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"]
SCORES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def serve():
    """Starts replicas that end with the test."""
    started = []

    def start(*args, **options) -> Running:
        started.append(Running(*args, **options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def connect():
    opened = []

    def make(*servers, **options) -> ScoreClient:
        urls = [getattr(server, "url", server) for server in servers]
        opened.append(ScoreClient(urls, **{"patience": LIMIT, "timeout": LIMIT, **options}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def warned():
    handler = Warned()
    logging.getLogger(client.__name__).addHandler(handler)
    yield handler
    logging.getLogger(client.__name__).removeHandler(handler)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as made:
        yield made


def test_a_call_is_cut_and_spread_and_keeps_its_order(serve, connect, monkeypatch):
    """7 exchanges in requests of 2: 4 requests, two for each replica."""
    monkeypatch.setenv("HTTP_PROXY", unused_url())  # for the outside: it must see neither images nor token
    one, two = serve(), serve()
    assert connect(one, two, exchanges_per_request=2).score(exchanges(*ANSWERS)) == SCORES
    assert one.requests == two.requests == ["/score", "/score"]
    assert connect(one).score([]) == []


def test_images_arrive_as_the_same_pixels(serve, connect, tmp_path):
    """A path, bytes, and a PIL image; all exchanges of a request share one copy."""
    (tmp_path / "a.jpg").write_bytes(png(9, 5, "green", "JPEG"))
    drawn = Image.new("RGB", (3, 7), (1, 2, 3))
    server = serve()
    scorer = connect(server)
    images = (str(tmp_path / "a.jpg"), png(6, 4, "blue"), drawn)
    assert scorer.score(exchanges("a", "bb", images=images)) == [1.0, 2.0]
    seen, again = (exchange.images for exchange in server.scorer.batches[0])
    assert all(left is right for left, right in zip(seen, again, strict=True))
    for image, sent in zip(seen, (images[0], images[1], png(3, 7, (1, 2, 3))), strict=True):
        assert pictures.load(image).tobytes() == pictures.load(sent).tobytes()
    with pytest.raises(DataError, match="missing.png: cannot be read"):
        scorer.score(exchanges("a", images=(str(tmp_path / "missing.png"),)))


def test_images_of_a_shared_folder_travel_as_paths(serve, connect, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    server = serve(image_root=str(tmp_path / "in"))
    images = (str(tmp_path / "in/a.png"), str(tmp_path / "b.png"))
    connect(server, image_root=str(tmp_path / "in")).score(exchanges("a", images=images))
    assert server.scorer.batches[0][0].images == (images[0], png())


def test_a_replica_killed_in_mid_run_is_replaced_by_the_other(serve, connect, pool):
    one, two = serve(), serve()
    one.scorer.gate.clear()
    call = pool.submit(connect(one, two).score, exchanges(*ANSWERS))
    assert one.scorer.entered.wait(LIMIT)  # of replicas that are equally idle the first is asked first
    one.kill()
    assert call.result(LIMIT) == SCORES
    assert sum(two.scorer.sizes) == len(ANSWERS)


def test_the_only_replica_is_killed_and_comes_back(serve, connect, pool, warned):
    """On the same port, in the middle of a call, which takes no notice but for one warning."""
    first = serve()
    first.scorer.gate.clear()
    call = pool.submit(connect(first).score, exchanges(*ANSWERS))
    assert first.scorer.entered.wait(LIMIT)
    first.kill()
    assert warned.event.wait(LIMIT) and not call.done()
    second = serve(port=first.port)
    assert call.result(LIMIT) == SCORES
    assert sum(second.scorer.sizes) == len(ANSWERS)
    assert len(warned.messages) == 1 and first.url in warned.messages[0]


def test_a_service_that_is_still_loading_is_waited_for(serve, connect, pool, warned):
    server = serve(loaded=False)
    call = pool.submit(connect(server).score, exchanges("four"))
    assert warned.event.wait(LIMIT)
    assert "503" in warned.messages[0] and "the model is loading" in warned.messages[0]
    server.load()
    assert call.result(LIMIT) == [4.0]


def test_patience_is_kept_to_its_end(connect, monkeypatch):
    """A pause that would go beyond it is shortened, and the last try is made then; it was given up before instead."""
    monkeypatch.setattr(client, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 1000.0)
    begun = time.monotonic()
    with pytest.raises(ScorerUnavailable, match=r"no scores after [23] tries in 1\.\d s \(patience 1 s\)"):
        connect(unused_url(), patience=1.0, timeout=1.0).score(exchanges("a"))
    assert 1.0 <= time.monotonic() - begun < LIMIT / 2


def test_a_row_that_is_refused_is_its_own_failure(serve, connect):
    """Three requests of two: in the first one picture is none, in the last both are; the others keep their scores."""
    bad = (b"no image",)
    server = serve()
    rows = exchanges("a") + exchanges("bb", images=bad) + exchanges("ccc", "dddd") + exchanges("e", "f", images=bad)
    with pytest.raises(RowsRefused, match="3 of 6 exchanges have no score; number 1: .*cannot be read") as caught:
        connect(server, exchanges_per_request=2).score(rows)
    assert caught.value.scores == [1.0, None, 3.0, 4.0, None, None]
    tried = attempt(connect(server, exchanges_per_request=2), rows)
    assert tried.scores == caught.value.scores and not tried.refused and "number 1" in tried.cause


def test_a_request_that_is_too_large_is_halved(serve, connect):
    """At most one exchange at a time, and 100 kB: of four rows, which show two pictures, one is larger by itself."""
    server = serve(limits=LimitsSection(exchanges=1, body_bytes=100_000))
    rows = exchanges("a", "bb", images=(png(),)) + exchanges("ccc", images=(png(color="blue"), png()))
    rows += exchanges("d" * 200_000)
    with pytest.raises(RowsRefused, match="1 of 4 .*number 3: .*413 .*more than 100000 bytes") as caught:
        connect(server).score(rows)
    assert caught.value.scores == [1.0, 2.0, 3.0, None]
    assert [exchange.images for batch in server.scorer.batches for exchange in batch] == [
        (png(),), (png(),), (png(color="blue"), png()),
    ]  # fmt: skip


def test_answers_that_are_cut_are_counted(serve, connect, caplog):
    served = connect(serve(limits=LimitsSection(characters=100)))
    assert served.score(exchanges("a" * 66_000, "bb")) == [89.0, 2.0]  # 11 characters are the question's
    assert served.cut == 1 and "1 answers were longer" in caplog.text


def test_the_service_hears_how_long_the_client_waits(connect):
    """So it answers before the client gives up, however its own limits are set."""
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers["prefer"])
        return httpx2.Response(200, json={"scores": [1.0], "model": "m1"})

    one = connect("http://127.0.0.1:1", timeout=12.5)
    one._http = httpx2.Client(transport=httpx2.MockTransport(answer))
    assert one.score(exchanges("a")) == [1.0] and asked == ["wait=13"]


def test_dead_for_longer_than_patience(connect):
    urls = unused_url(), unused_url()
    with pytest.raises(ScorerUnavailable) as caught:
        connect(*urls, patience=0.2, timeout=0.1).score(exchanges(*ANSWERS))
    assert all(url in str(caught.value) for url in urls)
    assert "refused" in str(caught.value) and "patience 0.2 s" in str(caught.value)


def test_fault_10_requests_are_batched_timed_out_and_never_silently_0(serve, connect, pool):
    """Published: one request per completion, no batching, no time-out, three failures → a silent reward of 0."""
    server = serve()
    assert connect(server).score(exchanges("a", "bb", "ccc")) == [1.0, 2.0, 3.0]
    assert server.requests == ["/score"] and server.scorer.sizes == [3]  # one request, one batch

    server.scorer.entered.clear()
    server.scorer.gate.clear()  # from now on it hangs
    with pytest.raises(ScorerUnavailable, match=r"no answer in 0\.\d s"):
        connect(server, timeout=0.1, patience=1.5).score(exchanges("dddd"))
    assert server.requests[1:].count("/score") >= 2  # tried again, and then no number was made up
    until(lambda: all(part.given_up for part in server.service.batcher._waiting))
    server.scorer.gate.set()  # and when it goes on, the answers nobody waits for are not computed
    assert connect(server).score(exchanges("ee")) == [2.0]
    assert [batch[0].messages[-1]["content"] for batch in server.scorer.batches[1:]] == ["dddd", "ee"]


def test_a_model_that_fails_is_an_error_not_a_number(serve, connect):
    class NotANumber(Lengths):
        def value(self, answer):
            return float("nan")

    server = serve(NotANumber())
    with pytest.raises(ScorerUnavailable, match="500 .*scored exchange 0 of 1 as nan"):
        connect(server).score(exchanges("a"))
    assert len(server.requests) == client.MODEL_FAILURES  # it would go on for a minute otherwise


@pytest.mark.parametrize(("held", "sent"), [("the right one, 16", "the-wrong-one-of-16"), ("the right one, 16", None)])
def test_a_wrong_token_is_not_tried_again(serve, connect, monkeypatch, held, sent):
    monkeypatch.setenv("TOKEN_OF_THE_CLIENT", sent or "")
    server = serve(token=held)
    one = connect(server, token_variable="TOKEN_OF_THE_CLIENT" if sent else None)
    for ask in (lambda: one.score(exchanges("a")), one.fingerprint):
        with pytest.raises(ScorerRefused, match="401 .*wrong or missing bearer token"):
            ask()
    assert server.requests == ["/score", "/model"] and server.scorer.sizes == []


def test_the_right_token_is_accepted_and_never_logged(serve, connect, monkeypatch, caplog):
    monkeypatch.setenv("TOKEN_OF_THE_CLIENT", "open-sesame-4711\n")
    caplog.set_level(logging.DEBUG)
    assert connect(serve(token="open-sesame-4711"), token_variable="TOKEN_OF_THE_CLIENT").score(exchanges("a")) == [1.0]
    assert caplog.records and "4711" not in caplog.text


def test_too_large_a_request_is_refused_with_the_services_message(serve, connect):
    """The client reads it, not a broken connection, although it was cut off while it was sending."""
    server = serve(limits=LimitsSection(body_bytes=100_000))
    with pytest.raises(ScorerRefused, match="413 .*more than 100000 bytes"):
        connect(server).score(exchanges("a" * 20_000_000))
    assert len(server.requests) == 1
    images = tuple(png(color=color) * 400 for color in ("red", "green", "blue"))  # ~30,000 bytes each
    one = connect(server, bytes_per_request=len(images[0]))
    assert one.score([exchanges("a", images=(image,))[0] for image in images]) == [1.0, 1.0, 1.0]
    assert len(server.requests) == 4


def test_replicas_must_serve_the_same_model(serve, connect):
    one, two, other = serve(model="m1"), serve(model="m1"), serve(model="m2")
    assert connect(one, two).fingerprint() == "m1"
    with pytest.raises(ScorerRefused, match=f"{other.url} serves the model m2, expected m1"):
        connect(one, other).fingerprint()
    with pytest.raises(ScorerRefused, match="m2, expected m1"):
        connect(other, model="m1").score(exchanges("a"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx2.Response(200, text="<html>hello</html>"), "found '<html>hello</html>', expected the answer of a score"),
        (httpx2.Response(200, json={"scores": [], "model": "m1"}), "0 scores for 1 exchanges"),
        (httpx2.Response(200, text='{"scores": [NaN], "model": "m1"}'), "expected the answer of a score service"),
        (httpx2.Response(302, headers={"Location": "http://192.0.2.1/"}), "302 Found"),
        (httpx2.Response(404, text="no such page"), "404 Not Found: no such page"),
    ],
)
def test_answers_that_are_no_scores(connect, answer, words):
    one = connect("http://127.0.0.1:1")
    one._http = httpx2.Client(transport=httpx2.MockTransport(lambda request: answer))
    with pytest.raises(ScorerRefused, match=words):
        one.score(exchanges("a"))


def test_a_request_that_is_refused_ends_the_call_though_others_could_wait(connect):
    """Two requests: one is refused at once, the other would be tried for a minute."""

    other_tried = threading.Event()

    def answer(request: httpx2.Request) -> httpx2.Response:
        if b"keep trying" in request.content:
            other_tried.set()
            return httpx2.Response(503, json={"error": "later"})
        assert other_tried.wait(LIMIT)
        return httpx2.Response(422, json={"error": "no"})

    one = connect("http://127.0.0.1:1", exchanges_per_request=1)
    one._http = httpx2.Client(transport=httpx2.MockTransport(answer))
    begun = time.monotonic()
    with pytest.raises(ScorerRefused, match="422 Unprocessable .*: no"):
        one.score(exchanges("refuse me", "keep trying"))
    assert time.monotonic() - begun < LIMIT / 2


def test_who_fails_is_asked_last_for_a_while(monkeypatch):
    """For 1 s, then 2, then 4; equally good replicas take turns, and a busy one stands back."""
    now = [100.0]
    monkeypatch.setattr(replicas.time, "monotonic", lambda: now[0])
    group = replicas.Replicas(["http://a", "http://b/"])

    def asked(tried=()) -> str:
        with group.next(tried) as replica:
            return replica.url

    a, b = group.all
    assert [asked() for _ in range(4)] == ["http://a", "http://b", "http://a", "http://b"]
    with group.next(()) as first, group.next(()) as second, group.next((second,)) as third:
        assert (first, second, third) == (a, b, a)
    for rest in (1.0, 2.0, 4.0):
        group.failed(a)
        now[0] += rest - 0.1
        assert [asked() for _ in range(3)] == ["http://b"] * 3 and asked((b,)) == "http://a"
        now[0] += 0.2
        assert "http://a" in (asked(), asked())
    group.failed(a)
    group.answered(a)
    assert "http://a" in (asked(), asked())


@pytest.mark.parametrize(
    ("urls", "options", "words"),
    [
        ([], {}, "urls is empty"),
        (["127.0.0.1:8100"], {}, "expected a URL such as http"),
        (["http://127.0.0.1:port"], {}, "expected a URL such as http"),
        (["http://127.0.0.1/?a=b"], {}, "expected a URL such as http"),
        (["http://127.0.0.1"], {"timeout": 5.0, "patience": 1.0}, "0 < timeout ≤ patience"),
        (["http://127.0.0.1"], {"exchanges_per_request": 0}, "at least 1"),
        (["http://127.0.0.1"], {"token_variable": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is empty or not set"),
    ],
)
def test_impossible_settings(urls, options, words):
    with pytest.raises(RecipeError, match=words):
        ScoreClient(urls, **options)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(RecipeError, match="use token_variable") as caught:
        ScoreClient(["http://me:hunter2@10.0.0.1:8100"])
    assert "hunter2" not in str(caught.value)
