"""evals.published: EarthDial's published answers are read as predictions, with all of their truth."""

import pytest

from evals import predictions
from evals.predictions import Prediction
from evals.scoring import captions
from evals.scoring.captions import Captions
from evals.scoring.reading import Reading
from evals.scoring.scores import Answers
from tests.support.sample_rows import dump
from vlm.common.errors import DataError

ASKED = "[caption] [hr_rgb_0.5] <image> \\n Could you please provide the caption for the input image?"
CAPTION = {
    "question": ASKED,
    "answer": "a red roof",
    "caption0": "two ships",
    "caption1": "a red roof",
    "caption2": "ice",
}
TEXT = Reading("qwen2_vl", "text")


def test_captions_with_all_their_references(tmp_path, monkeypatch):
    (found,) = predictions.read(dump(tmp_path / "predictions.jsonl", [CAPTION]))
    references = ["two ships", "a red roof", "ice"]
    assert found == Prediction("#1", tmp_path.name, "caption", "a red roof", ASKED, references=references)
    monkeypatch.setattr(captions, "java", lambda: False)
    metrics = Captions()([found], TEXT).metrics
    assert metrics["caption/bleu1"].value == pytest.approx(1, rel=1e-6)
    assert "3 references; " in metrics["caption/bleu1"].convention


def test_captions_that_say_nothing_are_no_references(tmp_path):
    """EarthDial writes a single truth so, of disasters and the like."""
    row = CAPTION | {"answer": "flood", "caption0": "flood", "caption1": "", "caption2": ""}
    (found,) = predictions.read(dump(tmp_path / "predictions.jsonl", [row]))
    assert found.references == ["flood"]


def test_answers_and_classes(tmp_path):
    rows = [
        {"question": "Is there a road?", "answer": "yes", "annotation": "no", "vqa_type": "presence"},
        {
            "question": "One of: Medium Residential, Port.",
            "answer": "Medium Residential",
            "annotation": "MediumResidential",
        },
    ]
    found = predictions.read(dump(tmp_path / "predictions.jsonl", rows))
    assert [(one.task, one.kind, one.completion, one.answer) for one in found] == [
        ("vqa", "presence", "yes", "no"), ("classification", None, "Medium Residential", "medium residential"),
    ]  # fmt: skip
    assert Answers()(found[:1], TEXT).metrics["vqa/exact"].value == 0


def test_what_is_no_such_row_is_a_fault(tmp_path):
    for row in ({"question": "x", "answer": "y"}, {"question": "x", "answer": "y", "groundtruth": "z"}):
        with pytest.raises(DataError, match="line 1, field 'id': found none"):
            predictions.read(dump(tmp_path / "predictions.jsonl", [row]))
    with pytest.raises(DataError, match="line 1, field 'completion': found 3, expected text"):
        predictions.read(dump(tmp_path / "predictions.jsonl", [CAPTION | {"answer": 3}]))
