"""Recipes: values, types and keys, and what a user is told of a wrong one."""

from __future__ import annotations

import math

import pytest

from stage.recipe import config
from tests.support.runs.example_recipe import Foreign, Inner, Recipe, Reward, loader, message, writer
from vlm.common.section import Section
from vlm.sections import ModelSection


@pytest.fixture
def write(tmp_path):
    return writer(tmp_path)


@pytest.fixture
def load(write):
    return loader(write)


# --- values and types ---


def test_defaults_and_nested_values(load):
    recipe = load("inner: {label: null}\nmaybe: {}\nrewards:\n  - {name: choice, weight: 3}\n")
    assert recipe.inner == Inner(depth=5, label=None)  # the recipe's own default of `inner`, not Inner's
    assert recipe.maybe == Inner(depth=3, label="inner")
    assert recipe.rewards == [Reward(name="choice", weight=3.0, steps=[0.5, 0.7])]
    assert isinstance(recipe.rewards[0].weight, float)
    assert (recipe.seed, recipe.table) == (7, {"a": 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-6", 1e-6), ("2E5", 2e5), ("'1e-6'", 1e-6), ("3", 3.0), (".5", 0.5), ("-.inf", -math.inf)],
)
def test_float_fields_take_every_way_to_write_a_number(load, text, value):
    recipe = load(f"lr: {text}")
    assert recipe.lr == value and type(recipe.lr) is float


def test_numbers_in_free_dicts_need_no_type_to_be_numbers(load):
    free = load("free: {a: 1e-6, b: 017, c: 0x10, d: 1:30, e: 2024-01-02, f: [yes, true, ~]}").free
    assert free == {"a": 1e-6, "b": 17, "c": 16, "d": "1:30", "e": "2024-01-02", "f": ["yes", True, None]}
    assert math.isnan(load("free: {a: .nan}").free["a"])


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "y", "1e400x", "123", "1234e56", "0017", "1_000"])
def test_text_fields_keep_what_was_typed(load, text):
    assert load(f"names: [{text}]").names == [text]


@pytest.mark.parametrize(("text", "value"), [("on", True), ("yes", True), ("off", False), ("no", False)])
def test_words_are_booleans_where_one_is_meant(load, text, value):
    assert load(f"on: {text}").on is load("", f"on={text}").on is value


def test_literals_and_unions(load):
    assert load("mode: off").mode == "off"
    assert load("mode: 3").mode == 3
    assert load("amount: 5").amount == 5
    assert load("amount: '5'").amount == "5"
    assert "found 'fats' (str), expected one of fast, off, 3; did you mean fast?" in message(load, "mode: fats")
    assert "`amount`: found true (bool), expected int or str" in message(load, "amount: true")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: true", "line 2: `seed`: found true (bool), expected int"),
        ("seed: 1.5", "line 2: `seed`: found 1.5 (float), expected int"),
        ("seed: '7'", "`seed`: found '7' (str), expected int"),
        ("seed:", "`seed`: found null, expected int"),
        ("lr: fast", "`lr`: found 'fast' (str), expected float"),
        ("lr: false", "`lr`: found false (bool), expected float"),
        ("on: 'yes'", "`on`: found 'yes' (str), expected bool; write true or false"),
        ("on: y", "`on`: found 'y' (str), expected bool; write true or false"),
        ("on: 1", "`on`: found 1 (int), expected bool"),
        ("names: a", "`names`: found 'a' (str), expected a list of str"),
        ("names: [a, {b: 1}]", "`names.1`: found a mapping, expected str"),
        ("names: [true]", "`names.0`: found true (bool), expected str; put it in quotes"),
        ("table: {b: x}", "`table.b`: found 'x' (str), expected int"),
        ("table: 3", "`table`: found 3 (int), expected a mapping of int"),
        ("inner: 3", "`inner`: found 3 (int), expected a section with the keys depth, label"),
        ("inner:\n  depth: x", "line 3: `inner.depth`: found 'x' (str), expected int"),
        ("rewards: [{name: a, weight: []}]", "`rewards.0.weight`: found a list, expected float"),
    ],
)
def test_wrong_types_say_where_what_and_what_instead(load, text, expected):
    assert expected in message(load, text)
    assert "r.yaml, line " in message(load, text)


# --- keys ---


def test_unknown_keys_name_place_and_nearest(load):
    told = message(load, "sed: 3")
    assert told.endswith("r.yaml, line 2: unknown key `sed`; did you mean `seed`?")
    assert "unknown key `inner.dpth`; did you mean `inner.depth`?" in message(load, "inner: {dpth: 3}")
    assert "`rewards.1.wieght`; did you mean `rewards.1.weight`?" in message(
        load, "rewards: [{name: a}, {name: b, wieght: 1}]"
    )
    assert "unknown key `inner.zzz`; known keys here: depth, label" in message(load, "inner: {zzz: 3}")
    assert "unknown key `depth`; did you mean `inner.depth`?" in message(load, "depth: 3")  # wrong section
    assert "unknown key `inner.names`; did you mean `names`?" in message(load, "inner: {names: []}")


def test_missing_keys(write):
    told = message(config.load, write("seed: 1"), Recipe)
    assert told.endswith("r.yaml: missing required key `output`; expected str")
    assert "missing required key `rewards.0.name`" in message(
        config.load, write("output: o\nrewards: [{weight: 1}]"), Recipe
    )


class Holder(Section):
    model: ModelSection


def test_a_missing_section_is_told_by_its_missing_key(write):
    assert "missing required key `model.path`; expected str" in message(config.load, write(""), Holder)


def test_keys_of_a_library(load):
    assert load("extra: {lr: 1e-3, epochs: null}").extra == {"lr": 0.001, "epochs": None}
    assert (
        f"unknown key `extra.epoch`; `extra` holds fields of {Foreign.__module__}.Foreign; did you mean `extra.epochs`?"
        in message(load, "extra: {epoch: 3}")
    )
    assert "line 2: `extra.output_dir` is set by Nadir; write `output` instead" in message(
        load, "extra: {output_dir: x}"
    )


def test_check_is_run_with_place(load):
    told = message(load, "on: true", "seed=13")
    assert told.endswith("r.yaml with the command line's overrides: seed 13 cannot be on; write on: false")
