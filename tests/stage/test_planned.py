"""What a dry run reads from a recipe: rows counted as training would draw them, one plan however many processes."""

from __future__ import annotations

import json

import pytest

from rl import stage
from rl.recipe import GRPORecipe
from samples.mixture import count, draw
from samples.rows import chat_rows, prompt_rows
from samples.sections import DataSection, SourceSection
from sft import stage as sft_stage
from sft.recipe import SFTRecipe
from stage.cli import launch
from stage.recipe import config
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump
from vlm.common.errors import DataError, RecipeError
from vlm.pictures.resizing import by_role


@pytest.fixture
def mixed(tmp_path):
    """Seven text questions: five of VQA, two of choice."""
    lines = [
        {
            "images": [],
            "messages": [{"role": "user", "content": "Q"}],
            "task": task,
            "answer": "A",
            "choices": choices,
        }
        for task, choices in [("vqa", None)] * 3 + [("choice", ["a", "b"])] * 2 + [("vqa", None)] * 2
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    ("data", "source", "expected"),
    [
        ({}, {}, 7),
        ({}, {"limit": 4}, 4),
        ({"tasks": ["vqa"]}, {}, 5),
        ({"tasks": ["choice"]}, {"limit": 1}, 1),
        ({"tasks": ["vqa", "choice"]}, {"limit": 9}, 7),
        ({"tasks": ["vqa"]}, {"percent": 50, "repeat": 2}, 6),  # 2.5 of 5 rows, rounded up
        ({"rows": 17}, {"ratio": 1.0}, 17),
    ],
)
def test_rows_are_counted_as_training_draws_them(mixed, data, source, expected):
    section = DataSection(train=[SourceSection(path=mixed, **source)], **data)
    drawn, counted = draw(section, "train", 0), count(section, "train", 0)
    assert counted.rows == expected == len(drawn.samples)
    assert counted.to_dict() == drawn.to_dict() and not counted.samples


def gone(tmp_path, rows=None, **source):
    section = SourceSection(path=str(tmp_path / "gone.jsonl"), **source)
    return count(DataSection(train=[section], rows=rows), "train", 0).rows


def test_a_file_that_is_not_here_counts_with_what_the_recipe_says(tmp_path):
    assert gone(tmp_path, limit=8000) == 8000
    assert gone(tmp_path, limit=8000, percent=12.5, repeat=3) == 3000
    assert gone(tmp_path, rows=500, ratio=2.0) == 500
    with pytest.raises(RecipeError, match=r"data\.train: .*gone\.jsonl is not here and has no `limit`"):
        gone(tmp_path)
    with pytest.raises(RecipeError, match=r"is not here and has no `limit`"):
        gone(tmp_path, percent=50.0)


def test_the_dry_run_prints_the_mixture_and_plans_with_it(mixed, tmp_path, tiny_model, capsys, log_levels):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"stage: grpo\noutput: out\nmodel: {{path: {tiny_model}}}\ndata:\n  train:\n"
        f"    - {{path: {mixed}, tasks: [vqa], percent: 40, repeat: 3}}\n    - {{path: {mixed}, tasks: [choice]}}\n"
        "training: {num_generations: 2, per_device_train_batch_size: 4}\n"
    )
    assert launch(GRPORecipe, stage.train, stage.plan, [str(recipe), "--dry-run"]) == 0
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert [row[1:] for row in cells if len(row) == 7 and row[2]] == [  # a long path folds over several lines
        ["choice", "2", "0", "0", "0", "0.0%"],
        ["vqa", "5", "2", "4", "6", "75.0%"],
        ["choice", "2", "2", "0", "2", "25.0%"],
        ["vqa", "5", "0", "0", "0", "0.0%"],
        ["", "14", "4", "4", "8", ""],
    ]
    assert ["rows in the data", "8"] in cells


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False)])
def test_one_process_prints_the_plan(rank, prints, monkeypatch, capsys, log_levels):
    monkeypatch.setattr("vlm.loading.hub_reachable", lambda: False)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = str(ROOT / "recipes" / "r1.yaml")
    assert launch(GRPORecipe, stage.train, stage.plan, [recipe, "gpus=8xA100-80G", "--dry-run"]) == 0
    assert bool(capsys.readouterr().out) is prints


ASKED = [{"role": "user", "content": "How many ships?"}]
FINE = {"images": [], "messages": [*ASKED, {"role": "assistant", "content": "2"}], "task": "vqa", "answer": "2"}
MUTE = {"images": [], "messages": ASKED, "task": "caption"}
LONG = {"images": ["gone.png"], "size": [9000, 30], "messages": ASKED, "task": "vqa", "answer": "2"}


@pytest.mark.parametrize("role", ["train", "eval"])
@pytest.mark.parametrize(
    ("of_stage", "recipe_class", "table", "row"),
    [(sft_stage, SFTRecipe, chat_rows, MUTE), (stage, GRPORecipe, prompt_rows, LONG)],
    ids=["nothing to learn", "strip"],
)
@pytest.mark.parametrize("on_fault", ["error", "skip"])
def test_a_dry_run_refuses_what_the_run_does(of_stage, recipe_class, table, row, role, on_fault, tmp_path, tiny_model):
    """Of training and held-out rows alike, in the words that the table of the run has."""
    dump(tmp_path / "fine.jsonl", [FINE])
    dump(tmp_path / "rows.jsonl", [FINE, row])
    (tmp_path / "gone.png").touch()  # a dry run opens no pictures
    sources = {"train": tmp_path / "fine.jsonl", "eval": tmp_path / "fine.jsonl", role: tmp_path / "rows.jsonl"}
    data = {name: [{"path": str(path)}] for name, path in sources.items()}
    asked = {"data": data | {"on_fault": on_fault}, "model": {"path": str(tiny_model)}, "output": str(tmp_path / "out")}
    recipe = config.build({"prompt": {"style": "direct"}, **asked}, recipe_class)
    with pytest.raises(DataError) as refused:
        of_stage.plan(recipe)
    samples = []
    count(recipe.data, role, recipe.seed, samples.append)
    with pytest.raises(DataError) as expected:
        table(samples, recipe.prompt, by_role(recipe)[role])
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize("role", ["train", "eval"])
def test_faulty_rows_end_a_dry_run_unless_only_their_picture_is_missing(role, tmp_path, tiny_model, capsys):
    box = {"images": ["gone.png"], "messages": ASKED, "task": "grounding", "size": [40, 40]}
    good, bad = box | {"boxes": [[1, 2, 30, 30]]}, box | {"boxes": [[30, 2, 1, 30]]}
    for rows, ends in (([FINE, good], False), ([FINE, bad], True)):
        sources = {"train": [FINE], "eval": [FINE], role: rows}
        for name, lines in sources.items():
            dump(tmp_path / f"{name}.jsonl", lines)
        data = {name: [{"path": str(tmp_path / f"{name}.jsonl")}] for name in sources}
        asked = {"data": data, "model": {"path": str(tiny_model)}, "output": str(tmp_path / "out")}
        asked["training"] = {"num_generations": 2, "per_device_train_batch_size": 2}
        recipe = config.build(asked, GRPORecipe)
        (tmp_path / "gone.png").unlink(missing_ok=True)
        if ends:
            (tmp_path / "gone.png").touch()
            with pytest.raises(DataError, match=r"line 2, field 'boxes': .*inverted"):
                stage.plan(recipe)
        else:
            stage.plan(recipe)


def test_held_out_files_that_are_not_here_are_named(mixed, tmp_path, tiny_model, caplog):
    data = {"train": [{"path": mixed}], "eval": [{"path": str(tmp_path / "gone.jsonl")}]}
    asked = {"data": data, "model": {"path": str(tiny_model)}, "output": str(tmp_path / "out")}
    stage.plan(config.build(asked | {"training": {"num_generations": 2}}, GRPORecipe))
    assert "data.eval: " in caplog.text and "gone.jsonl is not here; its rows are not looked at" in caplog.text
