"""What a dry run reads from a recipe: rows counted as training would count them, one plan however many processes."""

from __future__ import annotations

import json

import pytest

from rl import stage
from rl.recipe import GRPORecipe
from tests.support.commands import ROOT
from vlm.cli import launch
from vlm.errors import RecipeError
from vlm.planned import rows
from vlm.recipe import DataSection, SourceSection
from vlm.rows import collect


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
    ("tasks", "limit", "expected"),
    [(None, None, 7), (None, 4, 4), (["vqa"], None, 5), (["choice"], 1, 1), (["vqa", "choice"], 9, 7)],
)
def test_rows_are_counted_as_training_reads_them(mixed, tasks, limit, expected):
    sources = [SourceSection(mixed, limit=limit)]
    assert rows(sources, tasks) == expected == len(collect(sources, DataSection(tasks=tasks), "train"))


def test_a_file_that_is_not_here_counts_with_its_limit(tmp_path):
    gone = str(tmp_path / "gone.jsonl")
    assert rows([SourceSection(gone, limit=8000)], None) == 8000
    with pytest.raises(RecipeError, match=r"data\.train: .*gone\.jsonl is not here and has no `limit`"):
        rows([SourceSection(gone)], None)


@pytest.mark.parametrize(("rank", "prints"), [("0", True), ("1", False)])
def test_one_process_prints_the_plan(rank, prints, monkeypatch, capsys, log_levels):
    monkeypatch.setattr("vlm.loading.hub_reachable", lambda: False)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = str(ROOT / "recipes" / "r1.yaml")
    assert launch(GRPORecipe, stage.train, stage.plan, [recipe, "gpus=8xA100-80G", "--dry-run"]) == 0
    assert bool(capsys.readouterr().out) is prints
