"""Evaluation by a model behind an OpenAI-compatible address: equal predictions, pictures as they are, what breaks."""

from __future__ import annotations

import base64
import io
import json
import threading

import pytest
import torch
from PIL import Image

from evals import stage
from evals.asking import served
from evals.recipe import EvalRecipe
from stage.recipe import config
from tests.support.processes.commands import evaluation
from tests.support.scores.fake_judge import FakeJudge, completion, error
from vlm.common.errors import RecipeError, UserError
from vlm.loading import load_model, load_processor
from vlm.prefix.rollout import neutral, unsayable


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def recipe(model, data, output, judge=None, *more) -> EvalRecipe:
    """Four files of four questions; behind `judge`, a FakeJudge, where there is one."""
    asked = [] if judge is None else ["generation.backend=endpoint", f"endpoint={json.dumps(address(judge))}"]
    argv = evaluation(model, data, output, "images={min_pixels: 12544, max_pixels: 12544}", "pictures=0", *asked, *more)
    return config.load(argv[0], EvalRecipe, argv[1:])


def address(judge) -> dict:
    found = judge.section()
    return {"address": found.address, "model": "tiny", "concurrency": 4, "retries": 0}


def turns_of(body) -> list[dict]:
    """A request's conversation, its pictures opened."""
    turns = []
    for turn in body["messages"]:
        content = turn["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        turns.append({"role": turn["role"], "content": [opened(part) for part in content]})
    return turns


def opened(part: dict) -> dict:
    if part["type"] == "text":
        return part
    data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
    return {"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(data)))}


class TinyServer:
    """Answers with the model itself, by transformers' own `generate`, one request at a time."""

    def __init__(self, asked: EvalRecipe):
        self.processor = load_processor(asked.model.path, asked.images)
        self.model = load_model(asked.model).eval()
        self.lock = threading.Lock()

    def __call__(self, body):
        with self.lock:
            inputs = self.processor.apply_chat_template(
                [turns_of(body)], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            banned = unsayable(self.model.config, self.processor.tokenizer)
            with torch.inference_mode(), neutral(self.model):
                tokens = self.model.generate(
                    **inputs, max_new_tokens=body["max_tokens"], do_sample=False, suppress_tokens=banned
                )
            new = tokens[0, inputs["input_ids"].shape[1] :]
            return completion(self.processor.tokenizer.decode(new, skip_special_tokens=True))


def said(folder) -> dict[str, str]:
    """Question → completion, in the order of the file."""
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {f"{row['source']}/{row['id']}": row["completion"] for row in rows}


def test_predictions_are_those_of_transformers(tiny_model, demo_data, tmp_path):
    """16 questions of four tasks, asked four at a time: the same file, order included, and the same metrics."""
    here = stage.run(recipe(tiny_model, demo_data, tmp_path / "hf"))
    with FakeJudge(default=TinyServer(recipe(tiny_model, demo_data, tmp_path / "x"))) as judge:
        there = stage.run(recipe(tiny_model, demo_data, tmp_path / "served", judge))
    assert list(said(tmp_path / "served").items()) == list(said(tmp_path / "hf").items())
    assert len(set(said(tmp_path / "hf").values())) > 4  # pictures and questions tell
    assert {name: one.value for name, one in there.metrics.items()} == {n: one.value for n, one in here.metrics.items()}
    body = judge.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("tiny", 12, 0.0, 1.0)
    assert "seed" not in body and judge.calls == 16
    finished = json.loads((tmp_path / "served/finished.json").read_text())
    assert finished["usage"]["calls"] == 16 and finished["usage"]["input_tokens"] == 1600


def test_pictures_arrive_as_the_model_would_see_them(tiny_model, demo_data, tmp_path):
    """The demo's 224 × 224 pixels, reduced to the 112 × 112 of the recipe."""
    with FakeJudge(default=lambda body: completion("yes")) as judge:
        stage.run(recipe(tiny_model, demo_data, tmp_path / "run", judge, "limit=1"))
    (picture,) = [
        part["image"] for turn in turns_of(judge.bodies[0]) for part in turn["content"] if part["type"] == "image"
    ]
    row = json.loads((tmp_path / "run/predictions.jsonl").read_text())
    expected = Image.open(row["image"]).convert("RGB").resize((112, 112), Image.Resampling.BICUBIC)
    assert picture.size == (112, 112) and picture.tobytes() == expected.tobytes()


def test_what_gets_no_answer_ends_the_run_and_is_asked_again(tiny_model, demo_data, tmp_path):
    """One question is refused: the others are kept, and the same command asks that one alone, elsewhere if need be."""
    refused = []

    def picky(body):
        if not refused:
            refused.append(body)
            return error(400, "this picture is not allowed")
        return completion("yes")

    with FakeJudge(default=picky) as judge:
        first = recipe(tiny_model, demo_data, tmp_path / "run", judge)
        with pytest.raises(UserError, match=r"1 of 16 questions got no answer.*status 400 this picture is not allowed"):
            stage.run(first)
    assert len(said(tmp_path / "run")) == 15 and not (tmp_path / "run/finished.json").exists()
    assert len((tmp_path / "run/failures.jsonl").read_text().splitlines()) == 1
    with FakeJudge(default=lambda body: completion("no")) as judge:
        stage.run(recipe(tiny_model, demo_data, tmp_path / "run", judge, "endpoint.concurrency=1"))
    assert judge.calls == 1 and judge.bodies[0]["messages"] == refused[0]["messages"]
    assert sorted(said(tmp_path / "run").values()) == ["no"] + ["yes"] * 15


def test_a_server_that_dies_keeps_what_was_answered(tiny_model, demo_data, tmp_path):
    """It hangs up from the fifth request on: the run ends, and goes on with what is left."""
    script = [completion("yes")] * 5
    with FakeJudge(*script, default=lambda body: None) as judge:
        more = ("endpoint.stop_after=3", "endpoint.concurrency=1")
        asked = recipe(tiny_model, demo_data, tmp_path / "run", judge, *more)
        with pytest.raises(UserError, match="3 rows in succession failed"):
            stage.run(asked)
    assert list(said(tmp_path / "run").values()) == ["yes"] * 5
    with FakeJudge(default=lambda body: completion("no")) as judge:
        stage.run(recipe(tiny_model, demo_data, tmp_path / "run", judge))
    assert judge.calls == 11 and len(said(tmp_path / "run")) == 16


def test_sampled_answers_have_seeds_of_their_own(tiny_model, demo_data, tmp_path):
    def cut(body):
        status, headers, answer = completion("and so on")
        answer["choices"][0]["finish_reason"] = "length"
        return status, headers, answer

    with FakeJudge(default=cut) as judge:
        more = ("generation.temperature=0.7", "generation.top_p=0.9", "endpoint.request={top_k: 50}")
        asked = recipe(tiny_model, demo_data, tmp_path / "run", judge, *more)
        one = served.Served(asked)
        stage.run(asked, asked=one)
    assert {(body["temperature"], body["top_p"], body["top_k"]) for body in judge.bodies} == {(0.7, 0.9, 50)}
    assert len({body["seed"] for body in judge.bodies}) == 16 and one.usage.cut == 16


def test_a_dry_run_says_what_it_costs_and_asks_nothing(tiny_model, demo_data, tmp_path, capsys):
    with FakeJudge() as judge:
        prices = "cost={input: 2.0, output: 10.0}"
        stage.plan(recipe(tiny_model, demo_data, tmp_path / "run", judge, prices))
        told = capsys.readouterr().out
        with pytest.raises(UserError, match="nothing was sent"):
            stage.plan(recipe(tiny_model, demo_data, tmp_path / "run", judge, prices, "cost.max_cost=0.000001"))
    assert "tiny at http://127.0.0.1" in told and "16 questions in 16 calls" in told and "cost about" in told
    assert judge.calls == 0


def test_empty_answers_are_counted_and_said(tiny_model, demo_data, tmp_path, caplog):
    """A refusal has no content: it is an answer, and a wrong one, but nobody is to take it for the model's words."""

    def silent(body):
        status, headers, answer = completion("")
        answer["choices"][0]["message"] |= {"content": None, "refusal": "I cannot help with that."}
        answer["choices"][0]["finish_reason"] = "content_filter"
        return status, headers, answer

    with FakeJudge(silent({}), default=lambda body: completion("yes")) as judge:
        asked = recipe(tiny_model, demo_data, tmp_path / "run", judge, "cost={input: 2.0, output: 10.0}")
        stage.run(asked)
    assert "1 of 16 answers are empty" in caplog.text
    usage = json.loads((tmp_path / "run/finished.json").read_text())["usage"]
    assert usage["empty"] == 1
    assert usage["cost"] == pytest.approx((2.0 * usage["input_tokens"] + 10.0 * usage["output_tokens"]) / 1e6)


REFUSED = {
    "no endpoint": (["generation.backend=endpoint"], "endpoint is not given"),
    "no backend": (["endpoint={address: 'https://h/v1', model: m}"], "generation.backend is hf, and endpoint is given"),
    "top_k": (["generation.temperature=1", "generation.top_k=5"], "top_k = 5, for which the protocol"),
    "temperature twice": (["endpoint.request={temperature: 1}"], "request sets temperature"),
    "pixels twice": (["endpoint.max_pixels=100"], "max_pixels: images.max_pixels says it"),
    "tokens twice": (["endpoint.max_tokens=100"], "max_tokens: generation.max_new_tokens says it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_dropped_is_refused(name, tiny_model, demo_data, tmp_path):
    more, expected = REFUSED[name]
    both = ["generation.backend=endpoint", "endpoint={address: 'https://h/v1', model: m}"]
    with pytest.raises(RecipeError) as caught:
        recipe(tiny_model, demo_data, tmp_path / "run", None, *([] if name.startswith("no ") else both), *more)
    assert expected in str(caught.value)


def test_several_processes_are_refused(tiny_model, demo_data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = recipe(
        tiny_model,
        demo_data,
        tmp_path,
        None,
        "generation.backend=endpoint",
        "endpoint={address: 'https://h/v1', model: m}",
    )
    with pytest.raises(RecipeError, match="endpoint is one process, and 2 were launched.*endpoint.concurrency"):
        stage.run(asked)
