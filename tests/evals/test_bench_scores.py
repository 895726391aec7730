"""The metrics of questions with text answers: RSVQA's types, choices by type, classes, captions."""

import dataclasses
import math
import shutil

import numpy as np
import pytest

from evals.comparing import compare
from evals.predictions import Prediction
from evals.scoring import captions
from evals.scoring.captions import Captions
from evals.scoring.reading import Reading
from evals.scoring.report import as_dict
from evals.scoring.scores import Answers, Choice, Classes, class_key, formatted
from tests.support.scores.scored import ask, said
from vlm.common.errors import DataError

TEXT, TAGS = Reading("qwen2_vl", "text"), Reading("qwen2_vl", "answer")


def test_rsvqa_by_type_with_and_without_counts():
    asked = [
        ask("1", "yes", "yes", "presence"),
        ask("2", "No.", "no", "presence"),
        ask("3", "no", "yes", "comp"),
        ask("4", "yes", "yes", "comp"),
        ask("5", "12", "13", "count"),
        ask("6", "13", "13", "count"),
        ask("7", "4", "13", "count"),
        ask("8", "7", "3", "count"),
        ask("9", "0m2", "3m2", "area"),
    ]
    metrics = Answers(left_out=("count", "area"))(asked, TEXT).metrics
    shares = {"presence": 1, "comp": 1 / 2, "count": 1 / 4, "area": 0}
    assert {kind: metrics[f"vqa/exact[{kind}]"].value for kind in shares} == shares
    assert metrics["vqa/exact"].value == 4 / 9
    assert metrics["vqa/mean_of_kinds"].value == pytest.approx(sum(shares.values()) / 4)
    left = metrics["vqa/mean_of_kinds:no_count_area"]
    assert (left.value, left.n) == (0.75, 4) and "over comp, presence only; count, area left out" in left.convention
    # where nothing is left out there is one mean only
    assert "vqa/mean_of_kinds:no_count_area" not in Answers(left_out=("count",))(asked[:4], TEXT).metrics


def test_a_question_counts_in_each_of_its_types():
    options = ["harbor", "airport"]
    asked = [
        ask("1", "A", "A", "1,11", "choice", options),
        ask("2", "B", "A", "11", "choice", options),
        ask("3", "a harbor, I think", "A", "1", "choice", options),
    ]
    metrics = Choice({"1": "identity", "11": "reasoning"})(asked, TEXT).metrics
    assert metrics["choice/accuracy"].value == 1 / 3
    assert metrics["choice/accuracy[identity]"].value == metrics["choice/accuracy[reasoning]"].value == 1 / 2
    assert metrics["choice/mean_of_kinds"].value == 1 / 2 and metrics["choice/mean_of_kinds"].n == 3


def test_classes_by_hand():
    asked = [
        ask("1", "dense residential", "DenseResidential", task="classification"),
        ask("2", "Dense-Residential.", "dense_residential", task="classification"),
        ask("3", "residential", "dense residential", task="classification"),
        ask("4", "airport and harbor", "airport", task="classification"),
        ask("5", "", "airport", task="classification"),
        ask("6", "Airport", "airport", task="classification"),
    ]
    metrics = Classes()(asked, TEXT).metrics
    assert metrics["classification/accuracy"].value == 3 / 6
    assert metrics["classification/mean_of_classes"].value == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert "the 2 true classes" in metrics["classification/mean_of_classes"].convention
    assert class_key("Storage_Tank") == class_key("storage tank") != class_key("storage tanks")


def test_the_format_counts_where_it_is_asked_for():
    asked = [ask("1", said("a"), "a"), ask("2", "<answer>a</answer>", "a")]
    assert formatted(asked, TAGS).metrics["format"].value == 0.5
    assert not formatted(asked, TEXT).metrics
    assert Answers()(asked, TAGS).metrics["vqa/exact"].value == 1


# captions


def caption(number, text, truth):
    return Prediction(str(number), "c", "caption", text, answer=truth)


CAPTIONS = [
    caption(1, "two ships near the pier", "Two ships lie near the pier."),
    caption(2, "a red roof", "A red roof!"),
    caption(3, "", "Three tanks."),
]


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java", lambda: False)


def test_captions_by_hand(no_java):
    """Words: 5, 3 and 0 said of 6, 3 and 2; right 1-grams 5 + 3, 2-grams 3 + 2 of 4 + 2."""
    metrics = Captions()(CAPTIONS, TEXT).metrics
    brevity = math.exp(1 - 11 / 8)
    assert metrics["caption/bleu1"].value == pytest.approx(brevity * 8 / 8, rel=1e-6)
    assert metrics["caption/bleu2"].value == pytest.approx(brevity * math.sqrt(8 / 8 * 5 / 6), rel=1e-6)
    # longest common subsequences 5, 3, 0: P = 1, R = 5/6 in the first; F = (1 + β²) P R / (R + β² P), β = 1.2
    first = (1 + 1.44) * (5 / 6) / (5 / 6 + 1.44)
    assert metrics["caption/rouge_l"].value == pytest.approx((first + 1 + 0) / 3)
    assert "runs of letters and digits" in metrics["caption/bleu1"].convention


def test_cider_by_hand(no_java):
    """CIDEr-D of two captions without a common n-gram: idf = log 2 throughout, so a caption equal to its reference has
    cosine 1 for each n that it has n-grams of, and another none. The score is ten times the mean over n = 1 … 4."""
    asked = [caption(1, "a red roof", "a red roof"), caption(2, "five planes", "three big tanks here")]
    metrics = Captions()(asked, TEXT).metrics
    assert metrics["caption/cider"].value == pytest.approx((10 * 3 / 4 + 0) / 2)  # three words have no 4-gram
    # "a red": of the three 1-grams two are right, each min(1, 1)·1: 2 / (√2·√3); of the two 2-grams one: 1 / √2;
    # n = 3: 0; one 2-gram fewer (COCO measures length so): times exp(-1² / (2·6²))
    asked[0] = caption(1, "a red", "a red roof")
    expected = 10 * (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    assert Captions()(asked, TEXT).metrics["caption/cider"].value == pytest.approx(expected / 2)


def test_all_references_of_a_caption_count(no_java):
    """BLEU counts an n-gram that any reference has, ROUGE-L takes the best of them (COCO: max P and max R)."""
    two = ["a red roof", "two ships near the pier"]
    asked = [Prediction("1", "c", "caption", "two ships near the pier", answer=two[0], references=two)]
    metrics = Captions()(asked, TEXT).metrics
    for name in ("caption/bleu1", "caption/bleu4", "caption/rouge_l"):
        assert metrics[name].value == pytest.approx(1, rel=1e-6)
    assert "2 references; " in metrics["caption/bleu1"].convention
    alone = Captions()([dataclasses.replace(asked[0], references=two[:1])], TEXT).metrics
    assert alone["caption/bleu1"].value == pytest.approx(0, abs=1e-6) and alone["caption/rouge_l"].value == 0
    assert "one reference; " in alone["caption/bleu1"].convention
    # words from both: "red" from one, "pier" from the other: 2 of 2 right; closest length 3, so brevity e^(1 - 3/2)
    mixed = Captions()([dataclasses.replace(asked[0], completion="red pier")], TEXT).metrics
    assert mixed["caption/bleu1"].value == pytest.approx(math.exp(-0.5), rel=1e-6)
    more = [*asked, Prediction("2", "c", "caption", "ice", answer="ice")]
    assert "1 to 2 references; " in Captions()(more, TEXT).metrics["caption/cider"].convention


def test_cider_of_several_references_is_their_mean(no_java):
    """Two questions; every word is in the references of one of them, so idf = log 2. The caption equals one of two
    references, and has no word in common with the other: (1 + 0) / 2, for n = 1 … 3, of four."""
    asked = [
        Prediction("1", "c", "caption", "a red roof", references=["a red roof", "one big tank"]),
        Prediction("2", "c", "caption", "five planes", references=["three white ships here"]),
    ]
    assert Captions()(asked, TEXT).metrics["caption/cider"].value == pytest.approx((10 * 3 / 4 / 2 + 0) / 2)


def test_resampled_bleu_is_bleu_of_the_resample(no_java):
    """The closed form behind the interval against the library on the very captions that were drawn."""
    report = Captions()(CAPTIONS, TEXT)
    times = [2, 0, 1]
    drawn = [
        Prediction(f"{one.id}/{copy}", "c", "caption", one.completion, answer=one.answer)
        for one, count in zip(CAPTIONS, times, strict=True)
        for copy in range(count)
    ]
    library = Captions()(drawn, TEXT).metrics
    for name in ("caption/bleu1", "caption/bleu2", "caption/bleu3"):
        assert report.statistic(name).of(np.array([times]))[0] == pytest.approx(library[name].value, rel=1e-9)
        assert report.statistic(name).of(np.ones((1, 3)))[0] == pytest.approx(report.metrics[name].value, rel=1e-9)
    low, high = report.intervals["caption/bleu1"]
    assert low < report.metrics["caption/bleu1"].value < high


def test_what_cannot_be_computed_says_why(no_java, monkeypatch):
    report = Captions()(CAPTIONS, TEXT)
    assert "caption/meteor" not in report.metrics
    assert as_dict(report)["caption/meteor"]["value"] is None
    assert "Java program, and no `java`" in as_dict(report)["caption/meteor"]["not_computed"]
    text = compare.markdown({"model": report})
    assert "| caption/meteor |  | not computed |" in text and "- caption/meteor: not computed: METEOR 1.5" in text
    monkeypatch.setattr(captions, "installed", lambda: False)
    report = Captions()(CAPTIONS, TEXT)
    assert not report.metrics and set(report.missing) == {*captions.NAMES, captions.METEOR}
    report = Answers(not_computed={"vqa/wups": "no WordNet"})([ask("1", "a", "a")], TEXT)
    assert report.missing == {"vqa/wups": "no WordNet"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and COCO's tokeniser are Java programs")
def test_with_java():
    """COCO's tokeniser agrees with ours on plain words, and METEOR gives what is published for equal sentences: 1."""
    plain = [caption(1, "two ships near the pier", "two ships near the pier"), caption(2, "a red roof", "a red roof")]
    with_java = Captions()(plain, TEXT).metrics
    assert with_java["caption/meteor"].value == pytest.approx(1.0)
    assert "Stanford PTB" in with_java["caption/bleu1"].convention
    assert with_java["caption/bleu3"].value == pytest.approx(1.0)


def test_a_caption_without_its_reference_is_refused():
    with pytest.raises(DataError, match="'c/1': no 'answer'"):
        Captions()([caption(1, "x", None)], TEXT)
