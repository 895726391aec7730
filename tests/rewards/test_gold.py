"""Open questions: a reward judges them, and its value travels with the prediction to the metrics."""

import math

import pytest

from evals import predictions, stage
from evals.recipe import EvalRecipe
from evals.scoring import metrics
from rewards import gold
from rewards.values import WrongValues
from samples import Sample
from stage.recipe import config
from tests.support.processes.commands import ROOT
from vlm.common.errors import DataError, RecipeError

pytestmark = pytest.mark.versions


def sample(task="open_ended"):
    return Sample([], [{"role": "user", "content": "Describe."}], task, id="7", source="here", answer="two ships")


def test_the_judge_sees_rows_as_a_reward_does():
    seen = {}

    def reward(prompts, completions, answer, task, id, **columns):
        seen.update(prompts=prompts, answer=answer, task=task, id=id)
        return [len(completion[0]["content"]) / 10 for completion in completions]

    assert gold.values(reward, sample(), ["a", "ship"]) == [0.1, 0.4]
    assert seen["prompts"] == [[{"role": "user", "content": "Describe."}]] * 2
    assert (seen["answer"], seen["task"], seen["id"]) == (["two ships"] * 2, ["open_ended"] * 2, ["7"] * 2)


def test_rows_it_is_not_for_and_values_that_are_none():
    assert gold.values(lambda completions, **_: [0.5, None], sample(), ["a", "b"]) is None
    with pytest.raises(DataError, match="here, sample 7: the judge gave"):
        gold.values(lambda completions, **_: [0.5, math.nan], sample(), ["a", "b"])
    for bad in ([0.5], {1.0: "a", 2.0: "b"}):  # not the keys of a dict
        with pytest.raises(WrongValues, match=r"here, sample 7: the judge \(.*test_gold.py:\d+\) returned"):
            gold.values(lambda completions, bad=bad, **_: bad, sample(), ["a", "b"])
    assert gold.judge(None) is None
    with pytest.raises(RecipeError, match="no_such_module"):
        gold.judge("no_such_module:judge")


def test_the_metric_is_the_mean_over_open_questions(tmp_path):
    rows = [
        predictions.from_sample(sample(), "x", gold=0.25),
        predictions.Prediction("8", "here", "caption", "y", gold=-0.5),
        predictions.Prediction("9", "here", "open_ended", "z"),  # nobody judged it
        predictions.Prediction("10", "here", "vqa", "2", answer="2", gold=1.0),
    ]
    predictions.write(tmp_path / "p.jsonl", rows)
    assert predictions.read(tmp_path / "p.jsonl") == rows
    found = metrics.evaluate(predictions.read(tmp_path / "p.jsonl"), "qwen2_vl", "text").metrics["open_ended/gold"]
    assert (found.value, found.n) == (-0.125, 2) and "`gold` judge" in found.convention
    (tmp_path / "p.jsonl").write_text('{"id": "1", "source": "a", "task": "vqa", "completion": "", "gold": "high"}\n')
    with pytest.raises(DataError, match="'gold': found 'high', expected a number"):
        predictions.read(tmp_path / "p.jsonl")


def test_an_evaluation_judges_captions_and_nothing_else(tiny_model, demo_data, tmp_path):
    """The judge is counted, and says the length of what it was shown."""
    files = ("vg_test.json, format: vg_dior", "caption_test.jsonl")
    sources = ", ".join(f"{{path: {demo_data}/test/{file}}}" for file in files)
    overrides = [f"model.path={tiny_model}", f"output={tmp_path / 'run'}", f"data.eval=[{sources}]", "pictures=0"]
    recipe = config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, [*overrides, "generation.max_new_tokens=4"])
    asked = []

    def judge(one, completions):
        asked.append((one.source, one.id))
        return [float(len(completions[0]))]

    report = stage.run(recipe, judge)
    rows = predictions.read(tmp_path / "run/predictions.jsonl")
    open_rows = [row for row in rows if row.source == "caption"]
    assert len(open_rows) == 4 and asked == [("caption", row.id) for row in open_rows]
    assert [row.gold for row in rows] == [None] * 4 + [float(len(row.completion)) for row in open_rows]
    assert report.metrics["open_ended/gold"].value == sum(len(row.completion) for row in open_rows) / 4
