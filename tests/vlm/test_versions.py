"""The start-up check of transformers' version."""

from __future__ import annotations

import tomllib
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.processes.commands import ROOT
from vlm.common import versions
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions


def recipe(stage="grpo", **training):
    return SimpleNamespace(stage=stage, model=object(), training=training)


@pytest.fixture
def installed(monkeypatch):
    return lambda found: monkeypatch.setattr(versions, "version", lambda _: found)


def test_what_is_installed_here_has_been_seen():
    versions.check_transformers(recipe())


@pytest.mark.parametrize("found", ["5.16.2", "5.18.0", "5.22.0", "5.24.0", "6.0.0"])
def test_others_are_refused(installed, found):
    installed(found)
    with pytest.raises(RecipeError, match=f"transformers {found} is installed, .* 5.17 and 5.23; pip install"):
        versions.check_transformers(recipe())


def test_what_the_oldest_cannot_do(installed):
    installed("5.17.3")
    versions.check_transformers(recipe(gradient_checkpointing=True))
    with pytest.raises(RecipeError, match=r"^sft: transformers 5.17.3 .* 'transformers==5.23\.\*'"):
        versions.check_transformers(recipe("sft"))
    with pytest.raises(RecipeError, match="activation_checkpointing_kwargs: .* write gradient_checkpointing_kwargs"):
        versions.check_transformers(recipe(activation_checkpointing_kwargs={}))
    installed("5.23.1")
    versions.check_transformers(recipe("sft", activation_checkpointing=True))


def test_pip_and_the_check_agree():
    (line,) = [
        line
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if line.startswith("transformers")
    ]
    allowed = SpecifierSet(line.removeprefix("transformers"))
    assert tuple(f"5.{minor}" for minor in range(40) if f"5.{minor}.1" in allowed) == versions.SEEN
