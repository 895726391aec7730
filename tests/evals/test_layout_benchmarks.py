"""The benchmarks of evals.benchmarks.layouts on their layouts in tests/data, and CHOICE's conventions by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely

from evals import predictions, stage
from evals.benchmarks import BENCHMARKS, session
from evals.benchmarks.layouts import LAYOUTS
from evals.predictions import Prediction
from evals.scoring import captions, choices
from evals.scoring.reading import Reading
from samples import FORMATS, TASKS, mixture
from stage.metrics.turns import COUNTED
from tests.support import layouts
from vlm import masks
from vlm.boxes import write_quads
from vlm.pictures import images

NAMED = {one.name: one for one in LAYOUTS}
NOTATION = "rscovlm_quad"
SEEN = (56, 28)
QUESTIONS = {
    # name → (questions, the first of them as it is asked, in part)
    "choice": (4, "Is a/an dam present"),
    "rsicd": (1, "Describe the image in one sentence."),
    "ucm-captions": (1, "Describe the image in one sentence."),
    "sydney-captions": (1, "Describe the image in one sentence."),
    "rsitmd": (1, "Describe the image in one sentence."),
    "nwpu-captions": (2, "Describe the image in one sentence."),
    "rsieval": (3, "Describe the image in detail."),
    "geochat-description": (1, "Describe the image."),
    "million-aid": (3, "beach, dry field, meadow"),
    "eurosat": (2, "annual crop, forest"),
    "eurosat-ms": (2, "annual crop, forest"),
}
UNBOUNDED = ("caption/cider", *COUNTED)
HOW = ("segmentation/giou:form", "segmentation/repaired")
"""What a form leaves, and how answers were read: no shares that silence has none of."""


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """METEOR takes seconds to start; it is tested in test_bench_scores.py."""
    monkeypatch.setattr(captions, "java", lambda: False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The layouts, with CHOICE's files in the folders of their tasks."""
    root = layouts.build(tmp_path_factory.mktemp("layouts") / "data")
    homes = {task: f"{first}/{second}/{task}" for first, inner in choices.LEVELS.items()
             for second, tasks in inner.items() for task in tasks}  # fmt: skip
    for task, home in homes.items():
        there, folder = root / f"CHOICE/{task}.json", root / "CHOICE" / home
        folder.mkdir(parents=True, exist_ok=True)
        if there.is_file():
            shutil.move(there, folder / f"{task}.json")
        else:  # nothing is asked of it here
            (folder / f"{task}.json").write_text("[]")
    path = root / "NWPU-Captions/dataset_nwpu.json"
    path.write_text(path.read_text().replace('"train"', '"test"'))
    shutil.copytree(root / "RSGPT/RSIEval", root / "RSIEval")
    return root


def asked(name, root, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, name, NAMED[name])
    options = ["--benchmarks", name, "--model", "m", "--data", str(root), "--notation", NOTATION]
    arguments = session.parser().parse_intermixed_args([*options, "data.on_fault=skip"])
    NAMED[name].check(root)
    recipe = session.recipe(name, arguments)
    if name == "choice":  # the files of tasks that nothing is asked of here
        recipe.data.eval = [one for one in recipe.data.eval if json.loads(Path(one.path).read_text())]
    return stage.questions(recipe, mixture.draw(recipe.data, "eval", recipe.seed).samples), recipe


def truth(sample):
    """What a model that knows it says."""
    if sample.task == "grounding":
        return write_quads(sample.quads, NOTATION, sample.size, SEEN)
    if sample.task == "segmentation":
        return masks.write_mask(sample.mask, "rscovlm", SEEN)
    return sample.answer


def test_all_are_declared():
    assert set(QUESTIONS) == set(NAMED) and len(NAMED) == len(LAYOUTS)
    for one in LAYOUTS:
        assert all(source.format in FORMATS for source in one.sources)
        assert all(source.path.split("/")[0] in one.layout for source in one.sources)
        assert {task for score in one.scores for task in score.tasks} <= set(TASKS)
    assert (
        len(NAMED["choice"].sources) == 23 == sum(len(t) for inner in choices.LEVELS.values() for t in inner.values())
    )


@pytest.mark.parametrize("name", QUESTIONS)
def test_truth_is_right_and_silence_is_wrong(name, root, monkeypatch):
    count, words = QUESTIONS[name]
    samples, _ = asked(name, root, monkeypatch)
    assert len(samples) == count and words in samples[0].messages[0]["content"]
    for known in (True, False):
        rows = [predictions.from_sample(s, truth(s) if known else "", resized=SEEN) for s in samples]
        metrics = NAMED[name].score(rows, Reading(NOTATION, "text")).metrics
        assert NAMED[name].headline in metrics or NAMED[name].headline == "caption/meteor"
        shares = {one: found.value for one, found in metrics.items() if one not in UNBOUNDED and "unread" not in one}
        assert shares and all(0 <= value <= 1 for value in shares.values())
        if known and name == "choice":  # its own script's boxes are in fractions, and masks end at cells
            assert all(shares[f"choice/mean_of_tasks{how}"] == 1 for how in ("", ":lenient"))
            assert shares["grounding/acc@0.5"] == 1 and shares["segmentation/giou"] == shares["segmentation/giou:form"]
        elif known:
            short = ("caption/bleu",)  # of a caption of fewer words than n, BLEU-n is 0
            assert all(
                value == pytest.approx(1, abs=1e-6) for one, value in shares.items() if not one.startswith(short)
            )
        if not known:
            assert not {one: value for one, value in shares.items() if value > 1e-6 and not one.startswith(HOW)}


def test_every_reference_of_a_picture_counts(root, monkeypatch):
    (sample,), _ = asked("rsicd", root, monkeypatch)
    assert len(sample.references) == 5 and sample.references[0] == sample.references[1]
    row = predictions.from_sample(sample, "A large airport .")  # its fourth caption
    found = NAMED["rsicd"].score([row], Reading(NOTATION, "text")).metrics
    assert found["caption/bleu1"].value == pytest.approx(1) and "5 references" in found["caption/bleu1"].convention


def test_bands_are_shown_as_the_benchmark_says(root, monkeypatch):
    (first, _), recipe = asked("eurosat-ms", root, monkeypatch)
    images.use(recipe.images)
    assert (np.asarray(images.load(first.images[0])) == 128).all()  # 1,500 of 3,000, times 255


# CHOICE

OPTIONS = ["Top_left corner", "bottom", "3.5 m", "the right"]


@pytest.mark.parametrize(
    ("said", "letter", "right"),
    [
        ("B", "B", True),
        (" B\n", "B", True),
        ("B bottom", "B", True),
        ("B.bottom", "B", True),
        ("A", "B", False),
        ("The answer is B", "B", True),
        ("answer: none of these. ABC", "A", True),  # the first letter behind it
        ("It could be C or B", "B", False),
        ("It would be nothing", "B", False),
        ("bottom", "B", True),
        ("Bottom of it", "B", True),
        ("top left", "A", True),  # a part of the option's words
        ("at the top", "A", True),  # whose first word stands in the answer
        ("3", "C", True),  # up to the first full stop
        ("the left", "D", True),  # the first word of "the right"
        ("", "B", False),
        ("  ", "B", False),
        ("E", "B", False),
        ("o", "B", True),  # a part of "bottom"
    ],
)
def test_options_as_choices_script_reads_them(said, letter, right):
    assert choices.right_option(said, OPTIONS, letter) is right


@pytest.mark.parametrize(
    ("said", "box"),
    [
        ("[0.1, 0.2, 0.5, 0.6]", [0.1, 0.2, 0.5, 0.6]),
        ("(100,200),(500,600)", [0.1, 0.2, 0.5, 0.6]),
        ("100 200 500 1000", [0.1, 0.2, 0.5, 1.0]),
        ('{"bbox_2d": [10, 20, 50, 60]}', [0.1, 0.2, 0.5, 0.6]),  # the 2 of 2d is none
        ("5, 20, 50, 1001", [0.0005, 0.002, 0.005, 0.1001]),  # all by what the largest needs
        ("1, 1, 1, 1, 9", [1, 1, 1, 1]),
        ("0.1, 0.2, 0.5", None),
        ("12 meters by 3 meters, 0.1 0.2", None),
        ("none", None),
        ("9" * 400 + " 1 1 1", None),
    ],
)
def test_boxes_as_choices_script_reads_them(said, box):
    assert choices.box_in(said) == (None if box is None else pytest.approx(box))


def test_overlap_of_a_box_and_a_quadrilateral():
    diamond = [2, 0, 4, 2, 2, 4, 0, 2]  # area 8 in a box of 16
    assert choices.overlap([0, 0, 4, 4], diamond) == (pytest.approx(0.5), True)
    assert choices.overlap([4, 4, 0, 0], diamond) == (pytest.approx(0.5), True), "corners in any order"
    assert choices.overlap([0, 0, 1, 1], diamond) == (0.0, False)
    true = shapely.Polygon([(2, 0), (4, 2), (2, 4), (0, 2)])
    said = shapely.box(1, 1, 4, 3)
    expected = said.intersection(true).area / said.union(true).area
    assert choices.overlap([1, 1, 4, 3], diamond)[0] == pytest.approx(expected)


def question(key, kind, completion, **more):
    base = {"id": key, "source": "choice", "task": "choice", "answer": "B", "choices": OPTIONS}
    return Prediction(**(base | {"kind": kind, "completion": completion} | more))


def placed(key, completion):
    quad = [4, 4, 12, 4, 12, 12, 4, 12]
    more = {"task": "grounding", "answer": None, "choices": None, "quads": [quad], "boxes": [[4, 4, 12, 12]]}
    return question(key, "visual_grounding", completion, **more, size=(40, 20), resized=SEEN)


def test_levels_of_choice_by_hand():
    rows = [
        question("1", "object_counting", "B"),
        question("2", "object_counting", "C"),
        question("3", "object_counting", "the answer is B"),
        question("4", "time_property", "bottom of it"),
        placed("5", "[0.1, 0.2, 0.3, 0.6]"),
        placed("6", "[0.1, 0.2, 0.3, 0.4]"),  # the upper half: 0.5 is not above 0.5
    ]
    found = choices.Levels()(rows, Reading("qwen2_vl", "text"))
    value = {name: metric.value for name, metric in found.metrics.items()}
    third = 1 / 3
    assert value["choice/accuracy[object_counting]"] == pytest.approx(third)
    assert value["choice/accuracy:lenient[object_counting]"] == pytest.approx(2 * third)
    assert value["choice/accuracy:choice[object_counting]"] == pytest.approx(2 * third)
    assert value["choice/accuracy[time_property]"] == 0 and value["choice/accuracy:choice[time_property]"] == 1
    assert value["choice/accuracy:choice[visual_grounding]"] == 0.5
    assert value["grounding/acc@0.5:choice"] == 0.5 and value["grounding/acc@0.3:choice"] == 1
    assert value["grounding/centre:choice"] == 1
    perception = (2 * third + 0.5) / 2
    assert value["choice/mean_of_tasks:choice[perception]"] == pytest.approx(perception)
    assert value["choice/mean_of_tasks:choice[single_instance_identification]"] == pytest.approx(perception)
    assert value["choice/mean_of_tasks:choice[reasoning]"] == value["choice/mean_of_tasks:choice[attribute_reasoning]"]
    assert value["choice/mean_of_tasks:choice"] == pytest.approx((2 * third + 0.5 + 1) / 3)
    assert "choice/mean_of_tasks[image_level_comprehension]" not in value


def test_boxes_of_choice_in_the_models_notation_stand_beside_its_own():
    """A box in thousandths is right for both; one in the notation's pixels for ours alone."""
    for completion in ("<|box_start|>(100,200),(300,600)<|box_end|>", "(100,200),(300,600)"):
        found = choices.Levels()([placed("5", completion)], Reading("qwen2_vl", "text")).metrics
        assert found["choice/accuracy[visual_grounding]"].value == 1
        assert found["choice/accuracy:choice[visual_grounding]"].value == 1
    pixels = write_quads([[4, 4, 12, 4, 12, 12, 4, 12]], NOTATION, (40, 20), SEEN)
    found = choices.Levels()([placed("5", pixels)], Reading(NOTATION, "text")).metrics
    assert found["choice/accuracy[visual_grounding]"].value == 1
    assert found["choice/accuracy:choice[visual_grounding]"].value == 0


def test_questions_of_choice_that_do_not_say_their_task():
    found = choices.Levels()([question("1", None, "B")], Reading("qwen2_vl", "text"))
    assert set(found.missing) == {f"choice/mean_of_tasks{how}" for how in ("", ":lenient", ":choice")}
