"""launch/eval.py --benchmarks on tiny folders in the real layouts: by one process, killed, and by two."""

import json
import os
import sys

import pytest
from PIL import Image

from evals import ranks, stage
from evals.asking import conversation
from evals.benchmarks import session
from evals.comparing import sidebyside
from samples import mixture
from stage.runs import FINISHED
from tests.support import benchmark_folders
from tests.support.processes import forked
from tests.support.processes.commands import ROOT, errors, run, two_processes
from vlm.common.errors import UserError
from vlm.pictures import images, resizing

NAMES = "vg-dior,aid,lhrs-bench,dota"
SMALL = ["generation.max_new_tokens=6", "generation.batch_size=2", "model.dtype=float32", "pictures=2"]
LIMITS = ["images.min_pixels=12544", "images.max_pixels=12544"]

KILLED = """
import os, runpy, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from evals import predictions
real, told = predictions.line, []
def line(row):
    told.append(row)
    if os.environ["RANK"] == "1" and sum(one.task == "grounding" for one in told) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(row)
predictions.line = line
runpy.run_path(os.path.join(sys.path[0], "launch/eval.py"), run_name="__main__")
"""
"""launch/eval.py, whose second process dies in its second answer about a box."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    benchmark_folders.vg_dior(folder)
    benchmark_folders.aid(folder)
    benchmark_folders.lhrs_bench(folder)
    benchmark_folders.dota(folder)
    return folder


def command(model, data, out, *more):
    return ["--benchmarks", NAMES, "--model", model, "--data", str(data), "--out", str(out), *SMALL, *LIMITS, *more]


def answers(out):
    return {path.parent.name: path.read_text() for path in sorted(out.glob(f"*/{ranks.FILE}"))}


@pytest.fixture(scope="module")
def whole(tiny_model, data, tmp_path_factory):
    """All four, answered by this process alone."""
    out = tmp_path_factory.mktemp("whole")
    assert session.main(command(tiny_model, data, out)) == 0
    return out


def test_what_a_session_leaves(whole):
    assert {name: text.count("\n") for name, text in answers(whole).items()} == {
        "aid": 4,
        "dota": 2,
        "lhrs-bench": 3,
        "vg-dior": 6,
    }
    metrics = json.loads((whole / "vg-dior/metrics.json").read_text())
    assert metrics["grounding/acc@0.5"]["n"] == 6 and "IoU >= 0.5" in metrics["grounding/acc@0.5"]["convention"]
    assert metrics["grounding/acc@0.5:rscovlm"]["convention"].startswith("IoU > 0.5")
    assert {"low", "high"} <= metrics["grounding/acc@0.5"].keys()
    summary = (whole / "summary.md").read_text()
    for line in (
        "| vg-dior | grounding/acc@0.5 | 6 |",
        "| lhrs-bench | choice/accuracy | 3 |",
        "| dota | detection/ap",
    ):
        assert line in summary
    assert set(json.loads((whole / "summary.json").read_text())) == set(NAMES.split(","))
    asked = [json.loads(line) for line in (whole / "dota" / ranks.FILE).read_text().splitlines()]
    assert [row["prompt"] for row in asked] == ["plane, ship"] * 2 and [len(row["labels"]) for row in asked] == [3, 1]
    assert asked[0]["difficult"].count(True) == 1 and asked[1]["classes"] == ["plane", "ship"]
    assert (whole / "vg-dior/pictures.png").exists() and (whole / "aid/recipe.yaml").exists()


@pytest.mark.slow
def test_two_processes_one_of_which_is_killed(whole, tiny_model, data, tmp_path, capsys, caplog):
    """`accelerate launch` with two processes finishes the first benchmark, and is killed (SIGKILL) in the second; this
    process alone goes on. The answers are those of one process from beginning to end, and none is given twice."""
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(KILLED)
    words = command(tiny_model, data, out)
    words[1] = "aid,vg-dior"
    done = forked.run([*two_processes(), script, ROOT, *words], cwd=tmp_path, expect=1)
    assert done.stdout.count("│ classification/accuracy ") == 1  # the main process speaks
    assert answers(out) == {"aid": answers(whole)["aid"]} and (out / "aid" / FINISHED).exists()
    left = (out / "vg-dior/predictions.rank1-of-2.jsonl").read_text()
    assert left.count("\n") == 1 and not (out / "vg-dior" / FINISHED).exists()
    words[1] = NAMES
    with caplog.at_level("INFO", "evals"):
        assert session.main(words) == 0
    assert answers(out) == answers(whole) and not list(out.glob("*/predictions.rank*"))
    assert left in answers(out)["vg-dior"] and "of 6 questions are answered" in caplog.text
    assert "aid: finished before" in capsys.readouterr().err
    for name in NAMES.split(","):
        assert (out / name / "metrics.json").read_text() == (whole / name / "metrics.json").read_text()


def test_pictures_beyond_pillows_bound(tiny_model, tmp_path, monkeypatch, capsys):
    """91 megapixels in a benchmark that lifts the limit, after one that does not: never decoded whole."""
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.setenv("NADIR_PICTURES", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    benchmark_folders.aid(tmp_path / "data")
    path = tmp_path / "data/LRS_VQA/image/FAIR_1.tif"
    path.parent.mkdir(parents=True)
    tiles = {"tiled": True, "blockxsize": 2048, "blockysize": 2048, "photometric": "RGB", "sparse_ok": True}
    with rasterio.open(
        path, "w", driver="GTiff", width=10_000, height=9_100, count=3, dtype="uint8", compress="deflate", **tiles
    ):
        pass
    row = {"question_id": 0, "image": "LRS_VQA/image/FAIR_1.tif", "category": "color", "text": "Which colour is it?",
           "ground_truth": "black", "image_size": [9100, 10000]}  # fmt: skip
    (tmp_path / "data/LRS_VQA/LRS_VQA_merged.jsonl").write_text(json.dumps(row) + "\n")
    shown, whole = [], images.load
    monkeypatch.setattr(conversation, "shown", lambda *given: shown.append(resizing.shown(*given)) or shown[-1])

    def load(image, at=None):
        assert at is not None or image != str(path)
        return whole(image, at)

    monkeypatch.setattr(images, "load", load)
    words = command(tiny_model, tmp_path / "data", tmp_path / "out", "--limit", "1")
    words[1] = "aid,lrs-vqa"
    assert session.main(words) == 0, capsys.readouterr().err
    assert [picture.size for picture in shown[1:]] == [
        (234, 213)
    ]  # 4 times 12,544 pixels, as 112 x 84 are too few for the recipe
    (said,) = [json.loads(line) for line in (tmp_path / "out/lrs-vqa" / ranks.FILE).read_text().splitlines()]
    assert said["size"] == [10_000, 9_100] and (tmp_path / "out/lrs-vqa/pictures.png").exists()
    assert session.main([*words[:-2], "--dry-run", "images.limit=89478485"]) == 2
    assert "FAIR_1.tif: found 10000 x 9100 = 91000000 pixels" in capsys.readouterr().err


def test_the_same_command_again_reads_what_is_finished(whole, tiny_model, data, capsys, monkeypatch):
    monkeypatch.setattr(stage, "run", lambda *a, **k: pytest.fail("asked again"))
    before = answers(whole)
    assert session.main(command(tiny_model, data, whole)) == 0
    assert answers(whole) == before and capsys.readouterr().err.count("finished before") == 4
    assert session.main(command(tiny_model, data, whole, "generation.max_new_tokens=7")) == 2
    assert "another recipe (different: generation.max_new_tokens)" in capsys.readouterr().err


def test_limits_plans_and_errors(tiny_model, data, tmp_path, capsys):
    out = tmp_path / "out"
    assert session.main(command(tiny_model, data, out, "--limit", "1", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "dota: 1 questions" in said and "vg-dior: 1 questions" in said and not out.exists()
    assert session.main(["--benchmarks", "nwpu,aid", "--model", tiny_model, "--data", str(data)]) == 2
    assert f"error: nwpu: not found: {data}/NWPU-RESISC45" in capsys.readouterr().err
    assert session.main(["--list", "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "aid: AID (arXiv 1608.05167)" in said and "nwpu: NWPU-RESISC45" in said and f"not below {data}" in said


def test_incomplete_classes_are_told(tiny_model, data, tmp_path, caplog):
    recipe = session.recipe("aid", session.parser().parse_intermixed_args(command(tiny_model, data, tmp_path)))
    with caplog.at_level("WARNING", "evals"):
        assert len(stage.questions(recipe, mixture.draw(recipe.data, "eval", 0).samples)) == 4
    assert "aid: found 2 classes, expected 30" in caplog.text


def test_side_by_side_with_published_figures(whole, tmp_path, capsys):
    sidebyside.show([f"base={whole}", f"again={whole}"], tmp_path / "out", published=True)
    table = (tmp_path / "out/table.md").read_text()
    assert "## vg-dior" in table and "## lhrs-bench" in table
    assert "| R1 | grounding/acc@0.5 | 64.52 | published: ScoreRS, arXiv 2503.00743 |" in table
    assert "| R1 | choice/accuracy | 69.13 | published:" in table
    assert "| **again** | grounding/acc@0.5 | 0.0 [0.0, 0.0] | measured here |" in table
    assert "base → again: grounding/acc@0.5 0.0 -> 0.0: +0.0 points" in table
    assert (tmp_path / "out/comparison.png").read_bytes().startswith(b"\x89PNG")
    sidebyside.show([f"base={whole}"], tmp_path / "plain")
    assert "published: ScoreRS" not in (tmp_path / "plain/table.md").read_text()
    panel = sidebyside.panel("vg-dior", "grounding/acc@0.5", {"base": sidebyside.evaluations(whole)["vg-dior"]}, True)
    assert [mark.published for mark in panel.marks] == [True] * 8 + [False]
    assert (panel.marks[-1].low, panel.marks[-1].high) == (0, 0) and panel.marks[0].low is None
    other = sidebyside.panel("dior-rsvg", "grounding/acc@0.5", {}, True)
    assert other.marks[0].model == "RSCoVLM (rscovlm)"  # > 0.5, unlike ours
    assert "FAIR, Bridge and STAR" in sidebyside.panel("lrs-vqa", "vqa/mean_of_sources:wordnet", {}, True).note
    with pytest.raises(UserError, match="no predictions.jsonl, nor do its folders"):
        sidebyside.show([f"base={tmp_path / 'nowhere'}"], None)


def test_the_launcher_tells_the_two_forms_apart():
    done = run([sys.executable, ROOT / "launch/eval.py", "--benchmarks=vg-dior"], cwd=os.sep, expect=2)
    assert errors(done.stderr) == ["error: --benchmarks NAMES and --model PATH are needed; --list lists the benchmarks"]


def test_help_of_the_launcher_shows_both_forms(started):
    said = started("launch/eval.py", "--help")
    assert "YAML recipe" in said and "--keys" in said
    for option in ("--benchmarks", "--list", "--data", "--style", "--notation", "--limit"):
        assert option in said
    assert "Or one model on public benchmarks:" in said
    assert "--benchmarks BENCHMARKS" in started("launch/eval.py", "--help", "--benchmarks", "aid")
