"""What selectors see and how they choose: answers, votes, IoU medoids, scorers that misbehave."""

from __future__ import annotations

import math
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rewards.score.model.exchange import Exchange
from rewards.score.model.score_model import ScoreModel
from rewards.select import bon, scorers
from rewards.select.clip import ClipScorer
from rewards.select.recipe import ClipSection, ScorerSection
from rewards.select.selectors import agreement, readable, score_answers
from rewards.values import WrongValues
from samples import Sample
from stage.parallel import journal
from tests.support.processes.commands import ROOT
from vlm.common.errors import DataError, RecipeError
from vlm.sections import ImageSection


def asked(task="vqa", **fields):
    return Sample(["/a.png"], [{"role": "user", "content": "Where is the dam?"}], task, source="s", id="1", **fields)


class Fixed:
    def __init__(self, *scores):
        self.scores, self.asked = list(scores), []

    def score(self, exchanges):
        self.asked += exchanges
        return self.scores[: len(exchanges)]


@pytest.mark.parametrize(
    ("text", "inside", "answer"),
    [
        ("<think>two ships</think><answer> 2 </answer>", "answer", "2"),
        ("<answer>two\nlines</answer>", "answer", "two\nlines"),
        ("2", "answer", None),
        ("<answer>1</answer><answer>2</answer>", "answer", None),
        ("<answer>  </answer>", "answer", None),
        (" 2\n", "text", "2"),
        ("  ", "text", None),
    ],
)
def test_readable(text, inside, answer):
    assert readable(text, inside) == answer


def test_equal_answers_agree_after_normalising():
    table = agreement(asked(), ["Dam.", "dam", None, "3.5", "35", '"DAM"'], "qwen2_vl")
    assert table.tolist() == [
        [1, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_an_option_agrees_with_its_letter():
    table = agreement(asked("choice", choices=["harbor", "dam"]), ["B", "b. dam", "dam", "A", "ship"], "qwen2_vl")
    assert table[0].tolist() == [1, 1, 1, 0, 0] and table[3].tolist() == [0, 0, 0, 1, 0]
    assert table[4].tolist() == [0, 0, 0, 0, 1]


def test_boxes_agree_by_iou():
    """On 1000 × 1000 pixels per mille are pixels: IoUs 0.5 and 1/3 by hand."""
    said = ["(0,0),(100,100)", "(0,0),(50,100)", "(50,0),(150,100)", "the dam", None, "(0,0),(100,100)"]
    table = agreement(asked("grounding", boxes=[[0, 0, 9, 9]], size=(1000, 1000)), said, "qwen2_vl")
    third = 1 / 3
    assert table[0] == pytest.approx([1, 0.5, third, 0, 0, 1])
    assert table[1] == pytest.approx([0.5, 1, 0, 0, 0, 0.5])
    assert not table[3].any() and not table[4].any()
    assert np.array_equal(table, table.T)
    # the medoid is the box most like the others, not the one said most often
    quality = np.array([1.0, 0.2, 0.3, 0.0, 0.0, 1.0])
    assert bon.best_by_vote(table, quality, 6, 10, np.random.default_rng(0)) == 1.0


def test_the_medoid_of_three_boxes():
    """Sums of IoU: left 1 + 0.6 + 0.25, middle 1 + 0.6 + 0.6, right as left."""
    said = ["(0,0),(80,10)", "(20,0),(100,10)", "(40,0),(120,10)"]
    table = agreement(asked("grounding", boxes=[[0, 0, 9, 9]], size=(1000, 1000)), said, "qwen2_vl")
    assert table[0] == pytest.approx([1, 60 / 100, 40 / 120])
    assert bon.best_by_vote(table, np.array([0, 1.0, 0]), 3, 1, np.random.default_rng(0)) == 1.0


def test_two_boxes_for_one_cost():
    sample = asked("grounding", boxes=[[0, 0, 9, 9]], size=(1000, 1000))
    table = agreement(sample, ["(0,0),(100,100)", "(0,0),(100,100)(500,500),(600,600)"], "qwen2_vl")
    assert table[0, 1] == pytest.approx(0.5)


def test_scores_go_back_to_the_answers_they_are_of():
    scorer = Fixed(0.3, -2.0)
    given = score_answers(scorer, asked(), ["b", None, "a", "b"])
    assert given == [0.3, -math.inf, -2.0, 0.3]
    assert [exchange.messages for exchange in scorer.asked] == [
        ({"role": "user", "content": "Where is the dam?"}, {"role": "assistant", "content": text}) for text in "ba"
    ]
    assert all(exchange.images == ("/a.png",) for exchange in scorer.asked)
    assert score_answers(scorer, asked(), [None, None]) == [-math.inf] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_scorer_is_not_ranked_by(bad):
    with pytest.raises(DataError, match="s/1: the scorer gave (nan|inf); expected finite"):
        score_answers(Fixed(0.1, bad), asked(), ["a", "b"])
    with pytest.raises(WrongValues, match="s/1: the scorer returned 1 value for 2"):
        score_answers(Fixed(0.1), asked(), ["a", "b"])


def test_random_scores_depend_on_seed_and_content_alone(tmp_path):
    picture = Image.new("RGB", (8, 8), "red")
    exchanges = [Exchange.of("q", str(n), images=["/a.png"]) for n in range(2000)]
    scores = scorers.RandomScorer(1).score(exchanges)
    assert scores == scorers.RandomScorer(1).score(exchanges[::-1])[::-1]
    assert scores != scorers.RandomScorer(2).score(exchanges)
    assert min(scores) >= 0 and max(scores) < 1
    assert abs(np.mean(scores) - 0.5) < 4 * math.sqrt(1 / 12 / 2000) and len(set(scores)) == 2000
    one, other, none = (Exchange.of("q", "a", images=i) for i in ([picture], ["/a.png"], []))
    assert len(set(scorers.RandomScorer().score([one, other, none]))) == 3


def test_the_score_model_is_known_without_reading_its_weights(tmp_path):
    """From their file's length and time; a checkpoint that is not there is an error at once."""
    with pytest.raises(RecipeError, match="gone"):
        scorers.identity("score", ScorerSection(path=str(tmp_path / "gone")), ClipSection(), 0)
    folder = shutil.copytree(ROOT / "demo/score", tmp_path / "score")

    def identity(**changes):
        return scorers.identity("score", ScorerSection(path=str(folder), **changes), ClipSection(), 0)

    assert identity() == identity(batch_size=99) != identity(positions="sequential")
    assert identity(images=ImageSection(min_pixels=784, max_pixels=1568)) != identity()
    before, weights = identity(), folder / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert identity() != before


def test_an_identity_changes_with_the_checkpoint_and_not_with_the_batch(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    with pytest.raises(RecipeError, match="clip.path: no checkpoint in"):
        scorers.identity("clip", ScorerSection(), ClipSection(path=str(folder)), 0)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")

    def identity(**changes):
        return scorers.identity("clip", ScorerSection(), ClipSection(path=str(folder), **changes), 0)

    first = identity()
    assert first == identity(batch_size=3) != identity(text="exchange")
    (folder / "model.safetensors").write_bytes(b"others")
    assert identity() != first
    assert scorers.identity("random", ScorerSection(), ClipSection(), 0) != scorers.identity(
        "random", ScorerSection(), ClipSection(), 1
    )


def test_a_journal_survives_a_kill(tmp_path):
    """A torn last line is cut off by its owner and passed over by others; parts of other processes count."""
    with journal.Part(tmp_path, "x", 0) as part:
        part.add({"n": 1, "text": "é" * 70_000})  # longer than a block of the search from behind
        part.add({"n": 2})
    with journal.Part(tmp_path, "x", 3) as part:
        part.add({"n": 3})
    path = tmp_path / "x.0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert [record["n"] for record in journal.records(tmp_path, "x")] == [1, 3]
    with journal.Part(tmp_path, "x", 0) as part:
        part.add({"n": 2})
    assert path.read_bytes() == whole
    path.write_bytes(b"torn, and no line before")
    with journal.Part(tmp_path, "x", 0) as part:
        part.add({"n": 4})
    assert path.read_bytes() == b'{"n": 4}\n'
    path.write_bytes(b"edited\n")
    with pytest.raises(DataError, match="x.0.jsonl, line 1: found no JSON"):
        list(journal.records(tmp_path, "x"))


def test_a_file_is_known_by_its_length_and_ends(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"a" * (3 * journal.EDGE))
    before = journal.state_of_file(path)
    assert before == journal.state_of_file(path)
    path.write_bytes(b"a" * (3 * journal.EDGE - 1) + b"b")
    assert journal.state_of_file(path) != before


# exchanges at a time


@pytest.fixture(scope="module")
def exchanges():
    texts = ["yes", "no", "two ships", "a harbour", "none at all"]
    return [Exchange.of("What is there?", text, images=[Image.new("RGB", (56, 56), (9, 90, 9))]) for text in texts]


def scorer_of(**section):
    return scorers.learned(ScorerSection(path=str(ROOT / "demo/score"), dtype="float32", **section))


def test_fewer_exchanges_where_memory_runs_out(exchanges, monkeypatch, caplog):
    """5 at a time fail, 3 fail, 2 fit, and stay; the scores are those of one at a time."""
    expected, tried, real = scorer_of(batch_size=1).score(exchanges), [], ScoreModel.score

    def score(self, asked, batch_size, **how):
        tried.append(batch_size)
        if batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, asked, batch_size, **how)

    monkeypatch.setattr(ScoreModel, "score", score)
    model = scorer_of(batch_size=8)
    assert model.score(exchanges) == pytest.approx(expected, abs=1e-5)
    assert model.score(exchanges[:1]) == pytest.approx(expected[:1], abs=1e-5)
    assert model.score(exchanges) == pytest.approx(expected, abs=1e-5)
    assert tried == [5, 3, 2, 1, 2] and caplog.text.count("the exchanges (scorer.batch_size) at a time; going on") == 2


def test_auto_is_what_fits(exchanges, monkeypatch):
    """At most 64; the demo's score model is small."""
    rooms = []
    for room, size in ((2**50, 64), (0, 1)):
        monkeypatch.setattr(scorers.decoding, "room", lambda weights, room=room: rooms.append(weights) or room)
        model = scorer_of()
        assert model.score(exchanges) == pytest.approx(scorer_of(batch_size=1).score(exchanges), abs=1e-5)
        assert model.size == size
    assert rooms == [0, 0], "its weights are on the device by then"


def test_clip_too(exchanges):
    scorer = ClipScorer.__new__(ClipScorer)
    scorer.batch_size, tried = 4, []

    def batch(some):
        tried.append(len(some))
        if len(some) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [float(len(one.messages[-1]["content"])) for one in some]

    scorer._batch = batch
    assert scorer.score(exchanges) == [3, 2, 9, 9, 11] and tried == [4, 2, 2, 1]


def test_masks_agree_by_their_iou():
    """Of a grid of 2 x 4: the left half, all, nothing, twice; unreadable agrees with none. 4 of 8 cells are .5."""
    sample = asked("segmentation", mask={"size": [56, 112], "counts": "Pa6"}, size=(112, 56))
    left, whole, none = "<seg>1*2,0*2;1*2,0*2;</seg>", "<seg>1*4;1*4;</seg>", "<seg>0*4;0*4;</seg>"
    table = agreement(sample, [left, whole, none, none, "a ship", None], "qwen2_vl", (112, 56))
    expected = np.zeros((6, 6))
    expected[:2, :2] = [[1, 0.5], [0.5, 1]]
    expected[2:4, 2:4] = 1
    assert table == pytest.approx(expected)
