"""Recipes: save → load, the difference of two, and the reference text."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticUndefined

from stage.recipe import config
from stage.recipe.keys import describe, page
from tests.support.runs.example_recipe import Inner, Recipe, Reward, loader, writer


@pytest.fixture
def load(tmp_path):
    return loader(writer(tmp_path))


# Any text that UTF-8 can hold, and what a careless writer of YAML would leave unquoted.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "on",
        "yes",
        "null",
        "~",
        "1e-6",
        "017",
        "1:30",
        "2024-01-02",
        "<<",
        "=",
        "- a",
        "a: b",
        " lead",
        "x\n",
        "\n",
        "#",
    ]
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
INNERS = st.builds(Inner, depth=st.integers(), label=st.none() | TEXT)
RECIPES = st.builds(
    Recipe,
    output=TEXT,
    seed=st.integers(),
    lr=st.floats(allow_nan=False),
    mode=st.sampled_from(["fast", "off", 3]),
    inner=INNERS,
    maybe=st.none() | INNERS,
    names=st.lists(TEXT, max_size=3),
    rewards=st.lists(st.builds(Reward, name=TEXT, weight=st.floats(allow_nan=False)), max_size=2),
    table=st.dictionaries(TEXT, st.integers(), max_size=3),
    amount=st.integers() | TEXT,
    extra=st.just({"lr": 1e-6}),
    free=st.dictionaries(TEXT, PLAIN, max_size=3),
    file=st.none(),
)


@settings(max_examples=150, deadline=None)
@given(RECIPES)
def test_save_then_load_gives_an_equal_recipe(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("saved") / "run" / "recipe.yaml"
    config.save(recipe, path)
    again = config.load(path, Recipe)
    assert again == recipe
    assert repr(again) == repr(recipe)  # equal in type too: 1 and 1.0 and True differ


def test_saved_file_is_whole_and_plain_for_other_readers(load, tmp_path):
    recipe = load("names: [on, '1e-6', \"two\\nlines\"]\nlr: 2e-7")
    config.save(recipe, tmp_path / "s.yaml")
    read = yaml.safe_load((tmp_path / "s.yaml").read_text(encoding="utf-8"))  # PyYAML's own YAML 1.1
    assert read == recipe.model_dump() == config.to_dict(recipe)
    assert "base" not in read and read["lr"] == 2e-7


def test_difference(load):
    a = load("rewards: [{name: a}, {name: b}]\ntable: {x: 1, y: 2}\nnames: [p]")
    b = load("rewards: [{name: a}, {name: b, weight: 2}]\ntable: {y: 3, z: 4}\nnames: [p, q]\nmaybe: {depth: 1}")
    assert config.difference(a, a) == {}
    assert config.difference(a, b) == {
        "rewards.1.weight": (1.0, 2.0),
        "table.x": (1, config.ABSENT),
        "table.y": (2, 3),
        "table.z": (config.ABSENT, 4),
        "names": (["p"], ["p", "q"]),
        "maybe": (None, {"depth": 1, "label": "inner"}),
    }


class Longer(Inner):
    more: list[Reward] = []
    "Added below."


def test_describe():
    rows = list(describe(Longer))
    assert rows == [
        ("depth", "int", 3, "How deep.\n\nA second paragraph."),
        ("label", "str or null", "inner", ""),
        ("more", "list of Reward", [], "Added below."),
        ("more.<n>.name", "str", PydanticUndefined, ""),
        ("more.<n>.weight", "float", 1.0, "Share in the sum."),
        ("more.<n>.steps", "list of float", [0.5, 0.7], ""),
    ]
    text = page(Longer, "all")
    assert text.splitlines()[:2] == ["depth: int; default 3", "    How deep."]
    assert "more.<n>.name: str; required" in text
