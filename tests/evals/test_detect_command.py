"""launch/detect.py on folders of two scenes: by the tiny model, by one that knows the truth, stopped, and on."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.asking.answering import Answering
from evals.merging import commands, whole
from evals.merging.whole import Asked, Source
from samples.tiles import manifest
from samples.tiles.cutting import Cutting
from stage.cli import guarded
from tests.support.processes.commands import ROOT, errors, run
from vlm.boxes import write_detections
from vlm.common.errors import UserError

HOW = ["--size", 112, "--gap", 32]
RECIPE = [
    "generation.max_new_tokens=6", "generation.batch_size=4", "model.dtype=float32", "images.min_pixels=12544",
    "images.max_pixels=12544", "pictures=0",
]  # fmt: skip
LABELS = {
    "P1": "10 10 40 10 40 30 10 30 plane 0\n90 20 90 60 130 60 130 20 small-vehicle 0\n"  # on the seam at x = 112
    "200 150 260 150 260 190 200 190 ship 1\n",
    "P2": "5 5 20 5 20 20 5 20 plane 0\n",
}
SUBMITTED = {
    "plane": [("P1", [10, 10, 40, 10, 40, 30, 10, 30]), ("P2", [5, 5, 20, 5, 20, 20, 5, 20])],
    "ship": [("P1", [200, 150, 260, 150, 260, 190, 200, 190])],
    "small-vehicle": [("P1", [90, 20, 130, 20, 130, 60, 90, 60])],
}


@pytest.fixture
def dota(tmp_path) -> Path:
    folder = tmp_path / "DOTA"
    for name in ("images", "labelTxt"):
        (folder / name).mkdir(parents=True)
    for number, (name, size) in enumerate({"P1": (300, 220), "P2": (90, 70)}.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{name}.png")
        (folder / f"labelTxt/{name}.txt").write_text(LABELS[name])
    return folder


class Knowing(Answering):
    """Writes the truth of each tile; is stopped by Ctrl-C after some answers."""

    def __init__(self, stop: int | None = None):
        self.stop, self.answered = stop, 0

    @property
    def loaded(self) -> bool:
        return True

    def draw(self, recipe, rows, halved=None):
        for row in rows:
            if self.answered == self.stop:
                raise KeyboardInterrupt
            self.answered += 1
            sample = row[0]
            seen = (112, 112)
            yield row, write_detections(sample.quads, sample.labels, "rscovlm_quad", sample.size, seen, sample.classes)


def words(*given) -> list[str]:
    return [str(word) for word in given]


def submitted(file: Path) -> dict[str, list]:
    found = {}
    with zipfile.ZipFile(file) as packed:
        for name in packed.namelist():
            lines = [line.split() for line in packed.read(name).decode().splitlines()]
            assert all(line[1] == "1.0" for line in lines)
            label = name.removeprefix("Task1_").removesuffix(".txt")
            found[label] = sorted((line[0], [float(number) for number in line[2:]]) for line in lines)
    return found


def asked(tiny_model) -> Asked:
    return Asked(tiny_model, notation="rscovlm_quad", overrides=RECIPE)


def source(dota, **more) -> Source:
    return Source(dota, Cutting(size=112, gap=32), **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_scenes_to_a_submission(dota, tiny_model, tmp_path, started):
    """The whole of it by the shipped kind of model, by the command line; again, it says what there is."""
    out = tmp_path / "out"
    line = words("run", dota, "--out", out, "--model", tiny_model, "--notation", "rscovlm_quad", *HOW, *RECIPE)
    said = started("launch/detect.py", *line, "--dry-run")
    assert "13 tiles" in said and "13 questions, for plane, ship, small vehicle, in rscovlm_quad" in said
    assert not out.exists()
    said = started("launch/detect.py", *line)
    assert "2 scenes (0 cut before), 13 tiles" in said and "13 tiles of 2 scenes" in said
    assert f"{out}/submission/Task1.zip" in said
    assert set(submitted(out / "submission/Task1.zip")) == set(SUBMITTED)
    before = contents(out)
    said = started("launch/detect.py", *line)
    assert "2 scenes (2 cut before)" in said and contents(out) == before
    assert "13 questions" in started("launch/detect.py", *line, "--dry-run") and contents(out) == before
    # step by step, the same comes of it
    tiles, merged = tmp_path / "tiles", tmp_path / "merged"
    assert "13 tiles" in started("launch/detect.py", *words("cut", dota, "--out", tiles, *HOW))
    assert contents(tiles).keys() == contents(out / "tiles").keys()
    started("launch/detect.py", *words("merge", out / "answers", "--out", merged))
    assert (merged / "Task1.zip").read_bytes() == (out / "submission/Task1.zip").read_bytes()


def test_the_truth_comes_back(dota, tiny_model, tmp_path, capsys):
    """What lies on a seam comes back once; scored against the scenes, all of it is right."""
    out = tmp_path / "out"
    merged = whole.run(source(dota), asked(tiny_model), out, answering=Knowing())
    assert submitted(out / "submission/Task1.zip") == SUBMITTED
    assert (merged.objects, merged.unreadable, merged.missing) == (4, 0, []) and merged.said > 4
    numbers = json.loads((out / "score/metrics.json").read_text())
    assert numbers["theta"]["theta"] == 0 and numbers["cut"]["detection/ap_nc@0.5"]["value"] == 1
    assert "ap_nc@0.5" in capsys.readouterr().out


def test_what_is_scored(dota, tiny_model, tmp_path, capsys):
    """Classes that were asked for: others of the truth count nowhere, and neither does what no scene has."""

    class Imagining(Knowing):
        def draw(self, recipe, rows, halved=None):
            yield from ((row, text + "1,1,9,1,9,9,1,9 harbor\n") for row, text in super().draw(recipe, rows))

    named = Source(dota, Cutting(size=112, gap=32, classes=["harbor", "plane"]))
    whole.run(named, asked(tiny_model), tmp_path / "out", answering=Imagining())
    numbers = json.loads((tmp_path / "out/score/metrics.json").read_text())
    assert numbers["cut"]["detection/ap_nc@0.5"]["value"] == 1
    assert "Task1_harbor.txt is not scored" in capsys.readouterr().err
    assert (tmp_path / "out/score/truth/P1.txt").read_text() == "10 10 40 10 40 30 10 30 plane 0\n"
    for file in (dota / "labelTxt").iterdir():
        file.write_text("")
    whole.run(named, asked(tiny_model), tmp_path / "none", answering=Imagining())
    assert "no scene has an object" in capsys.readouterr().err


@pytest.mark.parametrize("at", [0, 1, 7])
def test_ctrl_c_and_on(dota, tiny_model, tmp_path, at):
    out = tmp_path / "out"
    code = guarded(lambda: whole.run(source(dota), asked(tiny_model), out, answering=Knowing(stop=at)))
    assert code == 130 and not (out / "submission").exists()
    rest = Knowing()
    whole.run(source(dota), asked(tiny_model), out, answering=rest)
    assert rest.answered == 13 - at and submitted(out / "submission/Task1.zip") == SUBMITTED


def test_scenes_without_annotation(dota, tiny_model, tmp_path, capsys):
    """Classes have to be named; nothing is scored."""
    (dota / "labelTxt").rename(tmp_path / "labelTxt")
    with pytest.raises(UserError, match="--classes dota-1.0"):
        whole.run(source(dota), asked(tiny_model), tmp_path / "out", answering=Knowing())
    named = Source(dota, Cutting(size=112, gap=32, classes=["plane", "ship"]))
    merged = whole.run(named, asked(tiny_model), tmp_path / "other", answering=Knowing())
    assert not (tmp_path / "other/score").exists()
    assert merged.by_class == {"plane": 0, "ship": 0} and merged.tiles == 13
    assert "has no annotations" in capsys.readouterr().err


def test_tiles_and_answers_of_another_run_are_refused(dota, tiny_model, tmp_path):
    out = tmp_path / "out"
    whole.run(source(dota), asked(tiny_model), out, answering=Knowing())
    with pytest.raises(UserError, match="was cut otherwise"):
        whole.run(Source(dota, Cutting(size=112, gap=30)), asked(tiny_model), out, answering=Knowing())
    other = Asked(tiny_model, notation="rscovlm_obb", overrides=RECIPE)
    with pytest.raises(UserError, match="holds an evaluation by another recipe"):
        whole.run(source(dota), other, out, answering=Knowing())


def test_a_model_that_cannot_name_objects_is_refused_before_cutting(dota, tiny_model, tmp_path):
    with pytest.raises(UserError, match="no place for what an object is called"):
        whole.run(source(dota), Asked(tiny_model, notation="vhm"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parameters_of_the_command_line():
    import argparse

    parser = argparse.ArgumentParser()
    commands.add(parser.add_subparsers(dest="command"))
    given = commands.parse(parser, words("cut", "x", "--out", "y", "--preset", "mmrotate_1024", "--rates", "0.5,1"))
    assert commands.cutting(given) == Cutting(size=1024, gap=200, rates=[0.5, 1.0])
    more = words("cut", "x", "--out", "y", "--padding", "none", "--classes", "small-vehicle,plane", "--no-empty")
    expected = Cutting(padding=None, classes=["plane", "small vehicle"], empty=False)
    assert commands.cutting(commands.parse(parser, more)) == expected
    raster = words("cut", "x", "--out", "y", "--raster", '{"bands": [4, 3, 2], "stretch": {"range": [0, 3000]}}')
    assert commands.cutting(commands.parse(parser, raster)).raster.bands == [4, 3, 2]
    for wrong in (["--rates", "a"], ["--padding", "1,2"], ["--gap", 512], ["--raster", "x"], ["--classes", ","]):
        with pytest.raises(UserError):
            commands.cutting(commands.parse(parser, words("cut", "x", "--out", "y", *wrong)))
    with pytest.raises(SystemExit):
        commands.parse(parser, words("cut", "x", "--out", "y", "generation.seed=1"))
    named = words("run", "x", "seed=3", "--out", "y", "--model", "m", "images.max_pixels=9")
    assert commands.parse(parser, named).overrides == ["seed=3", "images.max_pixels=9"]


def test_errors_are_messages(tmp_path):
    """As a user types it, from another directory: exit code 2, one line, nothing written."""
    done = run([sys.executable, ROOT / "launch/detect.py", "cut", "no", "--out", "out"], tmp_path, expect=2)
    assert "no such file or folder" in errors(done.stderr)[0] and not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    done = run([sys.executable, ROOT / "launch/detect.py", "merge", "empty", "--out", "out"], tmp_path, expect=2)
    assert "holds no predictions.jsonl" in errors(done.stderr)[0]
    assert manifest.read(tmp_path) is None
