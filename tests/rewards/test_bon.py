"""Best-of-N: the curve's arithmetic against enumeration, and the stage with scorers and judges that are known."""

from __future__ import annotations

import json
from itertools import combinations, groupby
from math import comb
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samples
from rewards.select import bon, candidates, report, stage
from rewards.select.recipe import BonRecipe
from stage.recipe import config
from tests.support.sample_rows import dump
from vlm.common.best_of import rank_weights, sizes
from vlm.common.errors import DataError, RecipeError


def enumerated(choose, quality, n):
    """Mean over every n-subset of the mean quality of what `choose(members)` returns: the definition."""
    means = [np.mean([quality[i] for i in choose(members)]) for members in combinations(range(len(quality)), n)]
    return np.mean(means)


def highest(scores):
    return lambda members: [i for i in members if scores[i] == max(scores[j] for j in members)]


SCORES = {
    "distinct": [0.3, -1.0, 2.5, 0.9, 0.1, -3.0, 7.0],
    "ties": [1.0, 1.0, 0.0, 2.0, 2.0, 2.0, 0.0],
    "all tied": [0.5] * 7,
    "some unreadable": [-np.inf, 1.0, -np.inf, -np.inf, 0.0, 1.0, -np.inf],
    "none readable": [-np.inf] * 7,
}
QUALITY = np.array([0.0, 1.0, 0.25, 1.0, 0.0, -0.5, 0.75])


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("name", SCORES)
def test_best_by_score_is_the_mean_over_all_subsets(name, n):
    scores = SCORES[name]
    assert bon.best_by_score(scores, QUALITY, n) == pytest.approx(enumerated(highest(scores), QUALITY, n))


def test_ends_of_the_curve():
    assert bon.best_by_score(SCORES["distinct"], QUALITY, 1) == pytest.approx(QUALITY.mean())
    assert bon.best_by_score(SCORES["distinct"], QUALITY, 7) == 0.75  # the one that scores 7.0
    assert bon.best_by_score(SCORES["ties"], QUALITY, 7) == pytest.approx((1.0 + 0.0 - 0.5) / 3)


@pytest.mark.parametrize("right", [0, 1, 3, 10])
def test_oracle_is_pass_at_n(right):
    """Chen et al. 2021: 1 - C(M - c, n) / C(M, n) for c right answers out of M."""
    quality = np.array([1.0] * right + [0.0] * (10 - right))
    for n in (1, 2, 4, 8, 10):
        assert bon.oracle(quality, n) == pytest.approx(1 - comb(10 - right, n) / comb(10, n))


def test_rank_weights_are_probabilities_and_refuse_more_than_were_drawn():
    assert rank_weights(4, 2) == pytest.approx([3 / 6, 2 / 6, 1 / 6, 0])
    assert rank_weights(64, 32).sum() == pytest.approx(1)
    for n in (0, 5):
        with pytest.raises(ValueError, match="expected 1 to 4"):
            rank_weights(4, n)
    assert sizes(64) == [1, 2, 4, 8, 16, 32, 64] and sizes(1) == [1]


def agree(labels):
    return np.array([[float(a is not None and a == b) for b in labels] for a in labels])


def most_common(labels):
    def choose(members):
        votes = {i: sum(labels[j] == labels[i] for j in members) if labels[i] is not None else 0 for i in members}
        return [i for i in members if votes[i] == max(votes.values())]

    return choose


@pytest.mark.parametrize("n", range(1, 8))
def test_a_vote_is_the_mean_over_all_subsets(n):
    labels = ["a", "b", "a", None, "c", "b", "a"]
    given = bon.best_by_vote(agree(labels), QUALITY, n, limit=comb(7, n), rng=np.random.default_rng(0))
    assert given == pytest.approx(enumerated(most_common(labels), QUALITY, n))


def test_random_subsets_estimate_the_same_mean():
    """1,000 of C(12, 6) = 924 would be all; 300 random ones come within 4 standard errors, and differ by seed."""
    rng = np.random.default_rng(5)
    labels, quality = list("aabbbccddeef"), rng.random(12)
    exact = bon.best_by_vote(agree(labels), quality, 6, limit=1000, rng=rng)
    assert exact == pytest.approx(enumerated(most_common(labels), quality, 6))
    drawn = [bon.best_by_vote(agree(labels), quality, 6, 300, np.random.default_rng(seed)) for seed in range(30)]
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn, ddof=1) / np.sqrt(30)
    assert np.std(drawn) > 0
    inside = bon.subsets(12, 6, 300, rng)
    assert inside.shape == (300, 12) and set(inside.sum(axis=1)) == {6}


# --- the stage ---


class Length:
    """Scores an answer by how long it is, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, exchanges):
        self.asked += [exchange.messages[-1]["content"] for exchange in exchanges]
        return [float(len(exchange.messages[-1]["content"])) for exchange in exchanges]


@pytest.fixture
def questions(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    rows = [
        {"images": ["a.png"], "task": "vqa", "answer": answer, "messages": [{"role": "user", "content": "What?"}]}
        for answer in ("dam", "ship", "road")
    ]
    return dump(tmp_path / "q.jsonl", rows)


ANSWERS = ["dam", "ship", "a", "dam."]


def drawn(sample):
    """Four completions whose traces are longer than any answer; the last question's first has no answer."""
    texts = [f"<think>{'long ' * (9 - i)}</think><answer>{text}</answer>" for i, text in enumerate(ANSWERS)]
    return ["no tags at all, but many words", *texts[1:]] if sample.answer == "road" else texts


def judge(sample, completions):
    return "vqa/exact", [float(f"<answer>{sample.answer}" in text) for text in completions]


def recipe(questions, tmp_path, **changes):
    file = tmp_path / "bon.yaml"
    file.write_text(f"model: {{path: m}}\noutput: {tmp_path}/run\nselectors: [score, majority, random]\n")
    settings = {
        "data.eval": f"[{{path: {questions}}}]",
        "generation.samples": 4,
        "generation.batch_size": 4,
        "scorer.urls": "[http://x]",
        **changes,
    }
    return config.load(file, BonRecipe, [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture
def served(monkeypatch):
    """The scorer's identity without a scorer."""
    monkeypatch.setattr("rewards.select.scorers.identity", lambda name, *_: name)


def go(recipe, scorer=None, draw=lambda: drawn):
    """draw: returns how completions of a question are drawn."""

    def drawer(size, halved):
        one = draw()

        def drawn(rows):
            for _, group in groupby(rows, key=lambda row: row[0].id):
                group = list(group)
                texts = one(group[0][0])
                yield from ((row, texts[row[1]]) for row in group)

        return drawn

    points = stage.run(recipe, drawer, judge, load=lambda name: scorer or Length())
    return {(point.selector, point.n): point.value for point in points}


def test_stage_by_hand(questions, tmp_path, served):
    """Length takes ship or "dam." (both 4 long); dam has two votes of four; road is never drawn."""
    scorer = Length()
    found = go(recipe(questions, tmp_path), scorer)
    # dam: 1 1 of "dam" "dam." right; ship: 1 right
    assert found["random", 4] == found["random", 1] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert found["score", 4] == pytest.approx((0.5 + 0.5 + 0) / 3)  # ship and "dam." tie at length 4
    assert found["majority", 4] == pytest.approx((1 + 0 + 0) / 3)
    assert found["oracle", 4] == pytest.approx(2 / 3)
    assert found["score", 1] == found["majority", 1] == pytest.approx(found["random", 1])
    folder = tmp_path / "run"
    assert {path.name for path in folder.glob("*.*")} - {"changes.diff"} == {
        "completions.jsonl", "curve.csv", "curve.png", "data.json", "environment.json", "finished.json", "judged.jsonl",
        "picks.jsonl", "recipe.yaml", "record.json", "table.md",
    }  # fmt: skip
    assert json.loads((folder / "record.json").read_text())["sampling"].startswith("sampled at temperature 0.95;")
    assert "- answers: sampled at temperature 0.95; at most 1024 new tokens\n" in (folder / "table.md").read_text()
    picks = [json.loads(line)["picks"] for line in (folder / "picks.jsonl").read_text().splitlines()]
    assert [pick["score"] for pick in picks] == [1, 1, 1] and [pick["majority"] for pick in picks[:2]] == [0, 0]
    judged = [json.loads(line) for line in (folder / "judged.jsonl").read_text().splitlines()]
    assert [row["quality"] for row in judged] == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]  # in the order of the rows
    assert [row["scores"] for row in judged] == [{"score": [3, 4, 1, 4]}] * 2 + [{"score": [None, 4, 1, 4]}]
    table = (folder / "table.md").read_text()
    assert "| vqa/exact (%), 3 questions | N = 1 | N = 2 | N = 4 |" in table and "| oracle | 25.0 |" in table
    with Image.open(folder / "curve.png") as picture:
        assert min(picture.size) > 300


def test_fault_3_the_answer_is_scored_and_never_the_trace(questions, tmp_path, served):
    """Fault 3: the learned reward scored the whole reasoning text. Equal answers are asked for once."""
    scorer = Length()
    go(recipe(questions, tmp_path), scorer)
    assert scorer.asked == ["dam", "ship", "a", "dam."] * 2 + ["ship", "a", "dam."]


def test_drawn_once_selected_many_times(questions, tmp_path, served):
    """Neither generation nor scoring is repeated; the answers serve another run, too."""
    first = go(recipe(questions, tmp_path))

    def never():
        raise AssertionError("drawn again")

    class Broken:
        def score(self, exchanges):
            raise AssertionError("scored again")

    assert go(recipe(questions, tmp_path, overwrite="true"), Broken(), never) == first
    other = recipe(questions, tmp_path, output=tmp_path / "two", completions=tmp_path / "run/completions.jsonl")
    assert go(other, draw=never) == first


def test_a_killed_run_goes_on(questions, tmp_path, served):
    """Killed at the second question, with half a line written: the first is not drawn again."""
    asked = []

    def dying(sample):
        asked.append(sample.answer)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return drawn(sample)

    with pytest.raises(KeyboardInterrupt):
        go(recipe(questions, tmp_path), draw=lambda: dying)
    (part,) = (tmp_path / "run/parts").glob("draws-*.0.jsonl")
    with part.open("a") as file:
        file.write('{"key": "q/#2", "draw": 0, "completi')
    whole = go(recipe(questions, tmp_path), draw=lambda: dying)
    assert asked == ["dam", "ship", "ship", "road"]
    assert whole == go(recipe(questions, tmp_path, output=tmp_path / "other"))


def test_another_model_draws_anew(questions, tmp_path, served):
    go(recipe(questions, tmp_path))
    seen = []
    changed = recipe(questions, tmp_path, overwrite="true", **{"generation.temperature": 0.5})
    go(changed, draw=lambda: lambda sample: seen.append(sample.answer) or drawn(sample))
    assert seen == ["dam", "ship", "road"]


def test_a_changed_question_alone_is_drawn_and_scored_anew(questions, tmp_path, served):
    go(recipe(questions, tmp_path))
    text = Path(questions).read_text()
    assert text.count("road") >= 1
    Path(questions).write_text(text.replace("road", "lane"))
    seen = []
    go(
        recipe(questions, tmp_path, overwrite="true"),
        draw=lambda: lambda s: seen.append(s.answer) or drawn(s),
    )
    assert seen == ["lane"]


def by_answer(sample, completions):
    return None if sample.task == "caption" else judge(sample, completions)


@pytest.fixture
def open_questions(questions):
    """Captions, which nothing judges."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    return dump(questions.parent / "open.jsonl", [row | {"task": "caption"} for row in rows])


def test_what_cannot_be_judged_is_known_before_anything_is_drawn(questions, open_questions, tmp_path, caplog):
    def never(*_):
        raise AssertionError("drawn")

    asked = recipe(open_questions, tmp_path)
    with pytest.raises(DataError, match="no question can be judged: captions and open questions need `gold:`"):
        stage.run(asked, never, by_answer)
    with pytest.raises(DataError, match="no question can be judged"):
        stage.plan(asked, by_answer)
    assert not (tmp_path / "run").exists()
    some = recipe(questions, tmp_path, **{"data.eval": f"[{{path: {questions}}}, {{path: {open_questions}}}]"})
    with pytest.raises(AssertionError, match="drawn"):
        stage.run(some, never, by_answer)
    assert "3 of 6 questions have no metric and are left out of the curve" in caplog.text


def test_a_dry_run_says_what_cannot_be_judged(questions, open_questions, tmp_path, capsys):
    asked = []
    some = recipe(questions, tmp_path, **{"data.eval": f"[{{path: {questions}}}, {{path: {open_questions}}}]"})
    stage.plan(some, lambda sample, texts: asked.append(sample.task) or by_answer(sample, texts))
    assert "note: 3 of 6 questions have no metric" in capsys.readouterr().out
    assert asked == ["vqa"] * 3 + ["caption"], "a judge of open questions may be slow: one stands for all"


def test_completions_that_do_not_fit_are_refused(questions, tmp_path):
    rows = list(samples.read(questions))
    path = tmp_path / "c.jsonl"
    good = [{"source": "q", "id": row.id, "completions": ["a", "b"]} for row in rows]
    for changed, message in [
        (good[:2], r"no completions for the question q/#3"),
        ([*good[:2], good[2] | {"completions": ["a"]}], r"1 completions for q/#3, 2 for q/#1"),
        ([*good[:2], good[2] | {"completions": "ab"}], r"line 3, field 'completions'"),
        ([good[0] | {"id": 1}], r"line 1, field 'id'"),
    ]:
        dump(path, changed)
        with pytest.raises(DataError, match=message):
            candidates.read(path, rows)
    with pytest.raises(DataError, match="two questions are called q/#1"):
        candidates.check_unique([*rows, rows[0]])


def test_recipes_that_cannot_work_are_refused(questions, tmp_path):
    for changes, message in [
        ({"scorer.urls": "[]"}, "scorer.path is empty, and the selector `score` needs"),
        ({"selectors": "[clip]"}, "clip.path is empty"),
        ({"selectors": "[random, random]"}, "each once"),
        ({"generation.temperature": 0}, "greedy answers are all alike"),
        ({"prompt.style": "direct"}, "inside: text"),
        ({"scorer.path": "m"}, "path and urls are both given"),
    ]:
        with pytest.raises(RecipeError, match=message):
            recipe(questions, tmp_path, **changes)


def test_a_point_carries_its_standard_error():
    point = report.Point.of("m", "score", 2, [0.0, 1.0, 1.0, 1.0])
    assert point.value == 0.75 and point.error == pytest.approx(0.5 / 2)  # deviation sqrt(0.75 / 3) = 0.5, 4 questions
    assert np.isnan(report.Point.of("m", "score", 2, [1.0]).error)
