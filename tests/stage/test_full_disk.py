"""A full disk costs what a run can do without, with a warning; `final/` is worth an error, and no traceback."""

from __future__ import annotations

import logging
import os
import resource
import runpy
import signal
import sys
from contextlib import contextmanager

import pandas
import pytest

from rl import stage
from rl.recipe import GRPORecipe
from stage.checkpoints import folders
from stage.cli import guarded
from stage.curves import draw_run
from stage.guards import lock
from stage.recipe import config
from stage.runs import Run, append, read_metrics
from stage.trainer import models
from tests.support.processes import commands
from tests.support.runs import run_folders
from vlm.common.errors import RecipeError, UserError

pytestmark = pytest.mark.xdist_group("resume")


@contextmanager
def files_up_to(size):
    """The kernel refuses to let any file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def train(tiny_model, demo_data, disk, fill, empty):
    """A GRPO run of 3 steps whose reward fills the disk in the step `fill`, and empties it in the step `empty`."""
    calls, filler = [], disk / "others"

    def reward(completions, **columns):
        calls.append(1)
        if len(calls) == fill:
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(2**16))
                except OSError:
                    pass
        if len(calls) == empty:
            filler.unlink()
        return [float(len(turns[0]["content"])) for turns in completions]

    given = ("training.max_steps=3", "rewards=[{use: exact_match}]", "tracking.samples.every=1")
    argv = commands.grpo(tiny_model, demo_data, disk / "run", *given)
    try:
        return stage.train(config.load(argv[0], GRPORecipe, argv[1:]), [reward], lambda rewards, tasks: None)
    finally:
        lock.release_all()
        filler.unlink(missing_ok=True)


def test_a_full_disk_costs_tables_and_curves(tiny_model, demo_data, small_disk, caplog):
    """TRL's table and the shown pictures of the second step, and no other one's."""
    with caplog.at_level(logging.WARNING, "stage"):
        final = train(tiny_model, demo_data, small_disk, fill=2, empty=3)
    run = small_disk / "run"
    tables = sorted(path.name for path in (run / "completions").iterdir())
    assert tables == ["completions_00001.parquet", "completions_00003.parquet"]
    assert all(len(pandas.read_parquet(run / "completions" / name)) == 4 for name in tables)
    said = [record.getMessage() for record in caplog.records]
    assert any(f"no {run}/completions/completions_00002.parquet: " in line and "No space" in line for line in said)
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2, 3, 3]
    assert (final / "model.safetensors").exists() and (run / "finished.json").exists()
    caplog.clear()
    (run / "curves.png").unlink()
    with files_up_to(1000), caplog.at_level(logging.WARNING, "stage"):
        draw_run(Run(run), "GRPO")
    assert f"no {run}/curves.png: " in caplog.text and not (run / "curves.png").exists()


def test_a_run_without_room_is_refused_before_weights(tiny_model, demo_data, tmp_path, monkeypatch):
    """Its model, where it writes no checkpoint, and nothing is left in the folder."""
    monkeypatch.setattr(folders, "room", lambda run: 10**6)
    monkeypatch.setattr(models, "untrained", lambda recipe: pytest.fail("weights are loaded"))
    with pytest.raises(RecipeError, match=r"run has 1\.0 MB free, and final/ takes \d+\.\d MB; make room"):
        train(tiny_model, demo_data, tmp_path, fill=None, empty=None)
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_a_model_that_cannot_be_written_is_an_error(tiny_model, demo_data, small_disk):
    """Nothing is left of it that could be taken for a model."""
    with pytest.raises(UserError, match=r"run/final cannot be written: .*there is no checkpoint.*resume=auto"):
        train(tiny_model, demo_data, small_disk, fill=3, empty=None)
    assert not (small_disk / "run/final").exists() and not (small_disk / "run/finished.json").exists()


def test_a_row_is_written_whole_or_not_at_all(tmp_path, caplog):
    run = Run.create(tmp_path / "run", {})
    with files_up_to(100), caplog.at_level(logging.WARNING, "stage"):
        for step in range(5):
            run.log(step, {"loss": 0.5})
    run.log(9, {"loss": 0.25})
    kept = [row["step"] for row in read_metrics(run.metrics)]
    assert kept[-1] == 9 and 0 < len(kept) - 1 < 5 and kept[:-1] == list(range(len(kept) - 1))
    assert caplog.text.count("a row is lost") == 5 - (len(kept) - 1)
    with files_up_to(10), pytest.raises(OSError, match="too large"):
        (tmp_path / "other").write_bytes(bytes(100))  # only what a run can do without is spared
    append(tmp_path / "rows.jsonl", [{"a": 1}])
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n'
    run.finish()


def test_no_command_ends_in_a_traceback_over_it(tmp_path, small_disk, monkeypatch, capsys, log_levels):
    """`launch/report.py`, whose file is gone rather than cut; and an error of our own still shows where it is."""
    run_folders.training(tmp_path / "run", [{"step": step, "loss": 1 / step} for step in range(1, 9)])
    with (small_disk / "others").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 * 2**20 - 2**14)
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "run"), "--out", f"{small_disk}/report.html"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(commands.ROOT / "launch/report.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in said
    assert commands.errors(said)[0].startswith("error: the disk is full: ")
    assert [path.name for path in small_disk.iterdir()] == ["others"]

    def ours():
        raise OSError(5, "a bug of our own")

    with pytest.raises(OSError, match="our own"):
        guarded(ours)
