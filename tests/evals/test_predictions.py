"""evals.predictions: predictions.jsonl is written, read, continued and checked."""

import json

import pytest

from evals import predictions
from evals.predictions import Prediction
from samples import Sample
from tests.support.scores.scored import GROUNDING, ask
from vlm.common.errors import DataError


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
    sample.references = ["a", "b"]
    assert predictions.from_sample(sample, "done").references == ["a", "b"]
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
        ({"references": ["a", 1]}, "field 'references': found .*expected texts"),
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
