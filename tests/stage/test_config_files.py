"""Recipe files: inheritance along `base`, faulty YAML, and the paths that a recipe names."""

from __future__ import annotations

import pytest

from samples.sections import DataSection
from stage.recipe import config
from tests.support.runs.example_recipe import Inner, Recipe, loader, message, writer


@pytest.fixture
def write(tmp_path):
    return writer(tmp_path)


@pytest.fixture
def load(write):
    return loader(write)


# --- files ---


def test_base_chain_merges_mappings_and_replaces_lists(write):
    write("output: root\nseed: 1\nnames: [a, b]\ntable: {x: 1, y: 2}\nmaybe: {depth: 9}\n", "lib/root.yaml")
    write("base: lib/root.yaml\nseed: 2\ntable: {y: 3, z: 4}\nmaybe: {label: m}\n", "mid.yaml")
    top = write("base: ../mid.yaml\nnames: [c]\ninner: {label: t}\n", "abl/top.yaml")
    recipe = config.load(top, Recipe)
    assert (recipe.output, recipe.seed, recipe.names) == ("root", 2, ["c"])
    assert recipe.table == {"x": 1, "y": 3, "z": 4}  # the class default {"a": 1} is replaced
    assert recipe.maybe == Inner(depth=9, label="m")
    assert recipe.inner == Inner(depth=5, label="t")


def test_null_takes_back_what_the_base_said(write):
    write("output: o\nseed: 1\nmaybe: {depth: 9}\ntable: {x: 1, y: 2}\ninner: {depth: 1}\n", "root.yaml")
    top = write("base: root.yaml\nseed: null\nmaybe: null\ntable: {x: null}\ninner: null\n")
    recipe = config.load(top, Recipe)
    assert (recipe.seed, recipe.maybe, recipe.table, recipe.inner) == (7, None, {"y": 2}, Inner(depth=5))
    again = write("base: r.yaml\nmaybe: {label: x}\n", "again.yaml")
    assert config.load(again, Recipe).maybe == Inner(depth=3, label="x")  # nothing of the root's comes back


def test_errors_name_the_file_of_the_chain(write):
    write("output: o\nsed: 1\n", "root.yaml")
    top = write("base: root.yaml\nseed: 3\n")
    assert "root.yaml, line 2: unknown key `sed`" in message(config.load, top, Recipe)
    write("output: o\ninner:\n  depth: 1\n", "root.yaml")
    top = write("base: root.yaml\ninner:\n  label: [1]\n")
    assert "r.yaml, line 3: `inner.label`" in message(config.load, top, Recipe)
    assert "command line, seed=x: `seed`: found 'x'" in message(config.load, top, Recipe, ["seed=x"])


def test_circles_and_missing_files(write, tmp_path):
    write("base: b.yaml\n", "a.yaml")
    b = write("base: ./a.yaml\n", "b.yaml")
    a = tmp_path / "a.yaml"
    assert f"circle: {b} → {a} → {b}" in message(config.load, b, Recipe)
    assert f"cannot read the recipe {tmp_path / 'no.yaml'}: No such file" in message(
        config.load, tmp_path / "no.yaml", Recipe
    )
    lost = write("seed: 1\nbase: gone.yaml\n")
    assert f"{lost}, line 2: base: cannot read the recipe {tmp_path / 'gone.yaml'}" in message(
        config.load, lost, Recipe
    )
    assert "Is a directory" in message(config.load, tmp_path, Recipe)
    assert "line 1: `base`: found a list" in message(config.load, write("base: [a, b]"), Recipe)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nlr: [1, 2\non: true\n", "line 3, column 3: not valid YAML"),
        ("a: 1\n\tb: 2\n", "line 2, column 1: not valid YAML"),
        ("seed: 1\nlr: 2\nseed: 3\n", "line 3: the key `seed` is given twice; first in"),
        ("inner:\n  depth: 1\n  depth: 1\n", "line 3: the key `depth` is given twice"),
        ("seed: !!python/object:os.system x\n", "line 1: the tag"),
        ("seed: !!int x\n", "line 1: found 'x', expected int"),
        ("? [a]\n: 1\n", "line 1: found a list or mapping as a key"),
        ("names: &n [*n]\n", "line 1: an alias is inside its own anchor"),
        ("seed: 1\n---\nseed: 2\n", "line 2, column 1: not valid YAML"),
        ("- seed\n", "found a list, expected a mapping of recipe keys"),
    ],
)
def test_faulty_yaml(write, text, expected):
    assert expected in message(config.load, write(text), Recipe)


def test_not_utf8(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"output: caf\xe9\n")
    assert "latin.yaml: not UTF-8 text (byte 11)" in message(config.load, path, Recipe)


def test_anchors(load):
    recipe = load("rewards:\n  - &first {name: a, weight: 2}\n  - *first\n", "rewards.1.weight=5")
    assert [r.weight for r in recipe.rewards] == [2.0, 5.0]


# --- paths ---


def test_paths_are_sought_here_then_in_the_recipes_repository(write, tmp_path, monkeypatch):
    here, repo = tmp_path / "here", tmp_path / "repo"
    here.mkdir()
    recipe = write("output: runs/x\nfile: data/a.json\n", "repo/recipes/demo/r.yaml")
    write("", "repo/pyproject.toml")
    monkeypatch.chdir(here)
    assert config.load(recipe, Recipe).file == "data/a.json"  # nowhere: as it stands
    assert config.locate("Qwen/Qwen2-VL-2B", recipe) == "Qwen/Qwen2-VL-2B"
    write("{}", "repo/data/a.json")
    assert config.load(recipe, Recipe).file == str(repo / "data/a.json")
    write("{}", "here/data/a.json")
    loaded = config.load(recipe, Recipe)
    assert loaded.file == str(here / "data/a.json")
    assert loaded.output == "runs/x"  # not marked as a path
    assert config.locate(str(repo / "data/a.json"), recipe) == str(repo / "data/a.json")


def test_paths_inside_lists_of_sections(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("[]", "rows.json")
    recipe = config.load(write("train: [{path: rows.json}]"), DataSection)
    assert recipe.train[0].path == str(tmp_path / "rows.json")
