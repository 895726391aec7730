"""The run folder: what it holds, what survives a kill, and when it is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from stage.origins import revision
from stage.runs import Run, read_metrics
from vlm.common.errors import UserError

ROOT = Path(__file__).parents[2]


def test_create_writes_recipe_and_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch/grpo.py", "recipes/r1.yaml"])
    run = Run.create(tmp_path / "a" / "b", {"seed": 3, "model": {"path": "x"}})
    assert yaml.safe_load((run.folder / "recipe.yaml").read_text()) == {"seed": 3, "model": {"path": "x"}}
    written = json.loads((run.folder / "environment.json").read_text())
    assert written["command"][1:] == ["launch/grpo.py", "recipes/r1.yaml"]
    assert written["packages"]["trl"] == "1.16.0"
    assert written["hardware"]["cpus"] == os.cpu_count()


def test_recipe_text_is_written_as_given(tmp_path):
    Run.create(tmp_path, "seed: 1  # why\n")
    assert (tmp_path / "recipe.yaml").read_text() == "seed: 1  # why\n"


def test_rows_come_back_as_logged(tmp_path):
    run = Run.create(tmp_path, {})
    run.log(1, {"loss": 0.5, "note": "naïve\u2028line", "count": 3, "nothing": None})
    run.log(2, {"loss": np.float32(0.25), "bad": float("nan"), "worse": float("-inf"), "list": [1, np.float64(2)]})
    first, second = read_metrics(run.metrics)
    assert {k: first[k] for k in first if k != "time"} == {
        "step": 1, "loss": 0.5, "note": "naïve\u2028line", "count": 3, "nothing": None
    }  # fmt: skip
    assert second["loss"] == 0.25 and second["list"] == [1, 2.0]
    assert np.isnan(second["bad"]) and second["worse"] == float("-inf")
    assert first["time"] <= second["time"]
    # Strict JSON on disk: no bare NaN, which other readers refuse.
    assert "NaN" not in run.metrics.read_text() and "Infinity" not in run.metrics.read_text()


def test_tensors_are_numbers(tmp_path):
    import torch

    run = Run.create(tmp_path, {})
    run.log(0, {"reward": torch.tensor(0.5), "one": torch.ones(1, dtype=torch.bfloat16)})
    assert [(r["reward"], r["one"]) for r in read_metrics(run.metrics)] == [(0.5, 1.0)]


def test_rows_survive_kill(tmp_path):
    code = (
        "import os, signal\nfrom stage.runs import Run\n"
        f"run = Run.create({str(tmp_path)!r}, {{}})\n"
        "for step in range(50): run.log(step, {'loss': 1 / (step + 1)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows] == list(range(50)) and rows[3]["loss"] == 0.25


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 3}', "{", "\ufffd"])
def test_torn_last_line_is_left_out_and_mended(tmp_path, tail):
    run = Run.create(tmp_path, {})
    run.log(1, {"loss": 1})
    run.log(2, {"loss": 2})
    with run.metrics.open("a") as file:
        file.write(tail)  # a line without its newline was not written whole
    assert [r["step"] for r in read_metrics(run.metrics)] == [1, 2]
    again = Run.create(tmp_path, {}, resume=True)
    again.log(3, {"loss": 3})
    assert [r["loss"] for r in read_metrics(run.metrics)] == [1, 2, 3]


def test_a_torn_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step":\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: expected a JSON row, found '\{\"step\":'"):
        read_metrics(path)


def test_a_used_folder_is_refused_until_asked(tmp_path):
    run = Run.create(tmp_path, {"seed": 1})
    Run.create(tmp_path, {"seed": 1})  # nothing measured yet: the same folder may be used
    run.log(1, {"loss": 1})
    with pytest.raises(UserError, match="begun and not finished"):
        Run.create(tmp_path, {"seed": 2})
    run.finish(reward=0.7)
    assert json.loads((tmp_path / "finished.json").read_text())["reward"] == 0.7
    with pytest.raises(UserError, match="finished run"):
        Run.create(tmp_path, {"seed": 2})
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"seed": 1}, "a refusal changes nothing"
    with pytest.raises(UserError, match="choose one"):
        Run.create(tmp_path, {}, overwrite=True, resume=True)


def test_overwrite_deletes_records_and_checkpoints_only(tmp_path):
    run = Run.create(tmp_path, {"seed": 1})
    run.log(1, {"loss": 1})
    run.finish()
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / "completions_00001.parquet").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("mine")
    Run.create(tmp_path, {"seed": 2}, overwrite=True)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".lock-")}
    left -= {"changes.diff"}  # where this checkout has changes
    assert left == {"environment.json", "notes.txt", "recipe.yaml"}
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text()) == {"seed": 2}


def test_resume_keeps_the_earlier_recipe(tmp_path):
    Run.create(tmp_path, {"seed": 1}).log(1, {"loss": 1})
    for seed in (1, 2, 3):
        Run.create(tmp_path, {"seed": seed}, resume=True)
    found = {p.name: yaml.safe_load(p.read_text())["seed"] for p in tmp_path.glob("recipe*.yaml")}
    assert found == {"recipe.1.yaml": 1, "recipe.2.yaml": 2, "recipe.yaml": 3}
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_rewind_drops_what_will_be_measured_again(tmp_path):
    run = Run.create(tmp_path, {})
    for step in (0, 5, 10, 15):
        run.log(step, {"loss": step, "train_runtime": 1.0})  # as with include_num_input_tokens_seen
    run.rewind(10)
    run.log(10, {"train_runtime": 9.0, "train_loss": 5.0})  # the summary of a training that ended here
    run.rewind(10)
    run.log(11, {"loss": 11})
    assert [r["step"] for r in read_metrics(run.metrics)] == [0, 5, 10, 11]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = Run.create(tmp_path / "run", {})
    run.log(1, {"loss": 1})
    run.rewind(0)
    run.finish()
    assert not run.main and not run.folder.exists()


def test_git_revision_of_this_and_of_no_repository(tmp_path):
    (tmp_path / "a").write_text("1")
    assert revision.git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run(git + arguments, check=True)
    first = revision.git_revision(tmp_path)
    assert len(first["revision"]) == 40 and first["changed"] is False
    (tmp_path / "a").write_text("2")
    assert revision.git_revision(tmp_path) == {"revision": first["revision"], "changed": True}
