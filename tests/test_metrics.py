"""evals: numbers worked out by hand, and the bootstrap against closed forms."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from evals import compare, metrics, predictions
from evals.metrics import CONVENTIONS, Judgement, Report, evaluate
from evals.predictions import Prediction
from vlm.errors import DataError
from vlm.samples import Sample


def said(answer, trace="because"):
    return f"<think>{trace}</think><answer>{answer}</answer>"


def ground(id, completion, truth=((0, 0, 100, 100),), size=(1000, 1000)):
    return Prediction(id, "g", "grounding", completion, boxes=[list(box) for box in truth], size=size)


def ask(id, completion, answer, kind=None, task="vqa", choices=None):
    return Prediction(id, task, task, completion, kind=kind, answer=answer, choices=choices)


# The image is 1000 x 1000, so per mille are pixels; the truth is 0,0,100,100 (area 10,000).
GROUNDING = [
    ground("same", said("(0,0),(100,100)")),  # IoU 1
    ground("half", said("(0,0),(50,100)")),  # 5,000 / 10,000 = 0.5: a hit at >= 0.5 (a miss with the "+1" rule's >)
    ground("four fifths", said("(0,0),(100,80)")),  # 0.8
    ground("third", said("(50,0),(150,100)")),  # 5,000 / 15,000
    ground("unparsable", said("the dam")),
    ground("inverted", said("(100,100),(0,0)")),
    ground("two boxes", said("(0,0),(100,100),(0,0),(50,50)")),
    ground("no tags", "(0,0),(100,100)"),
    ground("two answers", said("(0,0),(100,100)") + "<answer>(0,0),(1,1)</answer>"),
    ground("empty", ""),
]


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
    assert report.metrics["classification/accuracy"] == metrics.Metric(
        1.0, 1, "exact match after normalising; empty = wrong; read from the one <answer>"
    )
    assert set(report.metrics) == {"classification/accuracy", "format"}  # captions are not scored here


def test_every_number_says_its_convention():
    report = evaluate([*GROUNDING, ask("1", said("a"), "a", "k")], "qwen2_vl")
    for name, entry in report.to_dict().items():
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


# --- predictions.jsonl ------------------------------------------------------------


def test_predictions_round_trip(tmp_path):
    written = [*GROUNDING, ask("1", "x\u2028y", "é", "k", "choice", ["é", "b"])]
    path = tmp_path / "predictions.jsonl"
    assert predictions.write(path, iter(written)) == 11
    assert predictions.read(path) == written


def test_an_unfinished_last_line_is_cut_off(tmp_path):
    path = tmp_path / "predictions.jsonl"
    predictions.write(path, GROUNDING)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])  # killed while it wrote the tenth
    with pytest.raises(DataError, match="line 10: found no JSON"):
        predictions.read(path)
    assert predictions.resume(path) == GROUNDING[:9]
    with path.open("a") as file:
        file.write(predictions.line(GROUNDING[9]) + "\n")
    assert path.read_bytes() == whole and predictions.resume(path) == GROUNDING


def test_a_prediction_from_a_sample():
    chat = [
        {"role": "user", "content": "the dam"},
        {"role": "assistant", "content": "no truth in the prompt"},
    ]
    sample = Sample(["/x/a.png"], chat, "grounding", boxes=[[1, 2, 3, 4]], size=(9, 9), source="s", id="7")
    prediction = predictions.from_sample(sample, "done")
    assert prediction == Prediction(
        "7", "s", "grounding", "done", "the dam", boxes=[[1, 2, 3, 4]], size=(9, 9), image="/x/a.png"
    )
    sample.images = [b"..."]
    assert predictions.from_sample(sample, "done").image is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": None}, "line 1, field 'completion': found none"),
        ({"id": 3}, "field 'id': found 3"),
        ({"task": "x"}, "field 'task': found 'x', expected one of grounding"),
        ({"boxes": [[1, 2, 3]]}, "field 'boxes'"),
        ({"size": [0, 5]}, "field 'size'"),
        ({"choices": "ab"}, "field 'choices'"),
    ],
)
def test_faulty_predictions(tmp_path, change, message):
    good = {"id": "1", "source": "s", "task": "vqa", "completion": "x", "answer": "y"}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(good | change) + "\n")
    with pytest.raises(DataError, match=message):
        predictions.read(path)
    path.write_text(2 * (json.dumps(good) + "\n"))
    with pytest.raises(DataError, match="line 2, field 'id': 's/1' is also on line 1"):
        predictions.read(path)


# --- comparison -------------------------------------------------------------------


def run(values, kinds=None):
    """A report whose vqa/exact of question i is values[i]."""
    kinds = [()] * len(values) if kinds is None else kinds
    judged = [Judgement(f"q{i}", "vqa", kinds[i], correct=bool(v)) for i, v in enumerate(values)]
    return Report(judged, "vhm", "answer")


def ious(values):
    return Report([Judgement(f"q{i}", "grounding", iou=float(v)) for i, v in enumerate(values)], "vhm", "answer")


def test_paired_equals_the_normal_interval_for_many_questions():
    rng = np.random.default_rng(1)
    a = rng.random(2000) < 0.5
    b = np.where(rng.random(2000) < 0.8, a, rng.random(2000) < 0.7)  # answers mostly alike: a paired design
    found = compare.paired(run(a), run(b), "vqa/exact")
    delta = b.astype(float) - a
    half = 1.959964 * delta.std() / np.sqrt(2000)
    assert found.difference == pytest.approx(delta.mean(), abs=1e-12)
    assert (found.a, found.b) == pytest.approx((a.mean(), b.mean()))
    assert found.low == pytest.approx(delta.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(delta.mean() + half, abs=0.05 * half)
    unpaired = 1.959964 * np.sqrt((a.var() + b.var()) / 2000)
    assert half < 0.6 * unpaired  # why pairs are compared
    assert found == compare.paired(run(a), run(b), "vqa/exact")  # seeded
    assert (found.n, found.seeds) == (2000, 1)


def test_paired_is_exact_where_enumeration_is_possible():
    # Differences 0, 0, 1: a resample's mean is k/3, k ~ Binomial(3, 1/3), P(k=0) = 8/27, P(k=3) = 1/27.
    found = compare.paired(ious([0.2, 0.5, 0]), ious([0.2, 0.5, 1]), "grounding/miou", level=0.9)
    assert (found.low, found.high) == pytest.approx((0, 2 / 3), abs=1e-12)  # 5%: 0; 95%: 26/27 of mass is <= 2/3
    found = compare.paired(ious([0.2, 0.5, 0]), ious([0.2, 0.5, 1]), "grounding/miou", level=0.99)
    assert (found.low, found.high) == pytest.approx((0, 1), abs=1e-12)


def test_equal_runs_and_constant_gains_have_no_width():
    same = compare.paired(run([1, 0, 1]), run([1, 0, 1]), "vqa/exact")
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    gain = compare.paired(ious([0.1, 0.2, 0.3]), ious([0.3, 0.4, 0.5]), "grounding/miou")
    assert (gain.low, gain.high) == pytest.approx((0.2, 0.2))


def test_seeds_are_a_level_of_their_own():
    # No spread between questions: seed s gains s/4 everywhere. Resampled: means of 3 draws of 0, 1/4, 1/2.
    # Variance 1/24 / 3; the lowest mean, 0, has 1/27 > 2.5% of the mass, the highest, 1/2, as much.
    a = ious([0.0] * 40)
    found = compare.paired(a, [ious([gain] * 40) for gain in (0, 0.25, 0.5)], "grounding/miou")
    assert (found.seeds, found.n, found.difference) == (3, 40, 0.25)
    assert (found.low, found.high) == pytest.approx((0, 0.5))
    # No spread between seeds: three equal runs tell no more than one: questions are resampled jointly.
    rng = np.random.default_rng(2)
    a, b = rng.random(1000), rng.random(1000)
    one = compare.paired(ious(a), ious(b), "grounding/miou")
    three = compare.paired([ious(a)] * 3, [ious(b)] * 3, "grounding/miou")
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_mean_of_kinds_weighs_types_equally():
    # 900 questions of one type without a gain, 100 of another with a gain of 1/2: by types the gain is 1/4.
    kinds = [("x",)] * 900 + [("y",)] * 100
    a, b = run([0] * 1000, kinds), run([0] * 900 + [0, 1] * 50, kinds)
    found = compare.paired(a, b, "vqa/mean_of_kinds")
    assert (found.a, found.b, found.n) == (0, 0.25, 1000)
    half = 1.959964 * 0.5 * np.sqrt(0.25 / 100)  # half the standard error of a share of 1/2 over 100 questions
    assert found.low == pytest.approx(0.25 - half, abs=0.1 * half)
    assert found.high == pytest.approx(0.25 + half, abs=0.1 * half)


def test_what_cannot_be_compared():
    with pytest.raises(DataError, match="1 questions are in one run only"):
        compare.paired(run([1, 0]), run([1, 0, 1]), "vqa/exact")
    with pytest.raises(DataError, match="applies to no question; there are vqa/exact"):
        compare.paired(run([1]), run([1]), "grounding/miou")
    with pytest.raises(DataError, match="found 2 runs against 3"):
        compare.paired([run([1])] * 2, [run([1])] * 3, "vqa/exact")
    with pytest.raises(DataError, match="different types"):
        compare.paired(run([1, 0], [("x",), ("y",)]), run([1, 0], [("y",), ("x",)]), "vqa/mean_of_kinds")


def test_difference_reads_as_a_sentence():
    found = compare.Difference("vqa/exact", 0.5, 0.562, 0.062, 0.01, 0.1144, 0.95, 200, 3)
    assert str(found) == ("vqa/exact 50.0 -> 56.2: +6.2 points [+1.0, +11.4] (95% paired, n = 200, 3 seeds)")


def test_tables_hold_the_numbers_and_the_conventions():
    reports = {"base": run([1, 0, 0, 0], [("x",)] * 4), "SFT": evaluate(GROUNDING, "qwen2_vl")}
    text = compare.markdown(reports)
    assert "| metric (%) | n | base | SFT |" in text
    assert "| grounding/acc@0.5 | 10 | – | 30.0 |" in text
    assert "| vqa/exact[x] | 4 | 25.0 | – |" in text
    assert "- grounding/acc@0.5: IoU >= 0.5, plain IoU" in text
    assert text.index("grounding/miou") < text.index("vqa/exact") < text.index("vqa/exact[x]")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(compare.table(reports, title="demo"))
    shown = console.export_text()
    assert "demo" in shown and "grounding/acc@0.5" in shown and "vqa/exact[x]" in shown and "30.0" in shown
