"""Recipes: what the command line may override, and how."""

from __future__ import annotations

import pytest

from tests.support.runs.example_recipe import Inner, Reward, loader, message, writer


@pytest.fixture
def load(tmp_path):
    return loader(writer(tmp_path))


def test_overrides(load):
    recipe = load(
        "rewards: [{name: a}, {name: b}]",
        "lr=1e-4",
        "maybe.depth=2",
        "rewards.0.weight=0.5",
        "rewards.1={steps: [1, 2]}",
        "names=[x, 'y z']",
        "free.deep.er=on",
        "table.b=4",
        "inner.label=",
    )
    assert recipe.lr == 1e-4
    assert recipe.maybe == Inner(depth=2)
    assert recipe.rewards == [Reward(name="a", weight=0.5), Reward(name="b", weight=1.0, steps=[1.0, 2.0])]
    assert recipe.names == ["x", "y z"]
    assert recipe.free == {"deep": {"er": "on"}}
    assert recipe.table == {"a": 1, "b": 4}  # on top of the default
    assert recipe.inner == Inner(depth=5, label=None)


def test_overrides_reach_into_default_lists_and_append(load):
    recipe = load("", "rewards.1.weight=9", "rewards.0.steps.1=0.9", "rewards.2.name=new", "names.0=a", "names.1=b")
    assert recipe.rewards == [
        Reward(name="iou", weight=2.0, steps=[0.2, 0.9]),
        Reward(name="format", weight=9.0),
        Reward(name="new"),
    ]
    assert recipe.names == ["a", "b"]
    # a list from the file has nothing of the default list's items, but the item type's own defaults
    recipe = load("rewards: [{name: a}]", "rewards.0.steps.0=0.1")
    assert recipe.rewards == [Reward(name="a", weight=1.0, steps=[0.1, 0.7])]


def test_override_null_takes_back(load):
    recipe = load("seed: 1\nmaybe: {depth: 1}\ntable: {x: 1, y: 2}", "seed=null", "maybe=null", "table.x=~")
    assert (recipe.seed, recipe.maybe, recipe.table) == (7, None, {"y": 2})
    assert load("maybe: {label: x}", "maybe=null", "maybe.depth=4").maybe == Inner(depth=4)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "command line: found 'seed', expected key.sub=value"),
        ("=3", "command line: found '=3', expected key.sub=value"),
        ("a..b=3", "command line: found 'a..b=3', expected key.sub=value"),
        ("sed=3", "command line, sed=3: unknown key `sed`; did you mean `seed`?"),
        ("innr.depth=3", "unknown key `innr`; did you mean `inner`?"),
        ("rewards.2.weight=1", "missing required key `rewards.2.name`"),
        ("rewards.3.weight=1", "`rewards` is a list of 2; found '3', expected an index from 0 to 2"),
        ("rewards.x=1", "`rewards` is a list of 2; found 'x'"),
        ("rewards.-1.weight=1", "`rewards` is a list of 2; found '-1'"),
        ("output.x=1", "`output` is 'out' (str), which has no keys inside"),
        ("names=[a", "command line, names=[a: not valid YAML"),
        ("base=x.yaml", "unknown key `base`"),
    ],
)
def test_faulty_overrides(load, override, expected):
    assert expected in message(load, "", override)
