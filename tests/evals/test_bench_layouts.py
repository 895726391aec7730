"""Every benchmark on its layout in tests/data: what is asked, that truth as the answer is right, and silence wrong."""

import shutil

import pytest

from evals import predictions, stage
from evals.benchmarks import BENCHMARKS, session
from evals.scoring import captions
from evals.scoring.reading import Reading
from samples import mixture
from stage.metrics.turns import COUNTED
from tests.support import layouts
from vlm.boxes import write_boxes, write_detections, write_quads

NOTATION = "rscovlm_quad"
SEEN = (56, 28)
"""Twice the tiny pictures less a little: what frame `resized` counts in."""
QUESTIONS = {
    # name → (questions, the first of them as it is asked, in part)
    "vg-dior": (2, "the dam"),
    "dior-rsvg": (1, ""),
    "dior-rsvg-val": (1, "An airport at the right edge"),
    **dict.fromkeys(("rsvg", "rsvg-val", "vrs-vg", "avvg", "geo-vg"), (3, "the dam")),
    "vrsbench-refer": (1, ""),
    "vrsbench-vqa": (2, ""),
    "vrsbench-caption": (1, ""),
    "rsvqa-lr": (3, ""),
    "rsvqa-hr-phili": (1, "What is the area"),
    "lhrs-bench": (2, ""),
    "lrs-vqa": (4, "How many planes"),
    "lrs-gro": (2, "How many piers"),
    "xlrs-bench": (4, "How many ships"),
    "mme-realworld-rs": (2, "What color is the roof"),
    "geochat-bench": (8, "Classify the image"),
    "aid": (3, "airport, dense residential"),
    "ucmerced": (2, "golfcourse, harbor"),
    "nwpu": (2, "sea ice, ship"),
    "dota": (2, "plane, small vehicle"),
}
MORE = {"nwpu": ["data.eval.0.split=test"]}
HEADLINES_LEFT_OUT = {"rsvqa-hr-phili": "vqa/mean_of_kinds"}
"""All there is are areas, which the headline leaves out."""
NO_SHARES = (*COUNTED, "detection/unreadable")
"""Numbers, and a share that silence raises."""


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """METEOR takes seconds to start; it is tested in test_bench_scores.py."""
    monkeypatch.setattr(captions, "java", lambda: False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The layouts, with what is twice in the real ones and once in the fixtures."""
    root = layouts.build(tmp_path_factory.mktemp("layouts") / "data")
    (root / "refGeo/metainfo").mkdir()
    rows = shutil.move(root / "refGeo/rsvg_test.jsonl", root / "refGeo/metainfo/rsvg_test.jsonl")
    for name, folder in (("rsvg_val", ""), ("vrsbench_test", "vrsbench"), ("avvg_test", "avvg"),
                         ("geochat_test", "geochat_test")):  # fmt: skip
        shutil.copy(rows, root / "refGeo/metainfo" / f"{name}.jsonl")
        shutil.copytree(root / "refGeo/images/rsvg", root / "refGeo/images" / folder, dirs_exist_ok=not folder)
    shutil.copy(root / "LRS-GRO/rl.jsonl", root / "LRS-GRO/test.jsonl")
    bench = root / "GeoChat-Bench"
    shutil.copy(bench / "aid.jsonl", bench / "UCmerced.jsonl")
    shutil.copy(bench / "lrben.jsonl", bench / "hrben.jsonl")
    for path in bench.glob("LR_split_test_*.json"):
        shutil.copy(path, bench / path.name.replace("LR_split_test", "USGS_split_test_phili"))
    return root


def asked(name, root):
    options = ["--benchmarks", name, "--model", "m", "--data", str(root), "--notation", NOTATION]
    arguments = session.parser().parse_intermixed_args([*options, "data.on_fault=skip", *MORE.get(name, [])])
    BENCHMARKS[name].check(root)
    recipe = session.recipe(name, arguments)
    return stage.questions(recipe, mixture.draw(recipe.data, "eval", recipe.seed).samples)


def truth(sample):
    """What a model that knows it says."""
    if sample.task == "detection":
        return write_detections(sample.quads, sample.labels, NOTATION, sample.size, SEEN, sample.classes)
    if sample.task != "grounding":
        return sample.answer
    if sample.quads:
        return write_quads(sample.quads, NOTATION, sample.size, SEEN)
    return write_boxes(sample.boxes, NOTATION, sample.size, SEEN)


@pytest.mark.parametrize("name", QUESTIONS)
def test_truth_is_right_and_silence_is_wrong(name, root):
    count, words = QUESTIONS[name]
    samples = asked(name, root)
    assert len(samples) == count and words in samples[0].messages[0]["content"]
    headline = HEADLINES_LEFT_OUT.get(name, BENCHMARKS[name].headline)
    for known, expected in ((True, 1.0), (False, 0.0)):
        rows = [predictions.from_sample(s, truth(s) if known else "", resized=SEEN) for s in samples]
        metrics = BENCHMARKS[name].score(rows, Reading(NOTATION, "text")).metrics
        left_out = [metric for metric in metrics if "cider" in metric or metric in NO_SHARES]
        shares = {metric: found.value for metric, found in metrics.items() if metric not in left_out}
        if headline in shares:
            assert shares[headline] == expected
        assert all(0 <= value <= 1 for value in shares.values())
        if not known:
            assert not any(value for metric, value in shares.items() if "bleu" not in metric)


def test_geochat_bench_is_four_tasks(root):
    samples = asked("geochat-bench", root)
    tasks = ["classification"] * 2 + ["vqa"] * 4 + ["grounding", "caption"]
    assert [sample.task for sample in samples] == tasks
    rows = [predictions.from_sample(sample, truth(sample), resized=SEEN) for sample in samples]
    metrics = BENCHMARKS["geochat-bench"].score(rows, Reading(NOTATION, "text")).metrics
    assert metrics["grounding/every@0.5"].value == metrics["vqa/exact"].value == 1
    assert metrics["classification/accuracy"].value == 1 and "grounding/every@0.5[small]" not in metrics
    assert metrics["grounding/acc@0.5[small]"].n == 1
