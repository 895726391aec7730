"""What a user types and where it is shown: paths, hints, pipes, terminals, completion."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import subprocess
import sys

import pytest

from evals.recipe import EvalRecipe
from rewards import registry
from rewards.curate.recipe import CurateRecipe
from rewards.prefer.recipe import PreferRecipe
from rewards.score.service.recipe import ServeRecipe
from rewards.score.training.recipe import ScoreRecipe
from rewards.select.recipe import BonRecipe
from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from stage import cli
from stage.recipe import config
from studies.matrix.recipe import MatrixRecipe
from tests.project.test_layering import ROOT, modules
from tests.support.processes.commands import environment
from vlm import loading
from vlm.common import files
from vlm.common.errors import RecipeError

STAGES = {
    "sft": (SFTRecipe, ["output", "model.path", "data.train.0.path", "data.train.0.images", "resume"]),
    "r1": (GRPORecipe, ["output", "model.path", "data.train.0.path", "resume"]),
    "score/stage1": (ScoreRecipe, ["output", "model.path", "data.train.0.path", "data.train.0.images", "resume"]),
    "score/serve": (ServeRecipe, ["model.path", "image_root"]),
    "eval": (EvalRecipe, ["output", "model.path", "data.eval.0.path"]),
    "bon": (BonRecipe, ["output", "model.path", "scorer.path", "clip.path", "completions"]),
    "curate": (CurateRecipe, ["output", "scorer.path"]),
    "prefer": (PreferRecipe, ["output", "data.0.path", "data.0.images"]),
    "ablation": (MatrixRecipe, ["output", "stages.sft.accelerate", "stages.sft.recipe"]),
}


def at(recipe, key):
    for part in key.split("."):
        held = isinstance(recipe, list | dict)
        recipe = recipe[int(part) if part.isdigit() else part] if held else getattr(recipe, part)
    return recipe


@pytest.mark.parametrize("stage", STAGES)
def test_home_and_variables_are_written_out_in_every_path(stage, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    monkeypatch.delenv("NOT_SET", raising=False)
    cls, keys = STAGES[stage]
    for written, expected in {
        "~/x": tmp_path / "x",
        "$HOME/x": tmp_path / "x",
        "${DISK}/x": tmp_path / "disk/x",
    }.items():
        recipe = config.load(ROOT / f"recipes/{stage}.yaml", cls, [f"{key}={written}" for key in keys])
        assert {key: at(recipe, key) for key in keys} == dict.fromkeys(keys, str(expected))
    for key in keys:
        with pytest.raises(RecipeError, match=rf"{key}`: '\$NOT_SET/x': the variable \$NOT_SET is not set"):
            config.load(ROOT / f"recipes/{stage}.yaml", cls, [f"{key}=$NOT_SET/x"])


def test_what_is_there_under_the_very_name_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a$b").mkdir()
    assert config.load(ROOT / "recipes/sft.yaml", SFTRecipe, ["output=a$b"]).output == "a$b"


def test_a_plugin_below_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DISK", str(tmp_path))
    (tmp_path / "mine.py").write_text("def short(completions, **columns):\n    return [1.0] * len(completions)\n")
    assert registry.resolve("$DISK/mine.py:short")(completions=["a"]) == [1.0]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("learning_rate=1e-6", "training.learning_rate"),
        ("learning_ratee=1e-6", "training.learning_rate"),
        ("max_step=3", "training.max_steps"),
        ("model.num_generation=4", "training.num_generations"),
        ("outptu=x", "output"),
    ],
)
def test_a_key_in_the_wrong_section_is_hinted_at(words, near):
    for file in (ROOT / "recipes/r1.yaml",):
        with pytest.raises(RecipeError, match=f"unknown key `{words.split('=')[0]}`; did you mean `{near}`"):
            config.load(file, GRPORecipe, [words])


def test_a_missing_folder_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_fetched", lambda *_: pytest.fail("the hub was asked"))
    monkeypatch.setattr(loading, "hub_reachable", lambda: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("./x", "/nowhere/x", "~/nowhere-x", "runs/x", "models/x", "runs/sft/final"):
        with pytest.raises(RecipeError, match=f"model.path: no folder {path} "):
            loading.raw_config(path)
        assert loading.source(path)[1]["local_files_only"]
    assert not loading.looks_local("Qwen/Qwen2-VL-7B-Instruct") and not loading.looks_local("gpt2")


def test_packages_complete_what_they_import_lazily():
    packages = {name: path for name, path in modules().items() if path.name == "__init__.py"}
    lazy = [name for name, path in packages.items() if "\ndef __getattr__(" in path.read_text()]
    assert sorted(lazy) == ["rewards.score", "rl"]
    for name in lazy:
        module = importlib.import_module(name)
        assert set(module.__all__) < set(dir(module))


def test_every_launcher_bears_pipes_and_terminals():
    assert not [
        path.name for path in (ROOT / "launch").glob("*.py") if "\n    with terminal():\n" not in path.read_text()
    ]


def test_a_pipe_that_nobody_reads_ends_a_command_silently():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "launch/grpo.py", "--keys", "all"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, env=environment(), text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """Before any data is read; root may write everywhere, so the system's answer is made up."""
    monkeypatch.chdir(tmp_path)
    assert files.unwritable(tmp_path / "a/b") is None
    (tmp_path / "file").touch()
    words = [str(ROOT / "recipes/demo/grpo.yaml"), "output=file/run"]
    assert cli.launch(GRPORecipe, pytest.fail, pytest.fail, words) == 2
    assert capsys.readouterr().err.startswith(
        f"error: output: file/run: {tmp_path}/file is no folder; expected a folder"
    )
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    words[1] = "output=runs/x"
    assert cli.launch(GRPORecipe, pytest.fail, pytest.fail, words) == 2
    assert f"error: output: runs/x: {tmp_path} cannot be written to" in capsys.readouterr().err
    planned = []
    assert cli.launch(GRPORecipe, pytest.fail, planned.append, [*words, "--dry-run"]) == 0  # for another machine
    assert planned and "note: output: runs/x: " in capsys.readouterr().err


def test_what_the_system_forbids_is_named_and_a_bug_of_ours_shows(capsys):
    def forbidden():
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/table.md")

    assert cli.guarded(forbidden) == 2
    assert capsys.readouterr().err.startswith("error: /secret/table.md: Permission denied; expected a place")
    for bug in (OSError("no file named"), OSError(errno.EBADF, "Bad file descriptor", "x"), KeyError("bug")):
        with pytest.raises(type(bug)):
            cli.guarded(lambda bug=bug: (_ for _ in ()).throw(bug))


@pytest.fixture(autouse=True)
def levels():
    """`guarded` turns our loggers on."""
    names = ("vlm", "samples", "stage", "rewards", "sft", "rl", "evals")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
