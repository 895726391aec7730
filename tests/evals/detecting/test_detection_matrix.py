"""Detection alone against trained together with other tasks, as launch/compare.py and launch/table.py show finished
evaluations: runs by metrics, paired differences, published figures apart."""

import csv
import io

import pytest

from evals import predictions
from evals.benchmarks import session
from evals.benchmarks.published import figures
from evals.comparing import sidebyside
from evals.predictions import Prediction
from stage.recipe import config
from studies.tables import command
from vlm.boxes import corners, write_detections

BOXES = [[10.0 * n, 0.0, 10.0 * n + 8, 8.0] for n in range(4)]
LABELS = ["plane", "ship", "ship", "ship"]
SIZES = {"size": (112, 112), "resized": (112, 112)}


def answer(found, wrong):
    """The first `found` objects, and so many more where none is."""
    extra = [[10.0 * n, 50.0, 10.0 * n + 8, 58.0] for n in range(wrong)]
    quads = [corners(box) for box in (*BOXES[:found], *extra)]
    return write_detections(quads, [*LABELS[:found], *["ship"] * wrong], "rscovlm_quad", (112, 112), (112, 112))


def evaluation(folder, found, wrong, right):
    """A finished evaluation of the benchmarks dota and aid, from its files alone."""
    rows = {
        "dota": [
            Prediction(
                str(number),
                "labelTxt",
                "detection",
                answer(found + number % 3, wrong),
                quads=[corners(box) for box in BOXES],
                boxes=BOXES,
                labels=LABELS,
                classes=["plane", "ship"],
                **SIZES,
            )
            for number in range(30)
        ],
        "aid": [
            Prediction(str(number), "AID", "classification", "dam" if number < right else "port", answer="dam")
            for number in range(40)
        ],
    }
    for name, asked in rows.items():
        words = ["--benchmarks", name, "--model", "m", "--notation", "rscovlm_quad", "--out", str(folder)]
        recipe = session.recipe(name, session.parser().parse_intermixed_args(words))
        (folder / name).mkdir(parents=True)
        config.save(recipe, folder / name / "recipe.yaml")
        predictions.write(folder / name / "predictions.jsonl", asked)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("matrix")
    evaluation(root / "alone", 1, 2, 4)
    evaluation(root / "together", 2, 0, 30)
    return root


METRICS = ("detection/ap_nc@0.5", "detection/mf1", "detection/boxes_said", "classification/accuracy")


def test_the_table(runs, capsys):
    named = [f"alone={runs / 'alone'}", f"together={runs / 'together'}"]
    asked = [*named, "--metrics", ",".join(METRICS), "--format", "csv"]
    assert command.main(asked, sidebyside.evaluations, figures) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {(row["kind"], row["label"], row["metric"]): row for row in rows}
    values = {name: float(row["value"]) for name, row in found.items()}
    assert values["measured", "alone", "classification/accuracy"] == 0.1
    # 1 to 3 objects each, and two that are none; then 2 to 4
    assert values["measured", "alone", "detection/boxes_said"] == 4
    assert values["measured", "together", "detection/boxes_said"] == 3
    gained = {metric: row for (kind, _, metric), row in found.items() if kind == "difference"}
    assert set(gained) == set(METRICS)
    for metric in ("detection/ap_nc@0.5", "detection/mf1", "classification/accuracy"):
        assert float(gained[metric]["low"]) > 0, metric
    assert float(gained["detection/boxes_said"]["value"]) == -1


def test_side_by_side(runs, tmp_path, capsys):
    sidebyside.show([f"alone={runs / 'alone'}", f"together={runs / 'together'}"], tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "## aid" in text and "## dota" in text
    assert "- alone → together: detection/ap_nc@0.5 " in text and "detection/boxes_said 4.00 -> 3.00: -1.00 [" in text
    assert "| detection/mf1:published |" in text and "as f1_metric.py of mllm-mmrotate counts" in text
    assert "- detection/max_mode: not computed: RSCoVLM's paper names a Max Mode" in text
