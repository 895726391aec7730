"""The saved view and the report: they build and serialise without a network, and show what is logged."""

import inspect
import json
import re
import runpy
import sys

import pytest

from stage.tracking.section import TrackingSection
from studies import workspace
from studies.workspace import CHAPTERS, COMPARED, STEP, View
from tests.project.test_layering import ROOT
from vlm.common.errors import UserError


def dry_run(monkeypatch, capsys, *words: str) -> dict:
    """What `launch/workspace.py … --dry-run` prints; `tests/conftest.py` refuses every connection."""
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setattr(sys, "argv", ["workspace.py", *words, "--dry-run"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "launch/workspace.py"), run_name="__main__")
    assert done.value.code == 0
    return json.loads(capsys.readouterr().out)


def run_sets(found: dict) -> list[dict]:
    grids = [block["metadata"] for block in found["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    return [*found["workspace"]["spec"]["section"]["runSets"], *(runs for grid in grids for runs in grid["runSets"])]


def test_both_are_made_without_a_network(monkeypatch, capsys):
    found = dry_run(monkeypatch, capsys, "me/p", "--group", "matrix", "other one")
    view, report = found["workspace"], found["report"]
    assert (view["entity"], view["project"], view["displayName"]) == ("me", "p", "Ablation matrix, other one")
    assert report["project"]["name"] == "p" and report["displayName"] == view["displayName"]
    sets = run_sets(found)
    assert len(sets) > len(CHAPTERS)
    for runs in sets:
        group, stage = runs["filters"]["filters"]
        assert (group["key"]["name"], group["op"], group["value"]) == ("group", "IN", ["matrix", "other one"])
        assert (stage["key"]["name"], stage["value"]) == ("jobType", "grpo")
        assert [key["name"] for key in runs["grouping"]] == ["cell.value"]
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [*(chapter.name for chapter in CHAPTERS), "Completions"]
    headings = [b["children"][0]["text"] for b in report["spec"]["blocks"] if b["type"] == "heading"]
    assert headings == [*(chapter.name for chapter in CHAPTERS), "Where they ended", "What they say", "What differs"]
    plots = [panel for section in sections[:-1] for panel in section["panels"]]
    assert [plot["config"]["chartTitle"] for plot in plots] == [c.title for chapter in CHAPTERS for c in chapter.curves]
    for plot in plots:
        config = plot["config"]
        assert (config["xAxis"], config["groupBy"]) == (STEP, "cell.value")
        assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")
        assert bool(config["metrics"]) != bool(config["metricRegex"])


def test_axes_instead_of_cells_and_every_stage(monkeypatch, capsys):
    found = dry_run(monkeypatch, capsys, "p", "--group", "m", "--by", "reward", "start", "--stage", "all")
    assert found["workspace"]["entity"] == ""
    for runs in run_sets(found):
        assert [entry["key"]["name"] for entry in runs["filters"]["filters"]] == ["group"]
        assert [key["name"] for key in runs["grouping"]] == ["axes.value.reward", "axes.value.start"]
    panel = found["workspace"]["spec"]["section"]["panelBankConfig"]["sections"][0]["panels"][0]
    assert panel["config"]["groupBy"] is None  # by its run set's


def test_what_runs_are_grouped_by_is_what_they_say_of_themselves():
    """The configuration's keys, and the job type."""
    from rl.recipe import GRPORecipe
    from stage.tracking.trackers import labels
    from vlm.sections import ModelSection

    tracking = TrackingSection(group="m", axes={"reward": "score"})
    found = labels(GRPORecipe(model=ModelSection(path="nowhere"), output="out", tracking=tracking))
    assert "cell" in found and found["axes"]["reward"] == "score" and found["stage"] == View("p", ["m"]).stage
    assert View("p", ["m"]).keys == ["cell"] and View("p", ["m"], axes=["reward"]).keys == ["axes.reward"]


def test_every_metric_that_is_shown_is_one_that_is_logged():
    """Its name stands in the code that logs it: TRL's trainer and transformers', or ours."""
    import transformers
    from trl.trainer import grpo_trainer

    from rewards import gated
    from rewards.score.reward import health, probes
    from rl import counters
    from stage.guards import gpu_memory

    modules = (grpo_trainer, transformers.trainer, counters, gpu_memory, health, probes, gated)
    sources = "\n".join(inspect.getsource(module) for module in modules)
    names = [name for chapter in CHAPTERS for curve in chapter.curves for name in curve.names]
    for name in [*names, *COMPARED]:
        stem = name.partition("/")[2] if name.startswith(("time/", "score/probe", "score/shuffled")) else name
        assert re.search(rf"\b{re.escape(stem.removeprefix('score/corr_'))}\b", sources), name


def test_patterns_fit_what_they_are_for():
    (rewards, raw) = [curve.pattern for chapter in CHAPTERS for curve in chapter.curves if curve.pattern]
    assert re.search(rewards, "train/rewards/gated/mean") and not re.search(rewards, "train/rewards/gated/std")
    assert re.search(raw, "train/reward_raw/grounding") and not re.search(raw, "train/reward_raw/grounding_count")


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b", "lr=0.1"])
def test_a_group_that_filters_cannot_name_is_refused(name):
    """In wandb-workspaces 0.4.13 'a=b' would become 'a==b' without a word, and a quote ends the text."""
    with pytest.raises(UserError, match="can hold no quote, backslash or equals sign"):
        workspace.definitions(View("p", [name]))


def test_without_the_package_or_an_account_it_says_what_to_do(monkeypatch):
    import wandb

    def nobody():
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "Api", nobody)
    with pytest.raises(UserError, match="No API key configured; `wandb login`, or --dry-run"):
        workspace.save(View("p", ["m"]))
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"wandb-workspaces is not installed .*pip install 'nadir-rl\[dashboards\]'"):
        workspace.definitions(View("p", ["m"]))
