"""LRS-VQA and VRSBench's referring test at their published sizes, in their published layouts, from files to tables.

Rows are made by rules, so that each number is known without the evaluator.
"""

import json
import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image

from evals import predictions, stage
from evals.benchmarks import session
from evals.comparing import sidebyside
from samples import mixture
from stage.recipe import config
from stage.runs import RECORD
from tests.support.sample_rows import dump

# Of the published file: questions of each category, and of each source
CATEGORIES = {
    "rural or urban": 1252, "count": 1199, "reasoning": 1000, "object status": 1000, "object category": 987,
    "object shape": 885, "object color": 765, "object background": 245,
}  # fmt: skip
SOURCES = {"STAR": 3999, "FAIR": 2272, "GLH": 1062}
TOLD = "Answer the question using a single word or phrase."
REFER = 16159
FLAT = 13
REFERRED = ("object", "position", "color")
LARGEST = (26_176, 24_832)
"""Of LRS-VQA's pictures."""


def answered(name, root, out, say):
    """Questions as the benchmark asks them, with what `say` answers, as a finished evaluation's folder holds them."""
    words = ["--model", "m", "--benchmarks", name, "--data", str(root), "--out", str(out)]
    recipe = session.recipe(name, session.parser().parse_intermixed_args(words))
    drawn = mixture.draw(recipe.data, "eval", recipe.seed)
    asked = stage.questions(recipe, drawn.samples)
    folder = out / name
    folder.mkdir(parents=True)
    config.save(recipe, folder / "recipe.yaml")
    record = stage.drawing(recipe) | {"asked": len(asked), "left_out": {}}
    (folder / RECORD).write_text(json.dumps(record))
    rows = (predictions.from_sample(sample, say(number, sample)) for number, sample in enumerate(asked))
    assert predictions.write(folder / "predictions.jsonl", rows) == len(asked)
    return recipe, asked, stage.load_report(folder)


def lrs_vqa(root, kinds, size=(64, 48)):
    """Questions of these categories, of four pictures, dealt over the sources; returns the rows."""
    images = root / "LRS_VQA/image"
    images.mkdir(parents=True)
    for number in range(1, 4):
        Image.new("RGB", (64, 48)).save(images / f"{number}.tif")
    tiled(images / "0.tif", *size)
    sources = [source for source, count in SOURCES.items() for _ in range(count)]
    # sources are dealt over the categories by a step that is prime to their number
    rows = [
        {
            "question_id": f"{sources[number * 1000 % 7333]}_{number}",
            "image": f"LRS_VQA/image/{number % 4}.tif",
            "category": kind,
            "text": f"What is at place {number}?\n{TOLD}",
            "ground_truth": "plane",
            "hbox": [1, 2, 3, 4],
            "rbox": [1, 2, 3, 2, 3, 4, 1, 4],
            "abs_size": 4,
            "image_size": [64, 48],
        }
        for number, kind in enumerate(kinds)
    ]
    dump(root / "LRS_VQA/LRS_VQA_merged.jsonl", rows)
    return rows


def tiled(path, width, height):
    """A tiled TIFF of which the first tile alone is written: GDAL takes the others for black."""
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": width, "height": height}
    layout = {"tiled": True, "sparse_ok": True, "photometric": "rgb", "blockxsize": 256, "blockysize": 256}
    side = min(width, height, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **layout) as file:
            file.write(np.full((3, side, side), 200, np.uint8), window=((0, side), (0, side)))


def vrsbench_refer(root, count):
    images = root / "VRSBench/Images_val"
    images.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (512, 512)).save(images / f"P{number}.png")
    rows = [
        {
            "image_id": f"P{number % 4}.png",
            "question": f"The ship number {number}",
            "ground_truth": "{<92><0><96><0>}" if number < FLAT else "{<10><20><50><40>}",
            "dataset": "DOTA",
            "question_id": number,
            "type": REFERRED[number % 3],
            "obj_ids": [2],
            "obj_cls": "ship",
            "unique": number % 2 == 0,
            "size_group": "small",
        }
        for number in range(count)
    ]
    dump(root / "VRSBench/VRSBench_EVAL_referring.json", rows)


@pytest.mark.slow
def test_lrs_vqa(tmp_path, monkeypatch):
    (tmp_path / "wordnet").mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        known = "plane n 1 0 1 0 00000001  \naeroplane n 1 0 1 0 00000001  \n" if part == "noun" else ""
        (tmp_path / f"wordnet/index.{part}").write_text(known)
        (tmp_path / f"wordnet/{part}.exc").write_text("")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "wordnet"))
    kinds = [kind for kind, count in CATEGORIES.items() for _ in range(count)]
    rows = lrs_vqa(tmp_path, kinds)
    assert len(rows) == 7333

    def say(number, sample):
        """Every third right, every third by a synonym, every third wrong."""
        return ("plane", "Aeroplanes.", "ship")[number % 3]

    recipe, asked, report = answered("lrs-vqa", tmp_path, tmp_path / "out", say)
    assert len(asked) == 7333 and all(sample.messages[0]["content"].count(TOLD) == 1 for sample in asked)
    right = [number % 3 == 0 for number in range(7333)]
    near = [number % 3 < 2 for number in range(7333)]

    def mean_over(names, hits, held):
        return sum(sum(h for h, one in zip(hits, held, strict=True) if one == n) / held.count(n) for n in names) / len(
            names
        )

    held = [row["question_id"].split("_")[0] for row in rows]
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["vqa/exact"] == sum(right) / 7333 and values["vqa/exact:wordnet"] == sum(near) / 7333
    assert values["vqa/mean_of_kinds"] == pytest.approx(mean_over(CATEGORIES, right, kinds))
    assert values["vqa/mean_of_sources"] == pytest.approx(mean_over(SOURCES, right, held))
    assert values["vqa/mean_of_sources:wordnet"] == pytest.approx(mean_over(SOURCES, near, held))
    assert {name: report.metrics[f"vqa/exact[source {name}]"].n for name in ("STAR", "FAIR", "Bridge")} == {
        "STAR": 3999,
        "FAIR": 2272,
        "Bridge": 1062,
    }
    assert {kind: report.metrics[f"vqa/exact[{kind}]"].n for kind in CATEGORIES} == CATEGORIES
    stage.save(report, recipe.model_copy(update={"pictures": 0}), tmp_path / "out/lrs-vqa")
    sidebyside.show([f"a={tmp_path / 'out'}"], tmp_path / "table", published=True)
    table = (tmp_path / "table/table.md").read_text()
    assert "| RSCoVLM with zoom | vqa/mean_of_sources:wordnet | 45.71 | published: RSCoVLM" in table
    assert f"| **a** | vqa/mean_of_sources:wordnet | {100 * values['vqa/mean_of_sources:wordnet']:.1f} [" in table


@pytest.mark.slow
def test_vrsbench_refer(tmp_path):
    """Truths of 40 × 20 percent; answers are moved right by 0 to 18 percent in turn: IoU = (40 - d) / (40 + d).

    The first 13 truths are without area, as published; with + 1 on every side they are 5 × 1, and the answers 5 × 2.
    """
    vrsbench_refer(tmp_path, REFER)

    def moved(number):
        return 2 * (number % 10)  # percent

    def say(number, sample):
        if number < FLAT:
            return "(920,0),(960,10)"
        return f"({100 + 10 * moved(number)},200),({500 + 10 * moved(number)},400)"

    recipe, asked, report = answered("vrsbench-refer", tmp_path, tmp_path / "out", say)
    assert len(asked) == REFER

    def published(number):
        """Areas of intersection and union as VRSBench has them: whole percents, + 1 on every side."""
        inside = 5 if number < FLAT else (41 - moved(number)) * 21
        return inside, 10 if number < FLAT else 2 * 41 * 21 - inside

    def plain(number):
        return 0 if number < FLAT else (40 - moved(number)) / (40 + moved(number))

    values = {name: metric.value for name, metric in report.metrics.items()}
    counted = {name: metric.n for name, metric in report.metrics.items()}
    parts = {"": range(REFER), "[unique]": range(0, REFER, 2), "[non-unique]": range(1, REFER, 2)}
    for part, numbers in parts.items():
        areas = [published(number) for number in numbers]
        ious = [inner / outer for inner, outer in areas]
        for threshold in (0.5, 0.7):
            hits = [iou >= threshold for iou in ious]
            assert values[f"grounding/acc@{threshold}{part}"] == pytest.approx(sum(hits) / len(numbers))
            hits = [plain(number) >= threshold for number in numbers]
            assert values[f"grounding/acc@{threshold}:plain{part}"] == pytest.approx(sum(hits) / len(numbers))
        assert values[f"grounding/miou{part}"] == pytest.approx(sum(ious) / len(numbers))
        summed = [sum(side) for side in zip(*areas, strict=True)]
        assert values[f"grounding/ciou{part}"] == pytest.approx(summed[0] / summed[1])
        assert {counted[f"grounding/{name}{part}"] for name in ("acc@0.5", "miou", "ciou")} == {len(numbers)}
    assert {report.metrics[f"grounding/acc@0.5[{kind}]"].n for kind in REFERRED} == {5386, 5387}
    stage.save(report, recipe.model_copy(update={"pictures": 0}), tmp_path / "out/vrsbench-refer")
    assert f"| grounding/acc@0.5 | {REFER} |" in (tmp_path / "out/vrsbench-refer/table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(9500, 9500), pytest.param(LARGEST, marks=pytest.mark.full)])
def test_questions_are_generated(tiny_model, tmp_path, size):
    """64 of each benchmark by a real model, a quarter of LRS-VQA's about a picture beyond what is decoded whole."""
    lrs_vqa(tmp_path, list(CATEGORIES) * 9, size)
    vrsbench_refer(tmp_path, 70)
    words = ["--model", tiny_model, "--benchmarks", "lrs-vqa,vrsbench-refer", "--limit", "64"]
    words += ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "model.dtype=float32", "pictures=0"]
    small = ["generation.max_new_tokens=3", "generation.batch_size=16", "images.min_pixels=3136"]
    assert session.main([*words, *small, "images.max_pixels=12544"]) == 0
    summary = (tmp_path / "out/summary.md").read_text()
    assert "| vrsbench-refer | grounding/acc@0.5 | 64 of 70 |" in summary
    assert "| lrs-vqa | vqa/mean_of_sources | 64 of 72 |" in summary
    rows = predictions.read(tmp_path / "out/lrs-vqa/predictions.jsonl")
    assert len(rows) == 64 and sum(row.image.endswith("/0.tif") and bool(row.completion) for row in rows) == 16
