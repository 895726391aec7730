"""Rows with two pictures that share a budget, through vLLM's real engine: evaluation and GRPO. `make test-vllm`."""

from __future__ import annotations

import json

import pytest

from evals import stage as evaluation
from evals.recipe import EvalRecipe
from samples import read
from stage.recipe import config
from tests.engine import world
from tests.support.processes.commands import ROOT
from tests.support.sample_rows import dump, pairs
from vlm.sections import ImageSection

pytestmark = pytest.mark.vllm
LIMITS = {"min_pixels": 1568, "max_pixels": 12544, "row_pixels": 18816}
"""Up to 16 squares of 28 pixels for a picture alone, 12 for each of two."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    found = [row | {"messages": row["messages"][:1]} for row in pairs(folder)]
    return dump(folder / "rows.jsonl", found)


def test_evaluation_reads_the_pictures_that_transformers_reads(rows, tmp_path, monkeypatch):
    """At their sizes within the budget, or `check_prompts` would stop it; the answers are the same."""
    import vllm

    monkeypatch.setattr(vllm, "LLM", world.Engines())
    keys = [f"model.path={world.BASE}", f"data.eval=[{{path: {rows}}}]", "gold=null", "generation.max_new_tokens=24"]
    keys += ["pictures=0", f"images={json.dumps(LIMITS)}"]
    said = {}
    for backend in ("hf", "vllm"):
        more = [f"output={tmp_path / backend}", f"generation.backend={backend}"]
        evaluation.run(config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, [*keys, *more]))
        lines = (tmp_path / backend / "predictions.jsonl").read_text().splitlines()
        said[backend] = {row["id"]: (row["completion"], row["resized"]) for row in map(json.loads, lines)}
    assert said["vllm"] == said["hf"] and len(said["hf"]) == 4
    assert said["hf"]["0"][1] == [112, 84] and said["hf"]["1"][1] == [140, 56]


def test_grpo_rolls_out_on_what_it_learns_from(rows, tmp_path, engines, monkeypatch):
    """The engine's prompts are those of the update, and its log-probabilities are the policy's."""
    heard = world.Heard(monkeypatch)
    trainer = world.trainer(list(read(rows)), tmp_path / "run", limits=ImageSection(**LIMITS), use_vllm=True)
    trainer.train()
    (told, _) = heard.calls[0]
    assert {len(shown) for shown in told["images"]} == {1, 2}
    log = trainer.state.log_history[0]
    assert 0 < log["vllm/logp_gap/images"] < 1e-4
