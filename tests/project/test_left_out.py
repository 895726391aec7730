"""What skipping left out stands beside the score: n of N."""

import json

import pytest
from PIL import Image

from evals import stage
from evals.comparing import compare, sidebyside
from evals.recipe import EvalRecipe
from evals.scoring.metrics import evaluate
from evals.scoring.report import Coverage, as_dict
from stage.recipe import config
from stage.runs import RECORD
from studies.report import evaluations
from studies.tables.grid import grids
from studies.tables.rows import means
from tests.support.processes.commands import ROOT
from tests.support.scores.scored import ask, said


def report(right, left_out=None):
    found = evaluate(
        [ask(str(n), said("yes" if n < right else "no"), "yes", "a" if n else "b") for n in range(6)], "vhm"
    )
    found.coverage = None if left_out is None else Coverage(6, left_out)
    return found


def test_metrics_hold_n_of_all():
    found = as_dict(report(3, {"faulty rows": 2}))
    assert (found["vqa/exact"]["n"], found["vqa/exact"]["of"]) == (6, 8)
    assert found["vqa/exact"]["left_out"] == {"faulty rows": 2}
    assert found["vqa/exact[a]"]["of"] is None  # nobody knows the type of a row that cannot be read
    assert "of" not in as_dict(report(3))["vqa/exact"] and "of" not in as_dict(report(3, {}))["vqa/exact"]


def test_tables_and_comparisons_say_it():
    reports = {"base": report(3), "r1": report(4, {"faulty rows": 2})}
    text = compare.markdown(reports)
    assert "| vqa/exact | 6 / 6 of 8 | 50.0" in text and "| vqa/exact[a] | 5 |" in text
    assert "- r1: 6 of 8 questions; left out: 2 faulty rows" in text and "- base: 6 of" not in text
    assert "n = 6 of 8)" in str(compare.paired(reports["base"], reports["r1"], "vqa/exact"))
    assert "n = 6)" in str(compare.paired(reports["base"], reports["base"], "vqa/exact"))
    assert "measured here (6 of 8 questions; left out: 2 faulty rows) |" in sidebyside.beside("lrs-vqa", reports)


def test_tables_of_seeds_say_it():
    runs = {"base": {"0": {"": report(3)}}, "r1": {"0": {"": report(4, {"faulty rows": 2})}}}
    (grid,) = grids(means(runs, ["vqa/exact"], count=50))
    assert "r1: 6 of 8 questions; left out: 2 faulty rows" in grid.notes
    assert not any(note.startswith("base:") for note in grid.notes)


def test_the_page_of_runs_says_it():
    assert evaluations._count({"n": 6, "of": 8}) == "6 of 8"
    assert evaluations._count({"n": 6}) == evaluations._count({"n": 6, "of": None}) == "6"


@pytest.fixture
def faulty(tmp_path):
    """Eight questions, two of which lack their picture."""
    Image.effect_noise((112, 112), 40).convert("RGB").save(tmp_path / "a.png")
    rows = []
    for number in range(8):
        turns = [{"role": "user", "content": f"How many? {number}"}]
        image = "gone.png" if number in (2, 5) else "a.png"
        rows.append({"images": [image], "messages": turns, "task": "vqa", "answer": "2", "id": str(number)})
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "asked.jsonl"


def test_an_evaluation_from_beginning_to_end(tiny_model, faulty, tmp_path, caplog):
    def go(name, *more):
        changes = (
            f"model.path={tiny_model}",
            f"output={tmp_path / name}",
            f"data={{on_fault: skip, eval: [{{path: {faulty}}}]}}",
            "generation={batch_size: 8, max_new_tokens: 4}",
            "pictures=0",
        )
        return stage.run(config.load(ROOT / "recipes/demo/eval.yaml", EvalRecipe, [*changes, *more]))

    with caplog.at_level("WARNING", "evals"):
        found = go("all")
    left = "2 faulty rows (data.on_fault: skip)"
    assert f"6 of 8 questions; left out: {left}" in caplog.text  # before anything is asked
    metrics = json.loads((tmp_path / "all/metrics.json").read_text())
    assert (metrics["vqa/exact"]["n"], metrics["vqa/exact"]["of"]) == (6, 8)
    assert "| vqa/exact | 6 of 8 |" in (tmp_path / "all/table.md").read_text()
    assert f"- all: 6 of 8 questions; left out: {left}" in (tmp_path / "all/table.md").read_text()
    assert str(found.coverage) == str(stage.load_report(tmp_path / "all").coverage)

    go("some", "limit=4")
    assert json.loads((tmp_path / "some" / RECORD).read_text())["left_out"] == {stage.FAULTY: 2, "beyond limit": 2}
    assert "| vqa/exact | 4 of 8 |" in (tmp_path / "some/table.md").read_text()
    # half of an evaluation, read while it runs
    rows = (tmp_path / "all/predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "all/predictions.jsonl").write_text("".join(rows[:4]))
    assert (
        str(stage.load_report(tmp_path / "all").coverage) == f"4 of 8 questions; left out: {left}, 2 not answered yet"
    )
