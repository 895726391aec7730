"""How specs resolve: names, modules, files, entry points, and the options of each."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import rewards
from rewards.registry import _REGISTERED, COLUMNS
from samples import Sample
from vlm.common.errors import RecipeError

PLUGIN = """
import dataclasses
from rewards import register

def mentions(completions, word: str = "dam", **columns):
    return [float(word in completion) for completion in completions]

def plain(prompts, completions, **columns):
    return [0.5] * len(completions)

def narrow(prompts, completions):
    return [0.5] * len(completions)

@dataclasses.dataclass
class Held:
    value: float
    def __call__(self, completions, **columns):
        return [self.value] * len(completions)

class Broken:
    def __init__(self, path):
        raise FileNotFoundError(path)
    def __call__(self, completions, **columns): ...

number = 3

@register("from_plugin")
def registered(completions, **columns):
    return [0.25] * len(completions)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "outside.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "outside.py"
    _REGISTERED.pop("from_plugin", None)


def test_resolve_without_options_is_the_function_itself():
    assert rewards.resolve("iou") is rewards.iou
    assert rewards.resolve("rewards.rules:exact_match") is rewards.exact_match


def test_resolve_a_file_outside_the_repository(plugin):
    by_relative, by_absolute = rewards.resolve("outside.py:plain"), rewards.resolve(f"{plugin}:plain")
    assert by_relative is by_absolute  # the file is executed once
    assert by_relative(prompts=[""], completions=["a"], task=["vqa"]) == [0.5]


def test_options_are_bound_and_the_name_stays(plugin):
    reward = rewards.resolve("outside.py:mentions", word="ship")
    assert reward(prompts=["", ""], completions=["a ship", "a dam"]) == [1.0, 0.0]
    assert isinstance(reward, functools.partial)  # TRL unwraps partials for its metric names
    assert reward.__name__ == reward.func.__name__ == "mentions"
    assert rewards.options_of("outside.py:mentions") == {"word"}
    assert rewards.options_of("iou") == {"shape", "steps", "threshold", "distance", "notation", "applies_to", "inside"}
    named = {"shape", "floor", "full", "distance", "notation", "applies_to", "inside"}
    assert rewards.options_of("detect") == named  # labels, difficult and classes are columns


def test_a_class_is_built_with_its_options(plugin):
    assert rewards.resolve("outside.py:Held", value=0.75)(prompts=[""], completions=["a"]) == [0.75]
    assert rewards.resolve("gated").__name__ == "gated"


def test_registered_names(plugin):
    rewards.resolve("outside.py:plain")
    assert rewards.resolve("from_plugin")(completions=["a"]) == [0.25]
    assert "from_plugin" in rewards.names()
    with pytest.raises(RecipeError, match="'iou' is taken by rewards.rules.boxes:iou; register"):
        rewards.register("iou")(rewards.choice)
    assert rewards.register("iou")(rewards.iou) is rewards.iou  # the same one again is no clash
    with pytest.raises(RecipeError, match="without ':'"):
        rewards.register("a:b")


def test_entry_points(tmp_path, monkeypatch):
    info = tmp_path / "bright-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bright\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[nadir.rewards]\nbright = bright_plugin:reward\ndull = bright_plugin_missing:reward\n"
    )
    (tmp_path / "bright_plugin.py").write_text(
        "def reward(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert rewards.resolve("bright")(completions=["a", "b"]) == [1.0, 1.0]
    assert {"bright", "dull", "iou", "gated"} <= set(rewards.names())
    with pytest.raises(
        RecipeError, match="reward 'dull': its entry point 'bright_plugin_missing:reward' does not import"
    ):
        rewards.resolve("dull")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("iuo", {}, "unknown reward 'iuo'; did you mean 'iou'"),
        ("my.pkg.f", {}, r"unknown reward 'my.pkg.f' \(a plugin is written 'my.pkg:f'\)"),
        ("", {}, "expected a name"),
        ("outside.py:", {}, "expected 'pkg.module:function' or 'path/file.py:function'"),
        ("missing.py:f", {}, "reward 'missing.py:f': no file /.*missing.py .*current directory"),
        (
            "no_such_pkg.mod:f",
            {},
            "'no_such_pkg.mod:f': module .* ModuleNotFoundError.*install 'no_such_pkg'",
        ),
        ("outside.py:mention", {}, "outside.py has no 'mention'; did you mean 'mentions'"),
        ("outside.py:number", {}, "is int, which cannot be called"),
        ("outside.py:narrow", {}, r"add \*\*columns to the parameters of narrow\(prompts, completions\)"),
        ("outside.py:mentions", {"wrod": "x"}, "has no option 'wrod'; did you mean 'word'"),
        ("outside.py:mentions", {"word": 3}, "option 'word' is 3; expected str"),
        ("outside.py:mentions", {"answer": "x"}, "'answer' is a column of the data"),
        ("outside.py:Held", {}, "needs the option 'value'"),
        ("outside.py:Broken", {"path": "/x"}, "cannot be built: FileNotFoundError: /x"),
        (
            "iou",
            {"steps": "gradual"},
            "'steps' is 'gradual'; expected 'continuous' or 'graduated' or 'threshold'",
        ),
        ("iou", {"threshold": True}, "'threshold' is True; expected float"),
        ("format", {"inside": "text"}, "has no option 'inside'; known: none"),
        ("builtins:max", {}, "no readable signature"),
    ],
)
def test_resolve_refuses(plugin, spec, options, message):
    with pytest.raises(RecipeError, match=message):
        rewards.resolve(spec, **options)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import nothing_like_it\n", "ModuleNotFoundError"),
        ("def f(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_file_that_does_not_import(plugin, source, cause):
    plugin.with_name("faulty.py").write_text(source)
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(RecipeError, match=f"reward 'faulty.py:f': file .*faulty.py does not import: {cause}"):
            rewards.resolve("faulty.py:f")


def test_no_column_can_replace_an_option():
    assert {field.name for field in dataclasses.fields(Sample)} <= COLUMNS
    for name in ("format", "exact_match", "choice", "iou", "gated"):
        assert not rewards.options_of(name) & COLUMNS


def test_importing_rewards_does_not_import_torch():
    heavy = ("torch", "transformers", "trl", "scipy")
    code = f"import sys, rewards; sys.exit(any(name in sys.modules for name in {heavy}))"
    root = Path(rewards.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
