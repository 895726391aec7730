"""evals.scoring.metrics: numbers worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.scoring.metrics import CONVENTIONS, evaluate
from evals.scoring.report import Metric, as_dict
from tests.support.scores.scored import GROUNDING, ask, ground, said
from vlm.common.errors import DataError


def test_grounding_by_hand():
    report = evaluate(GROUNDING, "qwen2_vl")
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["grounding/acc@0.5"] == 3 / 10
    assert values["grounding/acc@0.7"] == 2 / 10
    assert values["grounding/miou"] == pytest.approx((1 + 0.5 + 0.8 + 1 / 3) / 10, abs=1e-15)
    assert values["format"] == 7 / 10
    assert {metric.n for metric in report.metrics.values()} == {10}
    assert set(values) == {"grounding/acc@0.5", "grounding/acc@0.7", "grounding/miou", "format"}


def test_the_whole_completion_as_the_answer():
    report = evaluate([GROUNDING[7], ground("x", said("(0,0),(100,100)"))], "qwen2_vl", inside="text")
    assert report.metrics["grounding/acc@0.5"].value == 0.5
    assert "format" not in report.metrics
    assert "the whole completion" in report.metrics["grounding/miou"].convention
    report = evaluate([ask("1", " Two.\n", "two")], "vhm", inside="text")
    assert report.metrics["vqa/exact"].value == 1


def test_width_and_height_are_not_swapped():
    # 100 per mille of 800 x 400 pixels are 80 and 40 pixels.
    wide = [ground("w", said("[[000,000,100,100]]"), truth=[(0, 0, 80, 40)], size=(800, 400))]
    assert evaluate(wide, "vhm").metrics["grounding/miou"].value == 1


def test_several_true_boxes_match_one_to_one():
    truth = [(0, 0, 100, 100), (200, 0, 300, 100)]
    swapped_and_half = ground("a", said("(200,0),(250,100),(0,0),(100,100)"), truth)  # (0.5 + 1) / 2
    one_missing = ground("b", said("(0,0),(100,100)"), truth)
    report = evaluate([swapped_and_half, one_missing], "qwen2_vl")
    assert report.metrics["grounding/miou"].value == 0.75 / 2


def test_vqa_by_hand():
    asked = [
        ask("1", said("2"), "2", "count"),
        ask("2", said("3.5"), "35", "count"),  # fault 7: a full stop is not nothing
        ask("3", said("12"), "2", "count"),
        ask("4", said(""), "7", "count"),  # fault 8: empty is not right
        ask("5", said("Yes."), "yes", "presence"),
        ask("6", said("\n yes \n"), "yes", "presence,urban"),  # fault 3: over several lines
        ask("7", said("yes no"), "yes", "urban"),  # fault 8: an echo of all answers
        ask("8", "yes", "yes"),  # outside the tags
    ]
    report = evaluate(asked, "qwen2_vl")
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["vqa/exact"] == 3 / 8
    assert values["vqa/exact[count]"] == 1 / 4
    assert values["vqa/exact[presence]"] == 1
    assert values["vqa/exact[urban]"] == 1 / 2  # question 6 counts in both of its types
    assert values["vqa/mean_of_kinds"] == pytest.approx((1 / 4 + 1 + 1 / 2) / 3)
    assert report.metrics["vqa/exact[urban]"].n == 2
    assert report.metrics["vqa/mean_of_kinds"].n == 7  # question 8 has no type


def test_choice_and_classification_by_hand():
    options = ["harbor", "airport", "satellite image"]
    texts = {
        "B": 1,
        "(b)": 1,
        "airport": 1,
        "B. Airport.": 1,
        "A satellite image": 0,
        "A B C": 0,
        "A": 0,
        "": 0,
    }
    asked = [ask(text, said(text), "airport", task="choice", choices=options) for text in texts]
    report = evaluate(asked, "qwen2_vl")
    assert [float(j.correct) for j in report.judgements] == list(texts.values())
    assert report.metrics["choice/accuracy"].value == 4 / 8
    classes = [
        ask("1", said("Harbor"), "harbor", task="classification"),
        ask("2", said("x"), "y", task="caption"),
    ]
    report = evaluate(classes, "qwen2_vl")
    assert report.metrics["classification/accuracy"] == Metric(
        1.0, 1, "exact match after normalising; empty = wrong; read from the one <answer>"
    )
    names = {"classification/accuracy", "classification/accuracy:lenient", "format"}
    assert set(report.metrics) == names  # captions are not scored here


def test_every_number_says_its_convention():
    report = evaluate([*GROUNDING, ask("1", said("a"), "a", "k")], "qwen2_vl")
    for name, entry in as_dict(report).items():
        assert CONVENTIONS[name.partition("[")[0]] in entry["convention"]
    text = report.metrics["grounding/acc@0.5"].convention
    assert "IoU >= 0.5" in text and "plain IoU" in text and "kept in the denominator" in text and "qwen2_vl" in text


def test_what_cannot_be_scored():
    with pytest.raises(DataError, match="no predictions"):
        evaluate([], "vhm")
    with pytest.raises(DataError, match="'g/same' was predicted twice"):
        evaluate([GROUNDING[0]] * 2, "vhm")
    with pytest.raises(DataError, match="'g/1': no 'boxes', which grounding is scored by"):
        evaluate([ground("1", "", truth=[])], "vhm")
    with pytest.raises(DataError, match="no 'answer'"):
        evaluate([ask("1", "x", None)], "vhm")
    with pytest.raises(DataError, match="not among"):
        evaluate([ask("1", "A", "C", task="choice", choices=["x", "y"])], "vhm")
    with pytest.raises(DataError, match="unknown metric 'acc'; metrics are grounding/acc@0.5"):
        evaluate(GROUNDING, "vhm").groups("acc")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5), st.sampled_from(["answer", "text"]))
def test_any_text_gives_shares(texts, inside):
    asked = [ground(str(number), text) for number, text in enumerate(texts)]
    for metric in evaluate(asked, "qwen2_vl", inside).metrics.values():
        assert 0 <= metric.value <= 1 and metric.n == len(texts)
