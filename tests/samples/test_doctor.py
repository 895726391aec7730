"""The data doctor as a command: what is found, what is written, and the promised exit codes."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from samples.doctor import gallery
from samples.doctor.examine import examine
from samples.doctor.subject import Ruler, Subject
from samples.sections import DataSection, SourceSection
from stage.recipe import config
from tests.support.doctored import asked, doctor, put_data, texture
from tests.support.processes.commands import ROOT
from tests.support.processes.forked import run
from tests.support.runs.example_recipe import message
from tests.support.sample_rows import dump
from vlm.families.sight import Grid
from vlm.sections import PromptSection

SIGHT = Grid(28, 12544, 12544)


@pytest.fixture
def folder(tmp_path):
    return put_data(tmp_path)


def found(folder) -> dict:
    return json.loads((folder / "out/report.json").read_text())


def test_clean_data_is_fit(folder, capsys):
    assert doctor(folder, "data.train.0.percent=50", "data.train.0.repeat=2") == 0
    report = found(folder)
    assert report["fit"] and not report["faults"] and not report["warnings"]
    train, held_out = report["sources"]
    assert [train[name] for name in ("role", "rows", "fit", "unfit", "other_tasks", "faulty")] == [
        "train",
        6,
        6,
        0,
        0,
        0,
    ]
    assert train["tasks"] == {"vqa": {"count": 6}} and held_out["rows"] == 3
    # 64² pixels are enlarged to 112²: 4 × 4 tokens of 28 × 28 pixels
    assert report["pictures"]["sizes"] == [{"size": [64, 64], "pictures": 4}]
    assert report["pictures"]["visual_tokens"] == {"count": 4, "min": 16.0, "median": 16.0, "p95": 16.0, "max": 16.0}
    assert report["answers"]["words"] == {"count": 9, "min": 2.0, "median": 2.0, "p95": 2.0, "max": 2.0}
    assert report["mixture"]["train"]["rows"] == 6  # three of six, twice
    assert (folder / "out/faults.jsonl").read_text() == ""
    with Image.open(folder / "out/data.png") as picture:
        assert min(picture.size) > 200
    assert "fit: no faults" in capsys.readouterr().out


def missing_image(folder):
    (folder / "b.png").unlink()


def cut_short(folder):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:3000])


def faulty_row(folder):
    with open(folder / "train.jsonl", "a") as file:
        file.write(json.dumps(asked("a.png", 7, task="grounding", boxes=[[1, 1, 900, 9]])) + "\n{\n")


def all_rows_faulty(folder):
    dump(folder / "train.jsonl", [asked("gone.png", 1), asked("gone.png", 2)])


def nothing_drawn(folder):
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("train.jsonl}", "train.jsonl, percent: 1}"))


def too_thin(folder):
    Image.new("RGB", (900, 4)).save(folder / "b.png")


def the_same_file(folder):
    dump(folder / "test.jsonl", [asked("d.png", 0), asked("a.png", 1)])


def a_copy(folder):
    shutil.copy(folder / "c.png", folder / "d.png")


def another_format(folder):
    Image.open(folder / "c.png").save(folder / "d.tiff", compression="tiff_lzw")
    dump(folder / "test.jsonl", [asked("d.tiff", 1)])


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (missing_image, "2 faulty rows"),
        (cut_short, "1 pictures: cannot be decoded (2 rows show such a picture)"),
        (faulty_row, "2 faulty rows"),
        (all_rows_faulty, "all 2 rows are faulty"),
        (nothing_drawn, "percent = 1 of 6 rows is none"),
        (too_thin, "2 faulty rows"),
        (the_same_file, "1 pictures of the evaluation are in training, too: same file"),
        (a_copy, "1 pictures of the evaluation are in training, too: same pixels"),
        (another_format, "1 pictures of the evaluation are in training, too: same pixels"),
    ],
)
def test_faults_make_data_unfit(folder, spoil, fault, capsys, monkeypatch):
    monkeypatch.setattr("samples.doctor.figure.draw", lambda *_: None)
    spoil(folder)
    assert doctor(folder) == 1
    report = found(folder)
    assert not report["fit"] and any(fault in text for text in report["faults"])
    assert "not fit" in capsys.readouterr().out
    for source in report["sources"]:
        parts = ("fit", "unfit", "other_tasks", "faulty", "left_out")
        assert source["rows"] == sum(source[part] for part in parts)


def test_a_shared_file_is_named_with_both_rows(folder):
    the_same_file(folder)
    doctor(folder)
    (pair,) = found(folder)["contamination"]["pairs"]
    assert (pair["train_row"], pair["eval_row"], pair["rows"]) == ("train/0", "test/1", 1)
    assert pair["train"] == pair["eval"] == str(folder / "a.png")


def test_faulty_rows_are_all_written_down(folder):
    faulty_row(folder)
    doctor(folder)
    lines = [json.loads(line) for line in (folder / "out/faults.jsonl").read_text().splitlines()]
    assert [(line["role"], line["kind"]) for line in lines] == [("train", "box_outside"), ("train", "json")]
    assert "train.jsonl, line 7, field 'boxes'" in lines[0]["message"] and "line 8" in lines[1]["message"]


def test_a_reencoded_picture_is_a_warning(folder):
    """The pair is named; --strict makes it a fault."""
    Image.open(folder / "b.png").resize((96, 96)).save(folder / "d.png", "JPEG", quality=70)
    assert doctor(folder) == 0
    (pair,) = found(folder)["contamination"]["pairs"]
    assert (pair["kind"], pair["train"], pair["eval"]) == ("alike", str(folder / "b.png"), str(folder / "d.png"))
    assert (pair["train_row"], pair["eval_row"], pair["rows"]) == ("train/1", "test/0", 3)
    assert 0 < pair["bits"] <= 24
    assert doctor(folder, strict=True) == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.trian=[]"], "unknown key"),
        (["data.train.0.path=gone.jsonl"], "gone.jsonl: no such file"),
        (["data.train=[]", "data.eval=[]"], "there is nothing to examine"),
        (["data.train.0.ratio=1"], "ratio is a part of a total"),
    ],
)
def test_a_wrong_recipe_is_another_code(folder, overrides, expected, capsys):
    assert doctor(folder, *overrides) == 2
    assert expected in capsys.readouterr().err


def test_another_recipes_evaluation(folder):
    """`--against`: what is evaluated by another recipe."""
    a_copy(folder)
    text = (folder / "recipe.yaml").read_text()
    (folder / "eval.yaml").write_text(text.replace("stage: grpo", "stage: eval"))
    assert doctor(folder, "data.eval=[]") == 0
    assert any("no contamination is looked for: data.eval is empty" in note for note in found(folder)["notes"])
    assert doctor(folder, "data.eval=[]", against=str(folder / "eval.yaml")) == 1


def test_the_command_asks_for_a_recipe_only():
    done = run([sys.executable, ROOT / "launch/data.py"], expect=2)
    assert "error: a recipe is needed, e.g. recipes/r1.yaml" in done.stderr and "overrides" not in done.stderr


def test_recipes_of_other_stages(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: serve\n")
    from rl.recipe import GRPORecipe

    assert "`stage` is 'serve'; expected one of grpo" in message(config.load_any, path, [GRPORecipe])
    path.write_text("output: x\n")
    assert "`stage` is None" in message(config.load_any, path, [GRPORecipe])
    path.write_text("stage: [grpo]\n")
    assert "`stage` is ['grpo']; expected" in message(config.load_any, path, [GRPORecipe])


KINDS = {
    "good": {},
    "caption": {"task": "caption"},
    "no file": {"images": ["gone.png"]},
    "cut": {"images": ["a.png", "cut.png"]},
    "no answer": {"answer": None},
    "no turns": {"messages": []},
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=12), st.none() | st.integers(1, 6))
def test_rows_in_are_rows_out_and_rows_reported(folder, kinds, limit):
    """Against counts by hand, with a task filter and a limit; what lies behind the limit is not read."""
    cut_short(folder)
    shutil.copy(folder / "b.png", folder / "cut.png")
    dump(folder / "train.jsonl", [asked("a.png", n, **KINDS[kind]) for n, kind in enumerate(kinds)])
    data = DataSection(
        train=[SourceSection(path=str(folder / "train.jsonl"), format="nadir", limit=limit)], tasks=["vqa"]
    )
    (source,) = examine(Subject(data, 0, Ruler(PromptSection()), SIGHT), folder, 1).sources
    passing = [n for n, kind in enumerate(kinds) if kind in ("good", "cut")]
    read = kinds if limit is None or len(passing) < limit else kinds[: passing[limit - 1] + 1]
    assert (source.fit, source.unfit, source.other_tasks) == tuple(map(read.count, ("good", "cut", "caption")))
    assert source.faults.kinds["missing_image"] == read.count("no file")
    assert source.faults.kinds["missing_field"] == read.count("no answer")
    assert source.faults.kinds["conversation"] == read.count("no turns")
    assert source.rows == len(read) == source.fit + source.unfit + source.other_tasks + source.faults.skipped


def test_each_picture_is_decoded_once(folder, monkeypatch):
    """However many rows show it, in training and evaluation; bytes by their content."""
    decoded = []
    monkeypatch.setattr(gallery.images, "preview", lambda picture: decoded.append(picture) or texture(9))
    dump(folder / "test.jsonl", [asked("a.png", n) for n in range(50)])
    doctor(folder)
    assert sorted(decoded) == [str(folder / f"{name}.png") for name in "abc"]
    with gallery.Gallery(1) as shown:
        assert [shown.add(b"one", "train", "r"), shown.add(b"two", "train", "r"), shown.add(b"one", "eval", "s")] == [
            0,
            1,
            0,
        ]
        shown.finish()
    assert decoded[3:] == [b"one", b"two"] and list(shown.roles) == [3, 1]
    assert {role: list(counts) for role, counts in shown.rows.items()} == {"train": [1, 1], "eval": [1, 0]}
    assert shown.shown_by == {"train": ["r", "r"], "eval": ["s", ""]}


def test_ctrl_c_leaves_no_process(folder):
    """In the middle of decoding, with pictures under way in two workers."""
    for number in range(40):
        shutil.copy(folder / "a.png", folder / f"{number}.png")
    dump(folder / "train.jsonl", [asked(f"{n}.png", n) for n in range(40)])

    def interrupt(rows, decoded, pictures):
        if decoded:
            raise KeyboardInterrupt

    subject = Subject(
        DataSection(train=[SourceSection(path=str(folder / "train.jsonl"))]), 0, Ruler(PromptSection()), SIGHT
    )
    others = set(multiprocessing.active_children())  # workers of another test's data loader, which waits to be freed
    with pytest.raises(KeyboardInterrupt):
        examine(subject, folder, 2, interrupt)
    assert set(multiprocessing.active_children()) <= others


def test_ctrl_c_has_its_code(folder, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("samples.doctor.command.examine", interrupted)
    assert doctor(folder) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_command(folder):
    """In a process of its own, with workers, from another folder."""
    a_copy(folder)
    done = run([sys.executable, ROOT / "launch/data.py", "recipe.yaml", "--workers", "2"], cwd=folder, expect=1)
    assert "fault: contamination: 1 pictures" in done.stdout and "Traceback" not in done.stderr
    (pair,) = json.loads((folder / "run/doctor/report.json").read_text())["contamination"]["pairs"]
    assert (pair["kind"], pair["bits"]) == ("same pixels", 0)
    assert (folder / "run/doctor/data.png").exists()
