"""Numbers about several dates: TEOChat's, GEOBench-VLM's, Change-Agent's. Values by hand or by loops over pixels."""

from collections import defaultdict

import numpy as np
import pytest

from evals.predictions import Prediction
from evals.scoring import captions
from evals.scoring.reading import Reading
from evals.scoring.temporal import DAMAGE, AreaF1, Changed, Paraphrases, Spelt, UnionF1, clean, framed
from vlm.boxes import write_boxes
from vlm.masks import runs_of

NOTATION = "geochat"
READING = Reading(NOTATION, "text")


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java", lambda: False)


def said(number, completion, task, **more):
    return Prediction(id=str(number), source="s", task=task, completion=completion, **more)


def values(scores):
    return {name: metric.value for name, metric in scores.metrics.items()}


# accuracy


def test_accuracy_without_case_and_punctuation():
    assert clean(" Top-left. ") == "topleft"
    rows = [
        said(0, "Airport.", "classification", answer="airport", kind="scene"),
        said(1, "a dam", "classification", answer="dam", kind="scene"),
        said(2, "yes", "vqa", answer="Yes", kind="question_answering"),
        said(3, "", "vqa", answer="!", kind="question_answering"),
        said(4, "It is at the top left.", "vqa", answer="Top left", kind="question_answering"),
        said(5, "It is at the top left.", "vqa", answer="Top left", kind="region"),
    ]
    found = values(Spelt()(rows, READING))
    assert found["classification/accuracy:teochat"] == found["classification/accuracy:teochat[scene]"] == 0.5
    assert found["vqa/accuracy:teochat"] == 0.25 and found["vqa/accuracy:teochat[question_answering]"] == 1 / 3
    with_words = Spelt({"question_answering": ("yes", "top left")})(rows, READING)
    assert values(with_words)["vqa/accuracy:teochat[question_answering]"] == pytest.approx(2 / 3)
    assert values(with_words)["vqa/accuracy:teochat[region]"] == 0
    assert "both hold one of yes, top left" in with_words.metrics["vqa/accuracy:teochat"].convention


# boxes


def grid(box, side=256):
    """The pixels that Pillow fills of an upright box, both ends of whole pixels in."""
    x1, y1, x2, y2 = (round(value) for value in box)
    pixels = np.zeros((side, side), bool)
    pixels[y1 : y2 + 1, x1 : x2 + 1] = True
    return pixels


def answered(number, boxes, true, mask=None, size=(256, 256), kind="x"):
    text = "none" if boxes is None else write_boxes(boxes, NOTATION, size, None)
    return said(number, text, "grounding", boxes=true, size=size, mask=mask, kind=kind)


def test_union_f1_is_of_all_pixels_together():
    """Boxes at whole percents of 200 pixels: in the frame of 256, 50 percent is 128."""
    rows = [
        answered(0, [[0, 0, 100, 100], [0, 0, 100, 50]], [[0, 0, 100, 100]], size=(200, 200)),  # twice the same pixels
        answered(1, [[100, 0, 200, 100]], [[0, 0, 100, 100]], size=(200, 200)),
        answered(2, None, [[0, 0, 200, 100]], size=(200, 200)),
    ]
    true = [grid([0, 0, 128, 128]), grid([0, 0, 128, 128]), grid([0, 0, 256, 128])]
    told = [grid([0, 0, 128, 128]), grid([128, 0, 256, 128]), np.zeros((256, 256), bool)]
    both = sum(int((a & b).sum()) for a, b in zip(true, told, strict=True))
    union = sum(int((a | b).sum()) for a, b in zip(true, told, strict=True))
    precision, recall = both / sum(one.sum() for one in told), both / sum(one.sum() for one in true)
    scores = UnionF1()(rows, READING)
    assert values(scores)["grounding/union_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert values(scores)["grounding/union_iou"] == pytest.approx(both / union)
    assert "true are the true boxes" in scores.metrics["grounding/union_f1"].convention
    assert values(UnionF1()(rows[:1], READING))["grounding/union_f1"] == 1


def test_the_polygon_is_the_truth_where_there_is_one():
    """A half of the box's pixels is the object."""
    pixels = grid([0, 0, 127, 127])
    half = pixels & (np.arange(256) < 64)
    row = answered(0, [[0, 0, 127.0, 127.0]], [[0, 0, 128, 128]], runs_of(half))
    scores = UnionF1(not_computed={"x": "y"})([row], READING)
    stated = grid([0, 0, 126.72 + 0.28, 127])  # 127 of 256 is 49.6 percent: geochat writes 50, which is 128
    stated = grid([0, 0, 128, 128])
    both = int((stated & half).sum())
    assert values(scores)["grounding/union_f1"] == pytest.approx(2 * both / int(stated.sum() + half.sum()))
    assert "true are the polygons" in scores.metrics["grounding/union_f1"].convention and scores.missing == {"x": "y"}


def test_masks_are_sampled_at_centres():
    assert (framed(grid([10, 20, 30, 40])) == grid([10, 20, 30, 40])).all()
    quarter = np.zeros((512, 128), bool)
    quarter[:256, :64] = True
    assert (framed(quarter) == grid([0, 0, 127, 127])).all()


# regions


def region(number, completion, answer, pixels, kind="change_detection_classification"):
    mask = np.zeros((256, 256), bool)
    mask.reshape(-1)[:pixels] = True
    return said(number, completion, "classification", answer=answer, kind=kind, mask=runs_of(mask), size=(256, 256))


ROWS = [
    region(0, "No damage", "No damage", 4000),
    region(1, "no-damage", "No damage", 1000),
    region(2, "Destroyed.", "destroyed", 100),
    region(3, "minor damage", "destroyed", 300),
    region(4, "I cannot see it", "major damage", 50),
    region(5, "No damage", "un-classified", 999),
]


def teochat(rows, inverse, lost):
    """Per class, pixel by pixel sums in a loop; lost: whether an answer that is no class misses its pixels."""
    stats = defaultdict(lambda: defaultdict(float))
    for text, answer, pixels in rows:
        stats[answer]["count"] += pixels
        if text in DAMAGE:
            stats[text]["tp"] += pixels * (text == answer)
            stats[text]["fp"] += pixels * (text != answer)
        if text in DAMAGE or lost:
            stats[answer]["fn"] += pixels * (text != answer)
    total, weights, value = sum(stats[name]["count"] for name in DAMAGE), 0.0, 0.0
    for name in DAMAGE:
        one = stats[name]
        f1 = 2 * one["tp"] / (2 * one["tp"] + one["fp"] + one["fn"]) if one["tp"] else 0.0
        share = one["count"] / total
        weight = share if not inverse else 1 / share if share else 0
        weights, value = weights + weight, value + weight * f1
    return value / weights


@pytest.mark.parametrize("inverse", [False, True])
def test_classes_weigh_by_pixels(inverse):
    score = AreaF1({"change_detection_classification": DAMAGE}, inverse, ("unclassified",))
    found = score(ROWS, READING)
    plain = [
        ("no damage", "no damage", 4000), ("no damage", "no damage", 1000), ("destroyed", "destroyed", 100),
        ("minor damage", "destroyed", 300), ("", "major damage", 50),
    ]  # fmt: skip
    name = "classification/weighted_f1[change_detection_classification]"
    assert values(found)[name] == pytest.approx(teochat(plain, inverse, lost=True))
    assert values(found)[f"{name}:teochat"] == pytest.approx(teochat(plain, inverse, lost=False))
    assert found.metrics[name].n == 5 and ("the inverse of" in found.metrics[name].convention) == inverse
    low, high = found.intervals[name]
    assert 0 <= low <= values(found)[name] <= high <= 1


def test_an_answer_that_is_no_class_costs_something_with_us():
    """Major damage alone, half of it unread: TEOChat's script gives 1, ours 2·50 / (50 + 100)."""
    rows = [region(0, "major damage", "major damage", 50), region(1, "what?", "major damage", 50)]
    found = values(AreaF1({"change_detection_classification": DAMAGE})(rows, READING))
    name = "classification/weighted_f1[change_detection_classification]"
    assert found == {name: pytest.approx(2 / 3), f"{name}:teochat": 1.0}


def test_what_weighs_nothing_is_not_computed():
    bare = said(0, "road", "classification", answer="road", kind="rqa")
    found = AreaF1({"rqa": ("road",)})([bare], READING)
    assert found.missing["classification/weighted_f1[rqa]"].startswith("1 of 1 questions, such as '0', have no polygon")
    odd = AreaF1({"change_detection_classification": ("road",)})(ROWS[:1], READING)
    assert "the true class 'No damage' is none of road" in next(iter(odd.missing.values()))
    assert not AreaF1({"other": ("road",)})([bare], READING).found


# paraphrases


def test_items_count_alike():
    """Of item 1 one of two paraphrases is right, of item 2 one of one: (1/2 + 1) / 2."""
    more = {"choices": ["harbor", "dam"], "answer": "B"}
    rows = [
        said("1/1", "B. dam", "choice", kind="Scene", **more),
        said("1/2", "harbor", "choice", kind="Scene", **more),
        said("2/1", "B", "choice", kind="Count", **more),
    ]
    found = values(Paraphrases()(rows, READING))
    assert found["choice/accuracy:paraphrases"] == found["choice/accuracy:geobench_vlm"] == 0.75
    assert found["choice/accuracy:paraphrases[Scene]"] == 0.5 and found["choice/mean_of_kinds:paraphrases"] == 0.75
    named = [said("1/1", "dam", "choice", **more), said("1/2", "A dam", "choice", **more)]
    found = values(Paraphrases()(named, READING))
    assert (found["choice/accuracy:paraphrases"], found["choice/accuracy:geobench_vlm"]) == (0.5, 0)


# captions of change


def test_captions_by_whether_something_changed():
    pytest.importorskip("pycocoevalcap")
    same, road = "The scene is the same as before .", "a road is built in the desert"
    rows = [
        said(0, road, "caption", references=[road, "a road appears"], kind="change"),
        said(1, same, "caption", references=["a house is built at the left side", "houses appear"], kind="change"),
        said(2, same, "caption", references=[same, "there is no difference ."], kind="no change"),
    ]
    found = Changed()(rows, READING)
    assert values(found)["caption/bleu4[no change]"] == pytest.approx(1, abs=1e-3)
    assert values(found)["caption/told[change]"] == 0.5 and values(found)["caption/told[no change]"] == 1
    part = captions.Captions()(rows[:2], READING)
    for name in ("caption/cider", "caption/rouge_l", "caption/bleu1"):
        assert values(found)[f"{name}[change]"] == values(part)[name]
    assert "caption/meteor[change]" in found.missing and found.metrics["caption/cider"].n == 3
