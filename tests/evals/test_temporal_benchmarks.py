"""Benchmarks about several dates on their layouts: what is asked, that truth is right, and silence wrong."""

import json
import shutil

import pytest

from evals import predictions, stage
from evals.benchmarks import BENCHMARKS, session
from evals.benchmarks.temporal import TEMPORAL
from evals.scoring import captions
from evals.scoring.reading import Reading
from samples import FORMATS, TASKS, mixture
from samples.readers.temporal import teochatlas
from tests.support import layouts
from vlm import prompts
from vlm.boxes import write_boxes
from vlm.masks import write_mask

NOTATION, FORM = "qwen2_vl", "rscovlm"
SEEN = (40 * 28, 20 * 28)
"""A cell of the form's grid for each pixel, so that masks are written as they are."""
NAMED = {one.name: one for one in TEMPORAL}
QUESTIONS = {
    # name → (questions, the first of them as it is asked, in part, pictures)
    "levir-cc": (2, "what has changed", 2),
    "levir-mci": (2, "the roads that have changed", 2),
    "levir-cd": (1, "what has changed", 2),
    "dubai-cc": (2, "what has changed", 2),
    "cdvqa": (3, "Answer with yes or no.", 2),
    "geobench-vlm-single": (3, "Options: A. harbor B. dam C. airport", 1),
    "geobench-vlm-temporal": (2, "Provide only the letter", 2),
    "teochatlas-fmow-high": (1, "Answer with airport, dam.", 4),
    "teochatlas-xbd-loc": (2, "all the buildings", 2),
    "teochatlas-xbd-damage": (2, "Classify the level of damage", 2),
    "teochatlas-s2looking-sre-qa": (3, "Has any building been built", 2),
    "teochatlas-qfabric-rqa2": (1, "Identify the type of urban development", 2),
}


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """In the catalogue, whether or not it has them; no Java, which takes seconds."""
    monkeypatch.setattr(captions, "java", lambda: False)
    for name, one in NAMED.items():
        monkeypatch.setitem(BENCHMARKS, name, one)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = layouts.build(tmp_path_factory.mktemp("temporal") / "data")
    path = root / "LEVIR-CC/LevirCCcaptions.json"
    path.write_text(path.read_text().replace('"train', '"test'))
    shutil.move(root / "LEVIR-CC/images/train", root / "LEVIR-CC/images/test")
    for picture in (root / "LEVIR-CC/images/test").glob("*/train_*.png"):
        picture.rename(picture.with_name(picture.name.replace("train", "test")))
    return root


def recipe(name, root):
    options = ["--benchmarks", name, "--model", "m", "--data", str(root), "--notation", NOTATION]
    arguments = session.parser().parse_intermixed_args([*options, "data.on_fault=skip"])
    return session.recipe(name, arguments)


def truth(sample):
    if sample.task == "segmentation":
        return write_mask(sample.mask, FORM, SEEN, sample.messages[0]["content"])
    if sample.task == "grounding":
        return write_boxes(sample.boxes, NOTATION, sample.size, None)
    return sample.answer


@pytest.mark.parametrize("name", QUESTIONS)
def test_truth_is_right_and_silence_is_wrong(name, root):
    count, words, pictures = QUESTIONS[name]
    one = NAMED[name]
    one.check(root)
    made = recipe(name, root)
    asked = stage.questions(made, mixture.draw(made.data, "eval", made.seed).samples)
    assert len(asked) == count and len(asked[0].images) == pictures
    assert any(words in turn["content"] for turn in prompts.asked(asked[0], made.prompt))
    headlines = []
    for known in (True, False):
        rows = [
            predictions.from_sample(s, truth(s) if known else "", resized=SEEN, form=FORM)
            if s.task == "segmentation"
            else predictions.from_sample(s, truth(s) if known else "", resized=SEEN)
            for s in asked
        ]
        scores = one.score(rows, Reading(NOTATION, "text"))
        assert one.headline in scores.metrics
        headlines.append(scores.metrics[one.headline].value)
        told = {n: metric.value for n, metric in scores.metrics.items() if "cider" not in n}
        assert all(0 <= value <= 1 for value in told.values())
    # boxes are compared with polygons, which Pillow fills by a pixel more
    right = 0.95 if one.headline == "grounding/union_f1" else 1.0
    assert headlines[0] >= right - 1e-9 and headlines[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_each_is_declared_whole(name, tmp_path):
    one = NAMED[name]
    assert {task for score in one.scores for task in score.tasks} <= set(TASKS)
    assert all(source.format in FORMATS for source in one.sources)
    made = recipe(name, tmp_path)
    assert [source.frames for source in made.data.eval] == [source.frames for source in one.sources]
    assert one.sources[0].path.split("/")[0] in one.layout
    assert one.missing(tmp_path)


def test_every_evaluation_file_of_teochatlas_is_an_entry_whose_task_its_reader_gives():
    """Of the 17 that RSCoVLM lists (rscovlm/eval/data/teochatlas_bench.py at bfc2ff7), by data set as it names them."""
    files = {one.sources[0].path.rsplit("/", 1)[1] for one in TEMPORAL if one.name.startswith("teochatlas")}
    assert len(files) == 17 and len(NAMED) == len(TEMPORAL)
    for dataset, task in (
        ("fmow_high_res", "classification"),
        ("cdvqa", "vqa"),
        ("qfabric_rqa5_rtqa5", "classification"),
    ):
        assert teochatlas.task_of({"dataset": dataset, "task": "x"}, "road") == task


def test_pictures_that_are_missing_are_named(root, tmp_path):
    shutil.copytree(root / "GEOBench-VLM", tmp_path / "GEOBench-VLM")
    path = tmp_path / "GEOBench-VLM/Single/qa.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([rows[0] | {"image_path": "Single/images/gone.jpg"}, rows[1]]))
    made = recipe("geobench-vlm-single", tmp_path)
    asked = mixture.draw(made.data, "eval", made.seed).samples
    assert len(asked) == 1  # two paraphrases of the first are skipped, and counted
