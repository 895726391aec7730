"""Numbers of segmentation: equal to plain numpy on hundreds of scenes, and by hand where conventions part.

An answer's grid becomes pixels one by one, in fractions: a pixel has the value of the cell that its centre lies in.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageColor

from evals import predictions, stage
from evals.predictions import Prediction
from evals.recipe import EvalRecipe
from evals.scoring import metrics
from evals.scoring.masks import ChangeMasks, Masks
from evals.scoring.reading import Reading
from samples import Sample
from stage.recipe import config
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from tests.support.scores.fake_judge import FakeJudge, completion
from vlm.common.errors import DataError
from vlm.masks import runs_of
from vlm.pictures.drawing import PREDICTED, TRUE, Picture

READ = Reading("qwen2_vl", "text")
CELL = 28


def text_of(grid: np.ndarray) -> str:
    """RSCoVLM's grammar, one value at a time: runs need not be as long as they could be."""
    return "<seg>" + "".join(",".join(f"{int(value)}*1" for value in row) + ";" for row in grid) + "</seg>"


def asked(number: int, mask: np.ndarray, grid: np.ndarray | str, kind: str | None = None, form: str = "rscovlm"):
    said = grid if isinstance(grid, str) else text_of(grid)
    rows, columns = (6, 6) if isinstance(grid, str) else grid.shape
    height, width = mask.shape
    return Prediction(
        id=str(number),
        source="s",
        task="segmentation",
        completion=said,
        prompt="the dam",
        kind=kind,
        mask=runs_of(mask),
        form=form,
        size=(width, height),
        resized=(columns * CELL, rows * CELL),
    )


def spread(grid: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows, columns = (
        [int(Fraction(2 * place + 1, 2 * side) * count) for place in range(side)]
        for side, count in zip(mask.shape, grid.shape, strict=True)
    )
    return grid[np.ix_(rows, columns)]


def scenes(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(true mask, grid of the answer): sides that the grid does not divide, empty and full ones among them."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        height, width = rng.integers(20, 200, 2)
        y, x = np.mgrid[:height, :width]
        centre, radius = rng.random(2) * (height, width), rng.integers(2, 70, 2)
        mask = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
        rows, columns = rng.integers(1, 8, 2)
        grid = np.asarray(Image.fromarray(mask).resize((int(columns), int(rows)), Image.Resampling.NEAREST)).copy()
        grid ^= rng.random(grid.shape) < 0.15
        what = rng.random()
        if what < 0.1:
            mask = np.zeros_like(mask)
        if what < 0.05 or what > 0.95:
            grid = np.zeros_like(grid)
        found.append((mask, grid))
    return found


def test_hundreds_of_scenes_are_what_numpy_says():
    found = scenes(400, 1)
    rows = [asked(n, mask, grid, kind="abc"[n % 3]) for n, (mask, grid) in enumerate(found)]
    pairs = [(mask, spread(grid, mask)) for mask, grid in found]
    inner = np.array([(true & said).sum() for true, said in pairs])
    outer = np.array([(true | said).sum() for true, said in pairs])
    true = np.array([mask.sum() for mask, _ in pairs])
    assert (outer == 0).sum() > 10 and ((true == 0) & (outer > 0)).sum() > 10  # both conventions have work
    iou = np.where(outer > 0, inner / np.maximum(outer, 1), 1.0)
    report = Masks()(rows, READ)
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["segmentation/giou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert values["segmentation/giou:geo_r1"] == pytest.approx(np.where(outer > 0, iou, 0).mean(), abs=1e-12)
    assert values["segmentation/ciou"] == pytest.approx(inner.sum() / outer.sum(), abs=1e-12)
    for threshold in (0.5, 0.7):
        expected = (iou[true > 0] >= threshold).mean()
        assert values[f"segmentation/acc@{threshold}"] == pytest.approx(expected, abs=1e-12)
        assert report.metrics[f"segmentation/acc@{threshold}"].n == (true > 0).sum()
    assert values["segmentation/n_acc"] == pytest.approx((outer == 0).sum() / (true == 0).sum(), abs=1e-12)
    assert values["segmentation/unreadable"] == 0
    for part, some in {
        "S": (true > 0) & (true <= 32**2),
        "M": (true > 32**2) & (true <= 96**2),
        "L": true > 96**2,
        "b": np.arange(400) % 3 == 1,
    }.items():
        assert some.any()
        assert values[f"segmentation/giou[{part}]"] == pytest.approx(iou[some].mean(), abs=1e-12)
        assert values[f"segmentation/ciou[{part}]"] == pytest.approx(inner[some].sum() / outer[some].sum(), abs=1e-12)
        assert report.metrics[f"segmentation/giou[{part}]"].n == some.sum()
    low, high = report.intervals["segmentation/ciou"]
    assert low < values["segmentation/ciou"] < high


def test_pixels_that_changed_are_what_numpy_says():
    found = scenes(200, 2)
    rows = [asked(n, mask, grid) for n, (mask, grid) in enumerate(found)]
    true = np.concatenate([mask.ravel() for mask, _ in found])
    said = np.concatenate([spread(grid, mask).ravel() for mask, grid in found])
    table = np.bincount(2 * true + said, minlength=4).reshape(2, 2)  # [true, said], over the whole set
    right, precision, recall = table[1, 1], table[1, 1] / table[:, 1].sum(), table[1, 1] / table[1].sum()
    iou = np.diag(table) / (table.sum(0) + table.sum(1) - np.diag(table))
    values = {name: metric.value for name, metric in ChangeMasks()(rows, READ).metrics.items()}
    assert values["change/precision"] == pytest.approx(precision, abs=1e-12)
    assert values["change/recall"] == pytest.approx(recall, abs=1e-12)
    assert values["change/f1"] == pytest.approx(2 * right / (2 * right + table[0, 1] + table[1, 0]), abs=1e-12)
    assert values["change/f1"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)
    assert values["change/iou"] == pytest.approx(iou[1], abs=1e-12)
    assert values["change/miou"] == pytest.approx(iou.mean(), abs=1e-12)


EMPTY, HALF = np.zeros((2, 2), bool), np.array([[1, 1], [0, 0]], bool)
UPPER, NONE = np.repeat([True, False], 20)[:, None].repeat(40, 1), np.zeros((40, 40), bool)


@pytest.mark.parametrize(
    ("mask", "said", "giou", "geo_r1", "n_acc", "unreadable"),
    [
        (NONE, EMPTY, 1.0, 0.0, 1.0, 0.0),
        (NONE, HALF, 0.0, 0.0, 0.0, 0.0),
        (NONE, "there is none", 0.0, 0.0, 0.0, 1.0),  # not right for saying nothing
        (UPPER, EMPTY, 0.0, 0.0, None, 0.0),
        (UPPER, HALF, 1.0, 1.0, None, 0.0),
        (UPPER, ~EMPTY, 0.5, 0.5, None, 0.0),
        (UPPER, "", 0.0, 0.0, None, 1.0),
    ],
)
def test_empty_masks_and_unreadable_answers(mask, said, giou, geo_r1, n_acc, unreadable):
    report = Masks()([asked(0, mask, said)], READ)
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["segmentation/giou"] == giou and values["segmentation/giou:geo_r1"] == geo_r1
    assert values.get("segmentation/n_acc") == n_acc and values["segmentation/unreadable"] == unreadable
    assert ("segmentation/acc@0.5" in values) == mask.any()


def test_an_unreadable_answer_has_the_true_mask_as_its_union():
    """IoU 1 and 0 of two equal masks of 800 pixels: cIoU 800 / 1600."""
    report = Masks()([asked(0, UPPER, HALF), asked(1, UPPER, "the dam")], READ)
    assert report.metrics["segmentation/ciou"].value == 0.5
    # and adds nothing where nothing is there
    report = Masks()([asked(0, UPPER, HALF), asked(1, NONE, "the dam")], READ)
    assert report.metrics["segmentation/ciou"].value == 1.0 and report.metrics["segmentation/giou"].value == 0.5


def test_nothing_true_and_nothing_said_has_no_ciou():
    report = Masks()([asked(0, NONE, EMPTY)], READ)
    assert "segmentation/ciou" not in report.metrics and report.metrics["segmentation/giou"].value == 1
    changed = ChangeMasks()([asked(0, NONE, EMPTY)], READ)
    assert changed.missing["change/recall"] == "no pixel has changed" and "change/miou" not in changed.metrics
    assert changed.missing["change/precision"] == "no pixel is said to have changed"


def test_what_the_form_leaves_to_a_perfect_answer():
    """A quarter of a cell: the form says the whole of it. A mask of whole cells loses nothing, nor an empty one."""
    small = np.zeros((56, 56), bool)
    small[:14, :14] = True
    whole = np.zeros((56, 56), bool)
    whole[:28] = True
    for masks, expected in (((small,), 0.25), ((whole, NONE), 1.0), ((small, whole), 0.625)):
        rows = [asked(n, mask, EMPTY) for n, mask in enumerate(masks)]
        assert Masks()(rows, READ).metrics["segmentation/giou:form"].value == expected


def test_conventions_say_how_masks_are_read():
    said = Masks()([asked(0, UPPER, HALF), asked(1, NONE, HALF)], READ).metrics
    for name in ("segmentation/giou", "segmentation/acc@0.5", "segmentation/n_acc"):
        assert "an unreadable answer is an empty mask with IoU 0, also where nothing is there" in said[name].convention
        assert "read from the whole completion; masks written as rscovlm" in said[name].convention
    assert "both masks empty = 1, one of them empty = 0 (gRES, LISA)" in said["segmentation/giou"].convention
    assert "both masks empty = 0" in said["segmentation/giou:geo_r1"].convention


def test_a_report_by_recipe_has_them_beside_others():
    tagged = asked(0, UPPER, HALF)
    tagged.completion = f"<think>t</think><answer>{tagged.completion}</answer>"
    other = Prediction("1", "s", "vqa", "<think>t</think><answer>2</answer>", answer="2")
    report = metrics.evaluate([tagged, other], "qwen2_vl")
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["segmentation/giou"] == values["vqa/exact"] == values["format"] == 1
    assert metrics.judge(tagged, Reading("qwen2_vl")).iou == 1


def test_a_prediction_says_its_form_itself():
    """Four cells a side in the model's own picture, 32 in the form `grid32`."""
    grid = np.zeros((32, 32), bool)
    grid[:16] = True
    row = asked(0, UPPER, grid, form="grid32")
    assert metrics.judge(row, READ).iou == 1
    row.form = None
    assert metrics.judge(row, Reading("qwen2_vl", "text", "grid32")).iou == 1


def test_masks_of_another_size_are_refused(tmp_path):
    row = asked(0, UPPER, HALF)
    row.size = (40, 41)
    with pytest.raises(DataError, match="'s/0', field 'mask': found a mask of 40 x 40 pixels, expected that of its im"):
        Masks()([row], READ)
    row.mask = None
    with pytest.raises(DataError, match="no 'mask', which segmentation is scored by"):
        Masks()([row], READ)


def test_predictions_keep_masks_and_are_drawn(tmp_path):
    """From a sample through the file to a cell of the picture grid."""
    Image.new("RGB", (40, 40), "#777").save(tmp_path / "a.png")
    turns = [{"role": "user", "content": "the dam"}]
    images = [str(tmp_path / "a.png")] * 2
    sample = Sample(images, turns, "segmentation", size=(40, 40), id="0", source="s", mask=runs_of(UPPER))
    sample.dates = ["2019", "2020"]
    row = predictions.from_sample(sample, text_of(~EMPTY), resized=(56, 56), form="rscovlm")
    predictions.write(tmp_path / "p.jsonl", [row])
    (read,) = predictions.read(tmp_path / "p.jsonl")
    assert read == row and json.loads((tmp_path / "p.jsonl").read_text())["images"] == images
    (shown,) = stage.pictures([read], 12, READ)
    assert shown == Picture(
        images[0],
        "the dam",
        right=True,
        judged="IoU 0.50: 800 pixels there, 1,600 said",
        mask=runs_of(UPPER),
        said=runs_of(~NONE),
        further=images[1:],
        dates=["2019", "2020"],
    )
    read.completion = "no idea"
    (shown,) = stage.pictures([read], 12, READ)
    assert (shown.said, shown.answer, shown.judged, shown.right) == (None, "no idea", "no mask read", False)


def test_an_evaluation_from_rows_to_pictures(tiny_model, tmp_path, monkeypatch, capsys):
    """A server that always says the upper half; of two questions it is right in one. A pair of dates is asked, too. The
    same folder is scored again by a recipe from before there were masks."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for n in range(2):
        Image.effect_noise((56, 56), 40 + 40 * n).convert("RGB").save(tmp_path / f"{n}.png")
    ask = {"messages": [{"role": "user", "content": "the dam"}], "task": "segmentation", "size": [56, 56]}
    pair = {"messages": [{"role": "user", "content": "What changed?"}], "task": "vqa", "answer": "2"}
    upper = [[0, 0, 56, 0, 56, 28, 0, 28]]
    left = [[0, 0, 28, 0, 28, 56, 0, 56]]
    rows = [ask | {"images": ["0.png"], "mask": upper, "id": "0"}, ask | {"images": ["1.png"], "mask": left, "id": "1"}]
    rows.append(pair | {"images": ["0.png", "1.png"], "dates": ["2019-04", "2021-06"], "id": "2"})
    dump(tmp_path / "q.jsonl", rows)
    said = completion("<think>t</think><answer><seg>1*2;0*2;</seg></answer>")
    with FakeJudge(default=lambda body: said) as judge:
        at = {"address": judge.section().address, "model": "tiny", "concurrency": 1, "retries": 0}
        words = [f"model.path={tiny_model}", f"output={tmp_path / 'run'}", f"data.eval=[{{path: {tmp_path}/q.jsonl}}]"]
        words += ["generation.backend=endpoint", f"endpoint={json.dumps(at)}", "controls=[swapped]"]
        words += ["images={min_pixels: 3136, max_pixels: 3136}", "gold=null"]
        report = stage.run(config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, words))
    values = {name: metric.value for name, metric in report.metrics.items()}
    assert values["segmentation/giou"] == (1 + 1 / 3) / 2 and values["segmentation/ciou"] == (1568 + 784) / (
        1568 + 2352
    )
    assert values["segmentation/acc@0.5"] == 0.5 and values["segmentation/giou:form"] == 1
    table = (tmp_path / "run/table.md").read_text()
    assert "| segmentation/giou | 2 |" in table and "masks written as rscovlm" in table
    with Image.open(tmp_path / "run/pictures.png") as page:
        colours = {colour for _, colour in page.convert("RGB").getcolors(10**6)}
        assert {ImageColor.getrgb(one) for one in (TRUE, PREDICTED)} <= colours
        assert page.width == 4 * 300 + 5 * 16  # two masks, and a pair that takes two places
    assert "·swapped" in table
    text = (tmp_path / "run/recipe.yaml").read_text()
    old = re.sub(r"\n  (masks|pictures): .*", "", text)
    assert "masks" in text and "masks" not in old
    (tmp_path / "run/recipe.yaml").write_text(old)
    assert stage.load_report(tmp_path / "run").metrics["segmentation/giou"].value == values["segmentation/giou"]
