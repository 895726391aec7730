"""`images.row_pixels` in whole recipes: rows that it has no room for, before weights load and in a dry run; plans."""

from __future__ import annotations

import re

import pytest

import evals.stage
import rl.stage
import sft.stage
from evals.recipe import EvalRecipe
from rewards.score.training import stage as score_stage
from rewards.score.training.preferences import Preference, write
from rewards.score.training.recipe import ScoreRecipe
from rl.recipe import GRPORecipe
from samples import mixture
from sft.recipe import SFTRecipe
from stage.planning import control
from stage.recipe import config
from tests.support.processes import commands
from tests.support.processes.commands import LETTERS, ROOT
from tests.support.sample_rows import dump, pairs
from vlm.common.errors import DataError


def drawn(recipe):
    """How GRPO's `train` reads its data: its launcher hands it rewards."""
    return mixture.draw_all(recipe.data, recipe.seed, control.of_recipe(recipe, fetch=True))


STAGES = {
    "sft": (SFTRecipe, sft.stage.plan, sft.stage.train),
    "grpo": (GRPORecipe, rl.stage.plan, drawn),
    "score": (ScoreRecipe, score_stage.plan, score_stage.train),
    "eval": (EvalRecipe, evals.stage.plan, evals.stage.run),
}
WORDS = (
    r"\.jsonl.*line 1.*field 'images': found 2 pictures, expected what a row has room for: images.row_pixels = 9408 "
    r"leaves each of 2 pictures 4704 pixels, and images.min_pixels is 6272: show at most 1 pictures a row"
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    found = pairs(folder)
    dump(folder / "rows.jsonl", found)
    dump(folder / "asked.jsonl", [row | {"messages": row["messages"][:1]} for row in found])
    write(folder / "score.jsonl", [Preference(r["images"], r["messages"][0]["content"], ["a", "b"]) for r in found])
    (folder / "letters.py").write_text(LETTERS)
    return folder


@pytest.fixture
def recipe(tiny_model, rows, tmp_path):
    """(stage, budget, overrides) → its recipe: 8 to 16 squares of 28 pixels a picture."""

    def make(stage, row_pixels, *more):
        given = [f"images={{min_pixels: 6272, max_pixels: 12544, row_pixels: {row_pixels}}}", *more]
        output = tmp_path / stage
        if stage in ("sft", "grpo"):
            path, *keys = getattr(commands, stage)(tiny_model, rows, output)
            given += [f"data.train=[{{path: {rows}/rows.jsonl}}]"]
            given += [f"rewards=[{{use: {rows}/letters.py:letters}}]"] if stage == "grpo" else []
        else:
            path, keys = ROOT / f"recipes/demo/{stage}.yaml", [f"output={output}", f"model.path={tiny_model}"]
            data = {"score": ("train", "data.eval=[]"), "eval": ("eval", "gold=null")}[stage]
            file = {"score": "score", "eval": "asked"}[stage]
            given += [f"data.{data[0]}=[{{path: {rows}/{file}.jsonl}}]", data[1]]
        return config.load(path, STAGES[stage][0], [*keys, *given])

    return make


@pytest.mark.parametrize("stage", STAGES)
def test_rows_without_room_are_refused(stage, recipe):
    """In a dry run, and before weights load."""
    for way in STAGES[stage][1:]:
        with pytest.raises(DataError, match=WORDS):
            way(recipe(stage, 9408))


@pytest.mark.parametrize(("stage", "role"), [("sft", "train"), ("grpo", "train"), ("eval", "eval")])
def test_or_left_out(stage, role, recipe, caplog):
    made = recipe(stage, 9408, "data.on_fault=skip")
    found = mixture.draw(made.data, role, made.seed, control.of_recipe(made)).samples
    assert [sample.id for sample in found] == ["2"]
    assert "row_pixels: 3 (first: " in caplog.text


@pytest.mark.parametrize("stage", ["sft", "grpo", "score"])
def test_a_plan_counts_what_a_row_shows(stage, recipe, capsys):
    """Two pictures of up to 12 squares with 24 in all, of 16 without a budget."""
    planned = []
    for row_pixels in ("18816", "null"):
        STAGES[stage][1](recipe(stage, row_pixels))
        said = capsys.readouterr().out
        planned.append(int(re.search(r"longest sequence.*?(\d+) *│", said)[1]))
        largest = re.search(r"largest .*?│ *(\d+) *│", said)[1]
        assert largest == {"18816": "12", "null": "16"}[row_pixels]
    assert planned[1] - planned[0] == 2 * (16 - 12)
