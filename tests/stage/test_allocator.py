"""torch's allocator is told of growing segments before torch is there, by every command that uses a GPU."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from stage.guards import allocator
from stage.origins import environment
from tests.support.processes import before_torch
from tests.support.processes.commands import ROOT, run

EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def test_every_command_says_so_before_torch_is_imported(tmp_path):
    (tmp_path / "AID/Port").mkdir(parents=True)
    (tmp_path / "AID/Port/a.jpg").touch()
    done = run([sys.executable, ROOT / "tests/support/processes/before_torch.py", tmp_path])
    told = {name: json.loads(said) for name, _, said in (line.partition(" ") for line in done.stdout.splitlines())}
    assert told == dict.fromkeys(before_torch.COMMANDS, [False, "expandable_segments:True"])


def asked(monkeypatch, recipe=None, platform="linux", **given):
    """The variables after `expandable`, in a process without torch that was started with `given`."""
    environ = dict(given)
    monkeypatch.setattr(allocator, "os", SimpleNamespace(environ=environ))
    monkeypatch.setattr(allocator, "sys", SimpleNamespace(platform=platform, modules={}))
    allocator.expandable(recipe)
    return environ


def test_what_the_user_has_set_stays(monkeypatch):
    assert asked(monkeypatch) == EXPANDABLE
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        assert asked(monkeypatch, **{name: "max_split_size_mb:512"}) == {name: "max_split_size_mb:512"}
    assert asked(monkeypatch, platform="darwin") == asked(monkeypatch, platform="win32") == {}


@pytest.mark.parametrize(("vllm", "expected"), [(None, EXPANDABLE), ("server", EXPANDABLE), ("colocate", {})])
def test_not_where_vllm_sleeps_in_the_process(monkeypatch, vllm, expected):
    values = {"use_vllm": vllm is not None, "vllm_mode": vllm}
    assert asked(monkeypatch, SimpleNamespace(stage="grpo", argument=values.get)) == expected
    assert asked(monkeypatch, SimpleNamespace(stage="eval")) == EXPANDABLE


def test_the_run_folder_says_what_it_was(monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert environment.describe(None)["variables"]["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
