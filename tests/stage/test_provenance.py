"""The record of what a run began with: equal for equal runs, another one for another row, file, model or seed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from samples import Sample, fingerprints
from stage.origins import comparing, environment, revision

RECORDS = ("record.json", "data.json", "environment.json", "recipe.yaml")


@pytest.fixture(scope="module")
def made(tiny_model, demo_data, tmp_path_factory):
    """(name, overrides) → the records of an SFT run of one step in a folder of that name, by file."""
    from sft import stage
    from sft.recipe import SFTRecipe
    from stage.recipe import config
    from tests.support.processes.commands import sft

    folder = tmp_path_factory.mktemp("records")

    def make(name, *overrides, data=demo_data):
        argv = sft(tiny_model, data, folder / name, "training.max_steps=1", *overrides)
        stage.train(config.load(argv[0], SFTRecipe, argv[1:]))
        return {file: (folder / name / file).read_text() for file in RECORDS}

    return make


@pytest.fixture(scope="module")
def first(made):
    return made("first")


def comparable(records: dict[str, str], name: str) -> dict[str, str]:
    """Without the time and the run's own name."""
    return {file: re.sub(r'"started": "[^"]*"', "", text).replace(f"/{name}", "") for file, text in records.items()}


def test_two_runs_of_a_recipe_have_one_record(made, first):
    assert comparable(made("second"), "second") == comparable(first, "first")
    kept = json.loads(first["record.json"])
    assert kept["seeds"] == {"seed": 0, "data_seed": 0} and kept["determinism"]["full_determinism"] is False
    assert kept["processes"]["type"] == "NO" and len(kept["model"]["sampled"]) == 64
    assert kept["model"]["parameters"] == kept["model"]["trained"] == 2911744


def test_a_changed_row_changes_the_fingerprint(made, first, demo_data, tmp_path):
    """One letter of one answer: as many rows and bytes as before."""
    shutil.copytree(demo_data, tmp_path / "data")
    path = tmp_path / "data/sft/traces.json"
    text = path.read_text()
    place = text.rindex("</answer>") - 1
    path.write_text(text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :])
    before = json.loads(first["data.json"])["train"]["sources"][0]
    after = json.loads(made("changed", data=tmp_path / "data")["data.json"])["train"]["sources"][0]
    assert after["sha256"] != before["sha256"]
    same = ("rows", "bytes", "tasks", "used_sha256")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


ROW = Sample(images=["/d/a.png"], messages=[{"role": "user", "content": "?"}], task="vqa", answer="1", id="a")


def test_rows_are_told_apart(tmp_path):
    from pathlib import Path

    def digest(*rows, folder="/d"):
        return fingerprints.of_rows(rows, Path(folder))

    moved = replace(ROW, images=["/e/a.png"])
    assert digest(moved, folder="/e") == digest(ROW)  # the same data in another place
    other = (
        replace(ROW, answer="2"),
        replace(ROW, images=["/d/b.png"]),
        replace(ROW, images=[b"1"]),
        replace(ROW, id="b"),
    )
    boxed = replace(ROW, boxes=[[0, 0, 1, 1]]), replace(ROW, boxes=[[0, 0, 1, 2]])
    digests = [
        digest(ROW),
        *map(digest, (*other, *boxed)),
        digest(ROW, ROW),
        digest(ROW, other[0]),
        digest(other[0], ROW),
    ]
    assert len(set(digests)) == len(digests)


def test_checkpoints_are_told_apart(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, tmp_path / "model")
    found, copy = fingerprints.of_checkpoint(tiny_model), fingerprints.of_checkpoint(str(tmp_path / "model"))
    assert found["path"] == tiny_model and {**found, "path": ""} == {**copy, "path": ""}
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= found["files"].keys()
    file = tmp_path / "model/model.safetensors"
    assert found["weights"]["model.safetensors"]["bytes"] == file.stat().st_size
    tensors = load_file(file)
    save_file({f"{name}.x": tensor for name, tensor in tensors.items()}, file)
    (tmp_path / "model/config.json").write_text("{}")
    other = fingerprints.of_checkpoint(str(tmp_path / "model"))
    assert other["weights"]["model.safetensors"]["header"] != found["weights"]["model.safetensors"]["header"]
    assert other["files"]["config.json"] != found["files"]["config.json"]
    assert fingerprints.of_checkpoint("nobody/nothing")["weights"] == {}


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, and `git` in it."""

    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", *arguments], check=True)

    (tmp_path / "a.py").write_text("x = 1\n")
    git("init", "-q")
    git("add", "a.py")
    git("commit", "-qm", "a")
    return tmp_path


def test_changes_since_the_commit(checkout):
    found, patch = revision.describe(checkout)
    assert patch == "" and found["changed"] is False and found["untracked"] == [] and "diff" not in found
    (checkout / "a.py").write_text("x = 2\ntoken = 'hf_abcdefghijklmnopqrstuvwx'\n")
    (checkout / "mine.py").write_text("")
    found, patch = revision.describe(checkout)
    assert "-x = 1\n+x = 2\n" in patch and "+token = '[secret]'" in patch and "hf_abc" not in patch
    assert found["changed"] and found["untracked"] == ["mine.py"]
    assert found["diff"]["file"] == "changes.diff" and found["diff"]["cut"] is False
    (checkout / "a.py").write_text("x = 3\n" * revision.LONGEST)
    found, patch = revision.describe(checkout)
    assert found["diff"]["cut"] and found["diff"]["characters"] > revision.LONGEST >= len(patch) > revision.LONGEST - 99


def test_changes_lie_in_the_run_folder(checkout, tmp_path_factory, monkeypatch):
    from stage.runs import Run

    monkeypatch.setattr(revision, "own_checkout", lambda: checkout)
    folder = tmp_path_factory.mktemp("run")
    (checkout / "a.py").write_text("x = 2\n")
    Run.create(folder, {})
    assert "+x = 2" in (folder / "changes.diff").read_text()
    assert json.loads((folder / "environment.json").read_text())["git"]["diff"]["cut"] is False
    (checkout / "a.py").write_text("x = 1\n")
    Run.create(folder, {}, resume=True)
    assert "+x = 2" in (folder / "changes.1.diff").read_text() and not (folder / "changes.diff").exists()


def test_without_a_checkout_nothing_is_claimed():
    assert revision.describe(None) == (None, "")


def test_variables_are_kept_by_name_and_never_a_secret(monkeypatch):
    for name in ("NCCL_DEBUG", "ACCELERATE_MIXED_PRECISION", "HOME_GROWN", "ACCELERATE_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "abcdefghij")
    kept = environment.describe(None)["variables"]
    assert kept["NCCL_DEBUG"] == kept["ACCELERATE_MIXED_PRECISION"] == "abcdefghij"
    assert not {"HOME_GROWN", "ACCELERATE_API_KEY", "HF_TOKEN"} & kept.keys()


def test_plugins_of_a_recipe(tmp_path):
    (tmp_path / "mine.py").write_text("")
    uses = {"rewards": [{"use": f"{tmp_path}/mine.py:f"}, {"use": "iou"}, {"use": "pkg.mod:f"}, {"use": "gone.py:f"}]}
    assert list(comparing.plugins(uses)) == [f"{tmp_path}/mine.py"]
