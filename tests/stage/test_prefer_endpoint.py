"""stage.endpoint.client and .cost: repetitions, waits, the key, how many requests at a time, and what they cost."""

import asyncio
import json
import math
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from pydantic import ValidationError

from rewards.prefer import prompts, rows
from rewards.prefer.judge import estimate
from rewards.prefer.recipe import CandidateSource, JudgeSection
from stage.endpoint.asking import Answers, ask_all
from stage.endpoint.client import Endpoint, EndpointError, Malformed, Refused, Unanswered, retry_after
from stage.endpoint.cost import price, refuse_above
from stage.endpoint.sections import CostSection, EndpointSection
from tests.support.scores.fake_judge import FakeJudge, completion, error, put_rows
from vlm.common.errors import RecipeError, UserError

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(section):
    """(reply or exception, the waits, the usage) of one question."""
    waits = []

    async def pause(seconds):
        waits.append(seconds)

    async def go():
        async with Endpoint(section, pause) as endpoint:
            try:
                return await endpoint.ask(HELLO), waits, endpoint.usage
            except (Unanswered, EndpointError) as fault:
                return fault, waits, endpoint.usage

    return asyncio.run(go())


def test_what_passes_is_repeated():
    script = [error(429, retry_after="7"), error(500), None, error(503), completion("yes")]
    with FakeJudge(*script) as judge:
        reply, waits, usage = ask(judge.section())
    assert reply == "yes" and judge.calls == 5
    assert all(body == judge.bodies[0] for body in judge.bodies)
    assert waits[0] == 7  # what the header asks for; else 2^k seconds, of which the jitter takes up to half
    assert [0.5 <= wait / 2**k <= 1 for k, wait in enumerate(waits)][1:] == [True, True, True] and len(waits) == 4
    assert (usage.calls, usage.input_tokens, usage.output_tokens) == (1, 100, 10)


def test_repetitions_end():
    with FakeJudge(default=lambda body: error(500, "out of order")) as judge:
        fault, waits, _ = ask(judge.section(retries=8, longest_wait=10))
    assert isinstance(fault, Unanswered) and str(fault) == "status 500 out of order, 9 times"
    assert judge.calls == 9 and len(waits) == 8 and max(waits) <= 10 and min(waits[4:]) >= 5


def test_a_wait_beyond_the_limit_ends_the_run():
    with FakeJudge(error(429, "quota", retry_after="3600")) as judge:
        fault, waits, _ = ask(judge.section())
    assert isinstance(fault, EndpointError) and "asks to wait 3600 s" in str(fault) and not waits and judge.calls == 1


@pytest.mark.parametrize(("status", "kind"), [(401, EndpointError), (404, EndpointError), (400, Refused)])
def test_what_does_not_pass_is_not_repeated(status, kind):
    with FakeJudge(error(status, "because")) as judge:
        fault, waits, _ = ask(judge.section())
    assert type(fault) is kind and "because" in str(fault) and judge.calls == 1 and not waits


def test_no_connection_and_no_reply():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    fault, waits, _ = ask(JudgeSection(address=f"http://127.0.0.1:{free}/v1", model="m", retries=2))
    assert isinstance(fault, Unanswered) and "ConnectError" in str(fault) and len(waits) == 2
    release = threading.Event()
    with FakeJudge(default=lambda body: release.wait(60) and None) as judge:
        fault, _, _ = ask(judge.section(retries=1, timeout=0.1))
        release.set()
    assert str(fault) == "no reply within 0.1 s, 2 times"


@pytest.mark.parametrize(
    "body",
    [{}, [], {"choices": []}, {"choices": [{"message": "x"}]}, {"choices": [{"message": {"content": 5}}]}, "text"],
)
def test_a_body_that_is_no_completion(body):
    with FakeJudge((200, {}, body)) as judge:
        fault, _, _ = ask(judge.section())
    assert isinstance(fault, Unanswered) and "no chat completion" in str(fault)


def spoken(content, choice=(), said=(), **more):
    message = {"content": content, **dict(said)}
    return 200, {}, {"choices": [{"message": message, **dict(choice)}], **more}


def test_a_reply_in_parts_and_one_of_several():
    parts = [{"type": "thinking", "thinking": "well"}, {"type": "text", "text": "y"}, {"type": "text", "text": "es"}]
    several = spoken("no", choice={"index": 1})
    several[2]["choices"].append({"index": 0, "message": {"content": "yes"}})
    for answer in (spoken(parts), several):
        with FakeJudge(answer) as judge:
            assert ask(judge.section())[0] == "yes"


@pytest.mark.parametrize("choice", [{"finish_reason": "error"}, {"error": {"code": 502}}])
def test_a_reply_that_broke_off_is_none(choice):
    """A gateway sends it as 200, when the model behind it fails in the middle."""
    with FakeJudge(spoken("<answer>th", choice=choice)) as judge:
        fault, _, _ = ask(judge.section())
    assert isinstance(fault, Unanswered) and "broke off" in str(fault)


def test_another_name_and_thoughts_apart_are_said(caplog):
    with FakeJudge(spoken("yes", model="fake")) as judge:
        ask(judge.section())
    assert not caplog.records
    with FakeJudge(spoken("yes", model="cheap", said={"reasoning_content": "hm"})) as judge:
        assert ask(judge.section())[0] == "yes"
    told = sorted(record.message for record in caplog.records)
    assert len(told) == 2 and "'cheap' answers, and 'fake' was asked" in told[0] and "reasoning apart" in told[1]


def test_retry_after():
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert retry_after("12") == 12 and retry_after(" 0 ") == 0 and retry_after(None) is None
    assert retry_after("Fri, 02 Jan 2026 03:04:35 GMT", now) == 30
    assert retry_after("Fri, 02 Jan 2026 03:04:00 GMT", now) == 0  # past
    assert retry_after("soon") is None and retry_after("-5") is None and retry_after("1.5e9") is None


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    for status in (401, 400, 500):
        with FakeJudge(default=lambda body, status=status: error(status, "wrong key sk-very-secret!")) as judge:
            fault, _, _ = ask(judge.section(key="JUDGE_KEY", retries=1))
        assert judge.headers[0]["authorization"] == "Bearer sk-very-secret"
        assert judge.headers[0]["path"] == "/v1/chat/completions"
        assert "secret" not in str(fault) and "wrong key [key]!" in str(fault)
    with FakeJudge(completion("yes")) as judge:
        assert ask(judge.section())[0] == "yes" and "authorization" not in judge.headers[0]
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(RecipeError, match="variable JUDGE_KEY is not set"):
        ask(judge.section(key="JUDGE_KEY"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "sk-abc123"}, "key is not the name of an environment variable"),
        ({"address": "https://user:pass@host/v1"}, "name an environment variable"),
        ({"address": "host/v1"}, "expected a base address"),
        ({"model": ""}, "model is empty"),
        ({"concurrency": 0}, "concurrency = 0; expected at least 1"),
        ({"timeout": 0}, "seconds > 0"),
        ({"request": {"messages": []}}, "request sets messages"),
    ],
)
def test_faulty_sections(change, message):
    with pytest.raises(ValidationError, match=message) as refused:
        JudgeSection(**({"address": "https://host/v1", "model": "m"} | change))
    assert "abc123" not in str(refused.value) and "pass@" not in str(refused.value)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_requests_at_a_time_and_no_more(concurrency, tmp_path):
    """Every request waits until `concurrency` are there: fewer would break the barrier, more be counted."""
    from rewards.prefer.judge import answers, rate_all
    from rewards.prefer.recipe import PreferRecipe
    from stage.endpoint.client import Usage
    from tests.support.scores.fake_judge import right

    barrier, lock, now, most = threading.Barrier(concurrency), threading.Lock(), [0], [0]

    def together(body):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        barrier.wait(60)
        answer = right(body)
        with lock:
            now[0] -= 1
        return answer

    source = CandidateSource(path=str(put_rows(tmp_path, [["55555 a", "11111 b"]] * 9)))
    todo, usage = rows.collect([source], "error"), Usage()
    with FakeJudge(default=together) as judge:
        recipe = PreferRecipe(data=[source], output=str(tmp_path), judge=judge.section(concurrency=concurrency))
        with answers(recipe) as found:
            asyncio.run(rate_all(recipe, todo, found, usage))
    assert most[0] == concurrency and judge.calls == len(found.done) == usage.calls == 9 and found.failed == 0


@dataclass
class Question:
    key: str
    fingerprint: str = "1"
    pictures: str = "p"


def counted(text):
    if not text.isdigit():
        raise Malformed("it is no number")
    return int(text)


def test_another_user_of_the_endpoint(tmp_path):
    """One that knows no ratings: its own section, answers and file; what is finished is not asked again."""

    class EngineSection(EndpointSection):
        called: ClassVar[str] = "engine"

    def answered(judge, keys, model="m", **changes):
        section = EngineSection(address=judge.address, model=model, **({"concurrency": 1, "retries": 0} | changes))
        answers = Answers(tmp_path / "counts.jsonl", section.called, {"model": model}, "count")
        if answers.path.exists():
            answers.read(map(Question, keys), lambda value, row: int(value))
        endpoint = Endpoint(section)

        def ask(question):
            return endpoint.ask_for([{"role": "user", "content": question.key}], counted, lambda fault: f"No: {fault}")

        todo = [Question(key) for key in keys if key not in answers.done]
        with answers:
            asyncio.run(ask_all(endpoint, todo, ask, answers, CostSection(), "count"))
        return answers

    with FakeJudge(completion("seven"), completion("7"), error(400), default=lambda body: completion("8")) as judge:
        first = answered(judge, ["é", "b"])
        assert first.done == {"é": 7} and first.failed == 1
        assert [turn["content"] for turn in judge.bodies[1]["messages"]] == ["é", "seven", "No: it is no number"]
        assert answered(judge, ["é", "b"]).done == {"é": 7, "b": 8} and judge.calls == 4
        lines = [json.loads(line) for line in first.path.read_text().splitlines()]
        assert lines[0] == {"key": "é", "fingerprint": "1", "pictures": "p", "engine": {"model": "m"}, "count": 7}
        # runs begun before wrote the same rows in ASCII
        first.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert answered(judge, ["é", "b"]).done == {"é": 7, "b": 8} and judge.calls == 4
        # of another picture under the same name, the first one's answer does not count
        first.path.write_text(
            "".join(json.dumps(line | {"pictures": "pq"[n == 0]}) + "\n" for n, line in enumerate(lines))
        )
        again = Answers(first.path, "engine", {"model": "m"}, "count")
        again.read(map(Question, ["é", "b"]), lambda value, row: int(value))
        assert again.done == {"b": 8}
        first.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(UserError, match="holds count of another kind .*model was 'm', is 'other'"):
            answered(judge, ["é"], model="other")
    with FakeJudge(default=lambda body: error(401)) as judge, pytest.raises(EndpointError, match="fix `engine` in"):
        answered(judge, ["c"])
    with pytest.raises(ValidationError, match="ENGINE_API_KEY"):
        EngineSection(address="https://host/v1", model="m", key="sk-1")


def test_cost_by_hand(tmp_path):
    """Two rows of one 56 × 28 picture (2 tokens of 28 × 28), three candidates each."""
    source = CandidateSource(path=str(put_rows(tmp_path, [["abc", "de", "f"], ["abc", "de", "f"]], question="Why?")))
    found = rows.collect([source], "error")
    section = CostSection(input=2.0, output=8.0, pixels_per_token=784, characters_per_token=4.0)
    judge = JudgeSection(address="http://h/v1", model="m", max_tokens=300)

    text = len(prompts.SYSTEM) + len(prompts.request("Why?", ["abc", "de", "f"]))
    reply = math.ceil(len(prompts.example(3)) / 4)
    together = estimate(found, judge, section)
    assert (together.rows, together.calls) == (2, 2)
    assert together.input_tokens == 2 * (2 + math.ceil(text / 4))
    assert (together.output_tokens, together.most_output_tokens) == (2 * reply, 600)
    assert together.cost == pytest.approx((2.0 * together.input_tokens + 8.0 * 2 * reply) / 1e6)
    assert together.most_cost == pytest.approx((2.0 * together.input_tokens + 8.0 * 600) / 1e6)

    judge.rating, judge.max_pixels = "alone", 784  # 39 × 19 = 741 pixels: one token
    texts = [len(prompts.SYSTEM) + len(prompts.request("Why?", [t], alone=True)) for t in ("abc", "de", "f")]
    alone = estimate(found, judge, section)
    assert (alone.calls, alone.input_tokens) == (6, 2 * sum(1 + math.ceil(text / 4) for text in texts))
    assert alone.most_output_tokens == 1800
    assert price(3_000_000, 500_000, section) == 10.0


def test_max_cost(tmp_path):
    source = CandidateSource(path=str(put_rows(tmp_path, [["a", "b"]])))
    judge = JudgeSection(address="http://h/v1", model="m", max_tokens=500_000)
    found = estimate(rows.collect([source], "error"), judge, CostSection(output=2.0))
    assert found.most_cost == 1.0  # half a million tokens at 2 the million
    refuse_above(found, CostSection(output=2.0, max_cost=1.0))
    with pytest.raises(UserError, match="1 calls may cost 1.00 .* nothing was sent"):
        refuse_above(found, CostSection(output=2.0, max_cost=0.99))
    with pytest.raises(ValidationError, match="max_cost without prices"):
        CostSection(max_cost=1.0)
