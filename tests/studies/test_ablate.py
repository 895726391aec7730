"""launch/ablate.py as a user starts it: the matrices that ship, and a tiny one through the real launchers."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stage.recipe import config
from studies.matrix import planning
from studies.matrix.commands import overrides
from studies.matrix.drafts import essence
from studies.matrix.recipe import MatrixRecipe
from tests.support.processes.commands import LIMIT, ROOT, environment
from tests.support.processes.forked import run

LABELS = ["Zero-with", "Zero-without", "SFT", "R1-with", "R1-without"]
TINY = """
stage: ablation
output: out
stages:
  sft:
    launch: sft
    recipe: {root}/recipes/demo/sft.yaml
    set:
      model.path: {model}
      data.train.0.path: {data}/sft/traces.json
      training: {{max_steps: 4, save_strategy: steps, save_steps: 1, per_device_train_batch_size: 4, logging_steps: 1}}
  eval:
    launch: eval
    recipe: {root}/recipes/demo/eval.yaml
    set:
      model.path: '{{sft}}/final'
      data.eval: [{{path: {data}/test/vqa_test.jsonl}}]
      generation.max_new_tokens: 4
axes:
  eval.limit: [2]
"""


@pytest.fixture(scope="module")
def launchers():
    return runpy.run_path(str(ROOT / "launch/ablate.py"))["LAUNCHERS"]


@pytest.mark.parametrize("name", ["recipes/ablation.yaml", "recipes/demo/ablation.yaml"])
def test_the_paper_s_figure(name, launchers, monkeypatch):
    """Each command's words are a recipe of its launcher, and what a run reads was made by a stage that it needs."""
    monkeypatch.chdir(ROOT)
    # not where somebody may have run it
    plan = planning.plan(config.load(name, MatrixRecipe, ["output=runs/nobody"]), Path(name), launchers)
    assert [(one.label, one.seed) for one in plan.runs] == [(label, seed) for seed in (0, 1, 2) for label in LABELS]
    counts = {kind: sum(stage.name == kind for stage in plan.stages) for kind in ("sft", "grpo", "eval")}
    assert counts == {"sft": 3, "grpo": 12, "eval": 15}
    runs = {one.label: one.stages for one in plan.runs[:5]}
    zero, r1 = (config.to_dict(runs[f"{road}-without"]["grpo"].recipe) for road in ("Zero", "R1"))
    assert zero["model"]["path"].rpartition("/")[2] in ("Qwen2VL-7B-RS", "base")
    assert r1["model"]["path"].startswith("runs/nobody/SFT/seed-0/")
    # R1's base will say how it writes boxes once it is there
    assert zero["prompt"].pop("notation") == "qwen2_vl" and r1["prompt"].pop("notation") == "auto"
    assert {key for key in zero if zero[key] != r1[key]} == {"model"}
    for road in ("Zero", "R1"):  # the learned reward is what is with or without, and its open rows
        used = {
            end: json.dumps(runs[f"{road}-{end}"]["grpo"].recipe.rewards, default=vars) for end in ("with", "without")
        }
        assert '"score"' in used["with"] and '"score"' not in used["without"]
    for stage in plan.stages:
        if stage.recipe is None:
            continue
        found = config.load(stage.draft.section.recipe, type(stage.recipe), overrides(stage, plan))
        assert essence(found) == essence(stage.recipe) and found.output == str(stage.folder)
        made = [found.model.path, *(source.path for source in (*found.data.train, *found.data.eval))]
        for path in (path for path in made if path.startswith("runs/")):
            assert any(path.startswith(str(need.folder)) for need in stage.needs), (stage.key, path)


def test_a_real_matrix_killed_and_gone_on_with(tiny_model, demo_data, tmp_path):
    """kill -9 of the ablation and of its stage, and the same command again. (Shared stages: test_matrix_runs.)"""
    (tmp_path / "matrix.yaml").write_text(TINY.format(root=ROOT, model=tiny_model, data=demo_data))
    command = [sys.executable, ROOT / "launch/ablate.py", "matrix.yaml"]
    first = subprocess.Popen([str(word) for word in command], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE)
    sft, deadline = tmp_path / "out/limit=2/seed-0/sft", time.monotonic() + LIMIT
    while not (sft / "checkpoint-2").exists():
        assert first.poll() is None and time.monotonic() < deadline, first.stdout.read().decode()
        time.sleep(0.02)
    first.kill()
    first.wait()
    os.kill(json.loads((sft / "heartbeats/rank-0.json").read_text())["pid"], signal.SIGKILL)
    assert not (sft / "finished.json").exists()
    again = run(command, cwd=tmp_path)
    assert "limit=2/seed-0/sft: finished" in again.stdout and "all stages have finished" in again.stdout
    log = (sft.parent / "sft.log").read_text()
    assert log.count("$ python ") == 2 and log.count("resume: from") == 1
    rows = [json.loads(line) for line in (sft / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    folder = tmp_path / "out/limit=2/seed-0/eval"
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 2
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["limit"] == 2 and recipe["model"]["path"] == str(sft / "final")
