"""Scores of reference answers: asked for once, kept in memory and in a file that processes share."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rewards.score.model.exchange import Exchange
from rewards.score.reward.reference import ImageKeys, ReferenceScores, exchange_key
from rewards.score.reward.score import Score
from rewards.score.scorer import ScorerUnavailable
from tests.support.completions import r1
from tests.support.scores.score_fakes import BLUE, RED, FakeScorer, batch, picture

pytestmark = pytest.mark.versions

TABLE = {"ref": 1.0, "other ref": 2.0, "good": 3.0, "bad": -1.0}


def key(question, answer, *images):
    return exchange_key(Exchange.of(question, answer, images), ImageKeys())


def test_fault_10_a_reference_is_scored_once_over_many_steps():
    """The published reward scored it again for each completion: here 3 groups × 4 completions × 5 steps."""
    reward = Score(scorer=FakeScorer(TABLE), probe_every=0)
    completions = [r1("good"), r1("bad"), r1("good"), r1("bad")]
    rows = batch(
        (RED, "?", "ref", completions),
        (BLUE, "?", "ref", completions),
        (RED, "?", "other ref", completions),
    )
    steps = [reward(**rows) for _ in range(5)]
    assert all(step == steps[0] for step in steps)
    assert len(reward.scorer.batches) == 5
    assert reward.scorer.asked.count("ref") == 2 and reward.scorer.asked.count("other ref") == 1
    # the two groups about the red picture ask the same, so their answers are scored once: 4 a step
    assert len(reward.scorer.asked) == 5 * 4 + 3


def test_a_reference_whose_score_failed_is_asked_again():
    reward = Score(scorer=FakeScorer(TABLE | {"ref": float("nan")}), probe_every=0)
    rows = batch((RED, "?", "ref", [r1("good")]))
    assert reward(**rows) == [None]
    reward.scorer.table["ref"] = 3.0
    assert reward(**rows) == [0.0]


def test_keys_tell_apart_what_scores_apart(tmp_path):
    red, blue = picture(RED), picture(BLUE)
    keys = [
        key("?", "a", red),
        key("?", "a", blue),
        key("?", "a"),
        key("?", "a", red, blue),
        key("?", "a", blue, red),
        key("", "a", red),
        key("?", "b", red),
        key("?", "a", red.resize((16, 4))),
    ]
    assert len(set(keys)) == len(keys)
    path = tmp_path / "red.png"
    red.save(path)
    assert {key("?", "a", str(path)), key("?", "a", path.read_bytes()), key("?", "a", picture(RED))} == {keys[0]}


def test_a_file_outlives_the_process_and_holds_for_its_model_alone(tmp_path):
    path = tmp_path / "run" / "references.jsonl"
    first = ReferenceScores(path, lambda: "m1")
    assert first.find(["a", "b"]) == {} and not path.exists()
    first.add({"a": 1.5})
    first.add({"a": 9.0, "b": -0.1})  # what is known is known
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"model": "m1", "key": "a", "score": 1.5},
        {"model": "m1", "key": "b", "score": -0.1},
    ]
    assert ReferenceScores(path, lambda: "m1").find(["a", "b", "c"]) == {"a": 1.5, "b": -0.1}
    assert ReferenceScores(path, lambda: "m2").find(["a", "b"]) == {}


def test_a_line_cut_short_costs_its_own_score_only(tmp_path, caplog):
    path = tmp_path / "references.jsonl"
    row = '{"model": "m", "key": "%s", "score": 1.0}'
    path.write_text(row % "a" + "\n" + (row % "b")[:20])  # killed while writing
    reader = ReferenceScores(path, lambda: "m")
    assert reader.find("ab") == {"a": 1.0}
    ReferenceScores(path, lambda: "m").add({"c": 3.0})  # the next process writes on
    ReferenceScores(path, lambda: "m").add({"d": 4.0})
    assert reader.find("abcd") == {"a": 1.0, "d": 4.0}
    assert "passed over" in caplog.text


def test_two_processes_share_a_file(tmp_path):
    path = tmp_path / "references.jsonl"
    work = (
        "import sys; from rewards.score.reward.reference import ReferenceScores\n"
        "scores = ReferenceScores(sys.argv[1], lambda: 'm')\n"
        "for n in range(200): scores.add({f'{sys.argv[2]}{n}' + 'x' * 500: float(n)})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", work, str(path), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    keys = [f"{name}{n}" + "x" * 500 for name in "ab" for n in range(200)]
    assert ReferenceScores(path, lambda: "m").find(keys) == {key: float(int(key[1:].rstrip("x"))) for key in keys}


def test_one_process_finds_what_another_has_written_since(tmp_path):
    path = tmp_path / "references.jsonl"
    here, there = ReferenceScores(path, lambda: "m"), ReferenceScores(path, lambda: "m")
    assert here.find(["a"]) == {}
    there.add({"a": 2.0})
    assert here.find(["a"]) == {"a": 2.0}


def test_a_service_that_is_down_when_asked_for_its_model_masks_the_rows(tmp_path):
    def down():
        raise ScorerUnavailable("no route")

    reward = Score(scorer=FakeScorer(TABLE), probe_every=0)
    reward.references = ReferenceScores(tmp_path / "references.jsonl", down)
    assert reward(**batch((RED, "?", "ref", [r1("good")]))) == [None]
    assert reward.failures.total == 1 and reward.scorer.batches == []
