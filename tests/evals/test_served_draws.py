"""Best-of-N by a model behind an address: the draws are those of transformers where they can be, none is lost, none is
asked twice; and questions that a server will not answer."""

from __future__ import annotations

import json
import math
import runpy

import pytest

from evals import stage as evaluation
from evals.asking.served import Served
from rewards.select.recipe import BonRecipe
from samples import Sample
from stage.endpoint.questions import calls, estimated
from stage.recipe import config
from tests.evals.test_served import TinyServer, address, recipe, said
from tests.support.processes.commands import ROOT
from tests.support.scores.fake_judge import FakeJudge, completion, error
from vlm.common.errors import RecipeError, UserError
from vlm.shapes import sight_of

LAUNCHER = runpy.run_path(str(ROOT / "launch/bon.py"), run_name="launcher")
run, plan = LAUNCHER["run"], LAUNCHER["plan"]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def bon(model, data, output, judge=None, *more) -> BonRecipe:
    """Four multiple-choice questions × 3 draws; behind `judge`, a FakeJudge, where there is one."""
    keys = [f"model.path={model}", f"output={output}", f"data.eval=[{{path: {data}/test/choice_test.jsonl}}]"]
    keys += ["selectors=[majority, random]", "gold=null", "generation={samples: 3, max_new_tokens: 12, batch_size: 4}"]
    asked = [] if judge is None else ["generation.backend=endpoint", f"endpoint={json.dumps(address(judge))}"]
    return config.load(ROOT / "recipes/demo/bon.yaml", BonRecipe, [*keys, *asked, *more])


def completions(folder) -> list[list[str]]:
    return [json.loads(line)["completions"] for line in (folder / "completions.jsonl").read_text().splitlines()]


def seeds(judge) -> list[int]:
    return [body["seed"] for body in judge.bodies]


def by_seed(body):
    """Every draw its own answer."""
    return completion(f"<think>-</think><answer>{'ABC'[body['seed'] % 3]} {body['seed']}</answer>")


def test_the_likeliest_answers_are_those_of_transformers(tiny_model, demo_data, tmp_path):
    """With next to nothing of the nucleus left, sampling takes the likeliest token on both sides."""
    greedy = "generation.top_p=0.000001"
    run(bon(tiny_model, demo_data, tmp_path / "hf", None, greedy))
    with FakeJudge(default=TinyServer(recipe(tiny_model, demo_data, tmp_path / "x"))) as judge:
        run(bon(tiny_model, demo_data, tmp_path / "served", judge, greedy))
    assert completions(tmp_path / "served") == completions(tmp_path / "hf")
    assert len({texts[0] for texts in completions(tmp_path / "hf")}) > 1
    assert (tmp_path / "served/curve.csv").read_text() == (tmp_path / "hf/curve.csv").read_text()
    assert judge.calls == 12 and len(set(seeds(judge))) == 12
    assert {(body["temperature"], body["top_p"]) for body in judge.bodies} == {(1.0, 0.000001)}
    assert json.loads((tmp_path / "served/finished.json").read_text())["usage"]["calls"] == 12


def test_a_server_that_dies_loses_no_draw(tiny_model, demo_data, tmp_path):
    """It hangs up from the sixth request on, in the middle of the second question. The next start asks the others, and
    the completions are those of a run that went through; the use of both starts is counted."""
    prices = "cost={input: 2.0, output: 10.0}"
    with FakeJudge(default=by_seed) as judge:
        run(bon(tiny_model, demo_data, tmp_path / "whole", judge))
    whole = completions(tmp_path / "whole")
    assert len({text for texts in whole for text in texts}) == 12
    with FakeJudge(*[by_seed] * 5, default=lambda body: None) as dying:
        more = ("endpoint.stop_after=3", "endpoint.concurrency=1", prices)
        with pytest.raises(UserError, match="3 rows in succession failed"):
            run(bon(tiny_model, demo_data, tmp_path / "run", dying, *more))
    assert dying.calls == 8  # each draw that gets nothing counts
    assert not (tmp_path / "run/completions.jsonl").exists()
    with FakeJudge(default=by_seed) as again:
        run(bon(tiny_model, demo_data, tmp_path / "run", again, prices))
    assert again.calls == 7 and {*seeds(dying)[:5], *seeds(again)} == set(seeds(judge))
    assert completions(tmp_path / "run") == whole
    assert (tmp_path / "run/curve.csv").read_text() == (tmp_path / "whole/curve.csv").read_text()
    usage = json.loads((tmp_path / "run/finished.json").read_text())["usage"]
    assert (usage["calls"], usage["input_tokens"], usage["output_tokens"]) == (12, 1200, 120)
    assert usage["cost"] == pytest.approx((1200 * 2.0 + 120 * 10.0) / 1e6)
    with FakeJudge(default=by_seed) as more:  # further draws go on from these
        run(bon(tiny_model, demo_data, tmp_path / "run", more, "generation.samples=4", "overwrite=true"))
    assert more.calls == 4 and [texts[:3] for texts in completions(tmp_path / "run")] == whole


def test_a_broken_file_of_what_was_used_is_found_before_anything_is_asked(tiny_model, demo_data, tmp_path):
    with FakeJudge(by_seed, default=lambda body: None) as judge, pytest.raises(UserError, match="in succession"):
        run(bon(tiny_model, demo_data, tmp_path / "run", judge, "endpoint.stop_after=1", "endpoint.concurrency=1"))
    (spent,) = (tmp_path / "run/endpoint").glob("usage-*.jsonl")
    spent.write_bytes(b'{"calls": 1\0\0\n' + spent.read_bytes())
    with FakeJudge(default=by_seed) as judge, pytest.raises(UserError, match=r"usage-\w+.jsonl, line 1: found no JSON"):
        run(bon(tiny_model, demo_data, tmp_path / "run", judge))
    assert judge.calls == 0


def test_every_draw_costs(tiny_model, demo_data, tmp_path, capsys):
    prices = "cost={input: 2.0, output: 10.0}"
    with FakeJudge() as judge:
        plan(bon(tiny_model, demo_data, tmp_path / "run", judge, prices))
        told = capsys.readouterr().out
        limited = bon(tiny_model, demo_data, tmp_path / "run", judge, prices, "cost.max_cost=0.000001")
        for ask in (plan, run):
            with pytest.raises(UserError, match="12 calls may cost .* nothing was sent"):
                ask(limited)
    assert "tiny at http://127.0.0.1" in told and "4 questions in 12 calls" in told and "cost about" in told
    assert judge.calls == 0


@pytest.fixture
def strict():
    """Makes a server that answers `yes`, but to these conversations."""

    def make(refused):
        return lambda body: error(400, "not allowed") if json.dumps(body["messages"]) in refused else completion("yes")

    return make


def test_what_is_refused_twice_counts_as_wrong(tiny_model, demo_data, tmp_path, strict, caplog):
    with FakeJudge(default=lambda body: completion("yes")) as judge:
        evaluation.run(recipe(tiny_model, demo_data, tmp_path / "seen", judge, "endpoint.concurrency=1"))
    refused = {json.dumps(judge.bodies[5]["messages"])}
    name = list(said(tmp_path / "seen"))[5]
    for start in (1, 2):
        with FakeJudge(default=strict(refused)) as judge:
            asked = recipe(tiny_model, demo_data, tmp_path / "run", judge)
            if start == 1:
                with pytest.raises(UserError, match=rf"1 of 16 .* {name}: status 400 .*refused .* again .*as wrong"):
                    evaluation.run(asked)
                assert len(said(tmp_path / "run")) == 15
            else:
                report = evaluation.run(asked)
    assert judge.calls == 1 and said(tmp_path / "run")[name] == ""
    told = f"1 refused by the server count as wrong: {name} (status 400 not allowed)"
    assert told in caplog.text and f"- run: {told}\n" in (tmp_path / "run/table.md").read_text()
    finished = json.loads((tmp_path / "run/finished.json").read_text())
    assert finished["refused"] == {name: "status 400 not allowed"} and finished["usage"]["calls"] == 15
    assert report.metrics["format"].n == 16  # it stays among the questions
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["format"]["refused"] == 1
    assert evaluation.load_report(tmp_path / "run").refused == report.refused


def test_a_server_that_refuses_all_makes_nothing_wrong(tiny_model, demo_data, tmp_path):
    """As where its longest prompt is too short: however often it is started, the questions stay unanswered."""
    for _ in range(3):
        with FakeJudge(default=lambda body: error(400, "too long")) as judge:
            asked = recipe(tiny_model, demo_data, tmp_path / "run", judge, "endpoint.stop_after=5")
            with pytest.raises(UserError, match="5 rows in succession failed"):
                evaluation.run(asked)
    assert (tmp_path / "run/predictions.jsonl").read_text() == ""


def test_a_question_whose_draws_are_refused(tiny_model, demo_data, tmp_path, strict):
    """One request tells for all draws of the question in a start, and does not end the run."""
    with FakeJudge(default=by_seed) as judge:
        run(bon(tiny_model, demo_data, tmp_path / "seen", judge, "endpoint.concurrency=1"))
    refused = {json.dumps(judge.bodies[3]["messages"])}
    name = "choice/" + json.loads((tmp_path / "seen/completions.jsonl").read_text().splitlines()[1])["id"]
    more = ("endpoint.stop_after=2", "endpoint.concurrency=1")
    for start in (1, 2):
        with FakeJudge(default=strict(refused)) as judge:
            asked = bon(tiny_model, demo_data, tmp_path / "run", judge, *more)
            if start == 1:
                with pytest.raises(UserError, match=rf"3 of 12 .* {name}: status 400"):
                    run(asked)
                assert judge.calls == 10
            else:
                run(asked)
    assert judge.calls == 1 and completions(tmp_path / "run") == [["yes"] * 3, [""] * 3, ["yes"] * 3, ["yes"] * 3]
    assert f"- 1 refused by the server count as wrong: {name} (" in (tmp_path / "run/table.md").read_text()
    assert json.loads((tmp_path / "run/finished.json").read_text())["refused"] == {name: "status 400 not allowed"}


def test_usage_is_of_the_folder_also_where_one_serves_several(tiny_model, demo_data, tmp_path):
    """As in `launch/eval.py --benchmarks`, and where a start was killed."""
    with FakeJudge(default=lambda body: completion("yes")) as judge:
        asked = recipe(tiny_model, demo_data, tmp_path / "a", judge)
        one = Served(asked)
        evaluation.run(asked, asked=one)
        evaluation.run(recipe(tiny_model, demo_data, tmp_path / "b", judge, "limit=3"), asked=one)
    calls = [json.loads((tmp_path / name / "finished.json").read_text())["usage"]["calls"] for name in ("a", "b")]
    assert calls == [16, 3] and one.usage.calls == 19
    (tmp_path / "a/finished.json").unlink()  # killed after ten answers
    lines = (tmp_path / "a/predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a/predictions.jsonl").write_text("".join(lines[:10]))
    with FakeJudge(default=lambda body: completion("yes")) as judge:
        evaluation.run(recipe(tiny_model, demo_data, tmp_path / "a", judge))
    assert json.loads((tmp_path / "a/finished.json").read_text())["usage"]["calls"] == 22


@pytest.mark.parametrize("backend", ["vllm", "endpoint"])
def test_several_processes_are_refused(backend, tiny_model, demo_data, tmp_path, monkeypatch):
    more = [f"generation.backend={backend}", "endpoint={address: 'https://h/v1', model: m}"][: 1 + (backend != "vllm")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=f"{backend} is one process, and 2 were launched"):
        run(bon(tiny_model, demo_data, tmp_path, None, *more))
    assert not list(tmp_path.iterdir())


def test_what_goes_with_no_server_is_refused(tiny_model, demo_data, tmp_path):
    with pytest.raises(RecipeError, match="top_k = 5, for which the protocol of endpoints has no field"):
        both = ("generation.backend=endpoint", "endpoint={address: 'https://h/v1', model: m}")
        bon(tiny_model, demo_data, tmp_path, None, *both, "generation.top_k=5")
    with pytest.raises(RecipeError, match="generation.backend is endpoint, and endpoint is not given"):
        bon(tiny_model, demo_data, tmp_path, None, "generation.backend=endpoint")


def test_an_estimate_has_pictures_at_the_size_at_which_they_are_sent(tiny_model, demo_data, tmp_path):
    """40 × 30 pixels are sent as 140 × 112, 20 tokens; the text has as many characters as are said."""
    asked = recipe(tiny_model, demo_data, tmp_path, None, "generation.backend=endpoint", *(
        "endpoint={address: 'https://h/v1', model: m}", "images={min_pixels: 12544, max_pixels: 25088}",
    ))  # fmt: skip
    sample = Sample(["a.png"], [{"role": "user", "content": "What?"}], "vqa", answer="1", size=(40, 30))
    (one,) = calls(asked, sample, sight_of(asked))
    assert one.sizes == [(140, 112)]
    found = estimated(asked, [([one], 1), ([one], 3)])
    assert (found.rows, found.calls) == (2, 4)
    assert found.input_tokens == 4 * (20 + math.ceil(one.said / 4))
