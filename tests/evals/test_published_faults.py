"""Faults of the published ScoreRS code (github.com/NJU-LHRS/ScoreRS), each with the right behaviour here."""

from __future__ import annotations

from collections import defaultdict

import pytest
from PIL import Image

import rewards
from evals import predictions
from evals.scoring import metrics
from vlm import answers
from vlm.boxes import convert, read_boxes, write_boxes
from vlm.pictures import images

SIZE = (800, 800)
BOX, OTHER = [80.0, 160, 400, 640], [480.0, 80, 720, 240]


def r1(answer: str) -> str:
    return f"<think>It lies by the pier.</think>\n<answer>{answer}</answer>"


def grounding(text: str, truth: list[list[float]]) -> float | None:
    return rewards.iou(completions=[text], boxes=[truth], size=[SIZE], task=["grounding"])[0]


def vqa(text: str, truth: str) -> float | None:
    return rewards.exact_match(completions=[text], answer=[truth], task=["vqa"])[0]


def multiple_choice(text: str, truth: str = "A") -> float | None:
    choices = ["airport", "harbor", "farmland", "desert"]
    return rewards.choice(completions=[text], answer=[truth], choices=[choices], task=["choice"])[0]


def test_fault_1_a_perfect_box_in_qwen_notation_earns_1():
    """Published: `(x1,y1),(x2,y2)` in a prediction scores 0 even when perfect."""
    assert grounding(r1("(100,200),(500,800)"), [BOX]) == 1.0
    assert grounding(r1("<|box_start|>(100,200),(500,800)<|box_end|>"), [BOX]) == 1.0


def test_fault_2_two_perfect_boxes_earn_1():
    """Published: 1.5, because the sum over boxes is not divided."""
    assert grounding(r1("(100,200),(500,800)(600,100),(900,300)"), [BOX, OTHER]) == 1.0
    assert grounding(r1("(600,100),(900,300)(100,200),(500,800)"), [BOX, OTHER]) == 1.0  # in either order
    gated = rewards.resolve("gated", tasks={"grounding": {"use": "iou", "steps": "graduated"}})
    row = {"boxes": [[BOX, OTHER]], "size": [SIZE], "task": ["grounding"]}
    assert gated(completions=[r1("(100,200),(500,800)(600,100),(900,300)")], **row) == [1.0]


def test_fault_3_an_answer_over_several_lines_is_read():
    """Published: exact match gives 0, and the whole reasoning stands in for the answer."""
    assert vqa("<think>t</think>\n<answer>\ntwo\nships\n</answer>", "two ships") == 1.0
    parsed = answers.parse("<think>one,\ntwo</think>\n<answer>\nA pier\nwith ships\n</answer>")
    assert parsed == answers.Parsed("one,\ntwo", "A pier\nwith ships", True)


def test_fault_4_a_trailing_newline_passes_and_a_second_answer_fails():
    """Published: the other way round."""
    assert rewards.format(completions=[r1("2") + "\n", r1("2") + "\n<answer>3</answer>"]) == [1.0, 0.0]
    assert vqa(r1("2") + "<answer>3</answer>", "2") == 0.0
    assert vqa(r1("2") + "<answer>3</answer>", "3") == 0.0


@pytest.mark.parametrize(
    ("box", "text"),
    [
        ([0, 160, 400, 640], "(0,200),(500,800)"),  # x1 = 0
        ([0, 0, 800, 800], "(0,0),(1000,1000)"),
        ([0, 0, 0.8, 0.8], "(0,0),(1,1)"),  # looks like fractions of the image, and is not
    ],
)
def test_fault_5_the_frame_is_declared_not_guessed(box, text):
    """Published: per mille or fraction is guessed from x1 < 1."""
    assert read_boxes(text, "qwen2_vl", SIZE) == [pytest.approx(box)]
    assert grounding(r1(text), [box]) == pytest.approx(1.0)
    assert read_boxes(write_boxes([box], "qwen2_vl", SIZE), "qwen2_vl", SIZE) == [pytest.approx(box)]
    assert convert(convert(box, "pixel", "unit", SIZE), "unit", "pixel", SIZE) == pytest.approx(box)


def test_fault_6_metric_names_do_not_depend_on_the_outcome():
    """Published: names differ between pass and fail, so that every logged mean is conditional."""

    def logged(completion: str) -> dict[str, list[float]]:
        metrics = defaultdict(list)
        rewards.resolve("gated")(
            completions=[completion],
            answer=["2"],
            task=["vqa"],
            log_metric=lambda name, x: metrics[name].append(x),
        )
        return metrics

    right, wrong, unformatted = logged(r1("2")), logged(r1("3")), logged("<answer>2</answer>")
    assert set(right) == set(wrong) == set(unformatted)
    name = "reward_raw/vqa"
    assert (right[name], wrong[name], unformatted[name]) == ([1.0], [0.0], [1.0])  # before the gate
    assert [values["reward_raw/format"] for values in (right, wrong, unformatted)] == [[1.0], [1.0], [0.0]]


def test_fault_7_only_the_sentence_full_stop_is_removed():
    """Published: every full stop is deleted, and "3.5" equals "35"."""
    assert vqa(r1("3.5"), "35") == 0.0
    assert vqa(r1("35"), "3.5") == 0.0
    assert vqa(r1("3."), "3") == 1.0
    assert vqa(r1("3.5"), "3.5.") == 1.0


def test_fault_8_empty_and_echoed_predictions_earn_nothing():
    """Published: `prediction in answer` and the like make both correct."""
    for empty in ("", "\n", r1(""), r1(" \n"), r1(".")):
        assert vqa(empty, "two ships") == 0.0
        assert vqa(empty, "") == 0.0
        assert multiple_choice(empty) == 0.0
        assert grounding(empty, [BOX]) == 0.0
    echoes = [
        "A. airport B. harbor C. farmland D. desert",
        "A, B, C, D",
        "ABCD",
        "airport, harbor, farmland, desert",
    ]
    for echo in echoes:
        assert [multiple_choice(r1(echo), truth) for truth in "ABCD"] == [0.0] * 4
    assert vqa(r1("yes no"), "yes") == 0.0
    assert vqa(r1("ships"), "two ships") == 0.0


def test_fault_9_a_letter_in_a_sentence_is_no_choice():
    """Published: the first A–E anywhere counts, so that "A satellite image…" is A."""
    assert multiple_choice(r1("A satellite image of an airport")) == 0.0
    assert multiple_choice(r1("Certainly: airport"), "C") == 0.0
    for named in ("A", "(A)", "A.", "A. airport", "airport"):
        assert multiple_choice(r1(named)) == 1.0


def test_fault_14_unparsable_boxes_stay_in_the_denominator_and_width_comes_first(tmp_path):
    """One right box and one answer without any: half right. On a 200 × 100 picture a swapped size would miss."""
    truth = [20.0, 40.0, 180.0, 60.0]
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    size = images.size(str(tmp_path / "wide.png"))
    assert size == (200, 100)
    common = {"source": "vg", "task": "grounding", "boxes": [truth], "size": size}
    rows = [
        predictions.Prediction(id="1", completion=r1("(100,400),(900,600)"), **common),
        predictions.Prediction(id="2", completion=r1("by the pier"), **common),
    ]
    report = metrics.evaluate(rows, "qwen2_vl")
    assert report.metrics["grounding/acc@0.5"].value == 0.5 and report.metrics["grounding/acc@0.5"].n == 2
    assert report.metrics["grounding/miou"].value == pytest.approx(0.5)
