"""LRS-VQA and VRSBench's referring test at their published sizes, in their published layouts, from files to tables.

Rows are made by rules, so that each number is known without the evaluator.
"""

import json

import pytest
from PIL import Image

from evals import predictions, stage
from evals.benchmarks import session
from evals.comparing import sidebyside
from samples import mixture
from stage.recipe import config
from stage.runs import RECORD

# Of the published file: questions of each category, and of each source
CATEGORIES = {
    "rural or urban": 1252, "count": 1199, "reasoning": 1000, "object status": 1000, "object category": 987,
    "object shape": 885, "object color": 765, "object background": 245,
}  # fmt: skip
SOURCES = {"STAR": 3999, "FAIR": 2272, "GLH": 1062}
TOLD = "Answer the question using a single word or phrase."
REFER = 16159


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


@pytest.mark.slow
def test_lrs_vqa(tmp_path, monkeypatch):
    (tmp_path / "wordnet").mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        known = "plane n 1 0 1 0 00000001  \naeroplane n 1 0 1 0 00000001  \n" if part == "noun" else ""
        (tmp_path / f"wordnet/index.{part}").write_text(known)
        (tmp_path / f"wordnet/{part}.exc").write_text("")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "wordnet"))
    images = tmp_path / "LRS_VQA/image"
    images.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (64, 48)).save(images / f"{number}.tif")
    kinds = [kind for kind, count in CATEGORIES.items() for _ in range(count)]
    sources = [source for source, count in SOURCES.items() for _ in range(count)]
    assert len(kinds) == len(sources) == 7333
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
    (tmp_path / "LRS_VQA/LRS_VQA_merged.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

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
    """Truths of 40 × 20 percent; answers are moved right by 0 to 9 percent in turn: IoU = (40 - d) / (40 + d)."""
    images = tmp_path / "VRSBench/Images_val"
    images.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (512, 512)).save(images / f"P{number}.png")
    kinds = ("ref", "position", "color")
    rows = [
        {
            "image_id": f"P{number % 4}.png",
            "question": f"The ship number {number}",
            "ground_truth": "{<10><20><50><40>}",
            "dataset": "DOTA",
            "question_id": number,
            "type": kinds[number % 3],
            "obj_ids": [2],
            "obj_cls": "ship",
            "unique": True,
            "size_group": "small",
        }
        for number in range(REFER)
    ]
    (tmp_path / "VRSBench/VRSBench_EVAL_referring.json").write_text(json.dumps(rows))

    def moved(number):
        return 2 * (number % 10)  # percent

    def say(number, sample):
        return f"({100 + 10 * moved(number)},200),({500 + 10 * moved(number)},400)"

    recipe, asked, report = answered("vrsbench-refer", tmp_path, tmp_path / "out", say)
    assert len(asked) == REFER

    def share(threshold, iou):
        return sum(iou(moved(number)) >= threshold for number in range(REFER)) / REFER

    def published(d):
        """VRSBench's: whole percents, + 1 on every side; both boxes are 41 × 21."""
        inside = (41 - d) * 21
        return inside / (2 * 41 * 21 - inside)

    values = {name: metric.value for name, metric in report.metrics.items()}
    for threshold in (0.5, 0.7):
        assert values[f"grounding/acc@{threshold}"] == pytest.approx(share(threshold, published))
        plain = share(threshold, lambda d: (40 - d) / (40 + d))
        assert values[f"grounding/acc@{threshold}:plain"] == pytest.approx(plain)
    expected = sum(published(moved(number)) for number in range(REFER)) / REFER
    assert values["grounding/miou"] == pytest.approx(expected)
    assert {report.metrics[f"grounding/acc@0.5[{kind}]"].n for kind in kinds} == {5386, 5387}
    stage.save(report, recipe.model_copy(update={"pictures": 0}), tmp_path / "out/vrsbench-refer")
    assert f"| grounding/acc@0.5 | {REFER} |" in (tmp_path / "out/vrsbench-refer/table.md").read_text()
