"""Recipes: loading, inheritance, overrides, every user error, and save → load."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm import config
from vlm.errors import RecipeError
from vlm.recipe import (
    LANGUAGE_MODEL_LINEARS,
    TRACKERS,
    DataSection,
    ImageSection,
    LoraSection,
    ModelSection,
    PromptSection,
    ShardingSection,
    SourceSection,
    TrackingSection,
)

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Reward:
    name: str
    weight: float = 1.0
    "Share in the sum."
    steps: list[float] = field(default_factory=lambda: [0.5, 0.7])


@dataclass
class Inner:
    depth: int = 3
    """How deep.

    A second paragraph.
    """
    label: str | None = "inner"


@dataclass
class Foreign:
    """Stands for a library's config class."""

    lr: float = 0.0
    epochs: int = 1
    output_dir: str = ""


@dataclass
class Recipe:
    output: str
    "Run folder."
    seed: int = 7
    lr: float = 1e-6
    on: bool = False
    mode: Literal["fast", "off", 3] = "fast"
    inner: Inner = field(default_factory=lambda: Inner(depth=5))
    maybe: Inner | None = None
    names: list[str] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=lambda: [Reward("iou", 2.0, [0.2, 0.3]), Reward("format")])
    table: dict[str, int] = field(default_factory=lambda: {"a": 1})
    amount: int | str = 0
    extra: dict[str, Any] = field(
        default_factory=dict,
        metadata={"keys_of": f"{__name__}:Foreign", "owned": {"output_dir": "output"}},
    )
    free: dict[str, Any] = field(default_factory=dict)
    file: str | None = field(default=None, metadata={"path": True})

    def check(self) -> None:
        if self.seed == 13 and self.on:
            raise RecipeError("seed 13 cannot be on; write on: false")


@pytest.fixture
def write(tmp_path):
    def _write(text: str, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return _write


@pytest.fixture
def load(write):
    def _load(text: str = "", *overrides: str) -> Recipe:
        return config.load(write("output: out\n" + text), Recipe, overrides)

    return _load


def message(action, *args, **kwargs) -> str:
    with pytest.raises(RecipeError) as caught:
        action(*args, **kwargs)
    return str(caught.value)


# --- values and types ---


def test_defaults_and_nested_values(load):
    recipe = load("inner: {label: null}\nmaybe: {}\nrewards:\n  - {name: choice, weight: 3}\n")
    assert recipe.inner == Inner(depth=5, label=None)  # the recipe's own default of `inner`, not Inner's
    assert recipe.maybe == Inner(depth=3, label="inner")
    assert recipe.rewards == [Reward("choice", 3.0, [0.5, 0.7])]
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
        ("on: yes", "`on`: found 'yes' (str), expected bool; write true or false"),
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


@dataclass
class Holder:
    model: ModelSection


def test_a_missing_section_is_told_by_its_missing_key(write):
    assert "missing required key `model.path`; expected str" in message(config.load, write(""), Holder)


def test_keys_of_a_library(load):
    assert load("extra: {lr: 1e-3, epochs: null}").extra == {"lr": 0.001, "epochs": None}
    assert (
        f"unknown key `extra.epoch`; `extra` holds fields of {__name__}.Foreign; did you mean `extra.epochs`?"
        in message(load, "extra: {epoch: 3}")
    )
    assert "line 2: `extra.output_dir` is set by Nadir; write `output` instead" in message(
        load, "extra: {output_dir: x}"
    )


def test_check_is_run_with_place(load):
    told = message(load, "on: true", "seed=13")
    assert told.endswith("r.yaml with the command line's overrides: seed 13 cannot be on; write on: false")


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
        ("names: &n [*n]\n", "line 1: an alias stands inside its own anchor"),
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


# --- overrides ---


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
    assert recipe.rewards == [Reward("a", 0.5), Reward("b", 1.0, [1.0, 2.0])]
    assert recipe.names == ["x", "y z"]
    assert recipe.free == {"deep": {"er": "on"}}
    assert recipe.table == {"a": 1, "b": 4}  # on top of the default
    assert recipe.inner == Inner(depth=5, label=None)


def test_overrides_reach_into_default_lists_and_append(load):
    recipe = load("", "rewards.1.weight=9", "rewards.0.steps.1=0.9", "rewards.2.name=new", "names.0=a", "names.1=b")
    assert recipe.rewards == [Reward("iou", 2.0, [0.2, 0.9]), Reward("format", 9.0), Reward("new")]
    assert recipe.names == ["a", "b"]
    # a list from the file has nothing of the default list's items, but the item type's own defaults
    recipe = load("rewards: [{name: a}]", "rewards.0.steps.0=0.1")
    assert recipe.rewards == [Reward("a", 1.0, [0.1, 0.7])]


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


# --- save, difference, reference ---

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
    assert read == dataclasses.asdict(recipe) == config.to_dict(recipe)
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


@dataclass
class Longer(Inner):
    more: list[Reward] = field(default_factory=list)
    "Added below."


def test_describe():
    rows = config.describe(Longer)
    assert rows == [
        ("depth", "int", 3, "How deep.\n\nA second paragraph."),
        ("label", "str or null", "inner", ""),
        ("more", "list of Reward", [], "Added below."),
        ("more.<n>.name", "str", dataclasses.MISSING, ""),
        ("more.<n>.weight", "float", 1.0, "Share in the sum."),
        ("more.<n>.steps", "list of float", [0.5, 0.7], ""),
    ]
    text = config.reference(Longer)
    assert text.splitlines()[:2] == ["depth: int; default 3", "    How deep."]
    assert "more.<n>.name: str; required" in text


# --- the shared sections ---


@dataclass
class Shared:
    model: ModelSection
    data: DataSection = field(default_factory=DataSection)
    images: ImageSection = field(default_factory=ImageSection)
    prompt: PromptSection = field(default_factory=PromptSection)
    sharding: ShardingSection = field(default_factory=ShardingSection)
    tracking: TrackingSection = field(default_factory=TrackingSection)


def test_shared_sections_load(write):
    text = """
model: {path: some/hub-id, revision: 1234567, attention: sdpa, freeze: [vision_tower], lora: {r: 128}}
data: {train: [{path: a.jsonl, limit: 3, task: vqa}], on_fault: skip, tasks: [vqa]}
prompt: {notation: vhm, wording: {vqa: "Q: {question}"}}
sharding: {zero: 3, offload: true}
tracking: {report_to: [wandb], mode: offline}
"""
    recipe = config.load(write(text), Shared)
    assert recipe.model.revision == "1234567"
    assert recipe.model.lora == LoraSection(r=128, alpha=128, dropout=0.05, target_modules=LANGUAGE_MODEL_LINEARS)
    assert recipe.data.train == [SourceSection("a.jsonl", task="vqa", limit=3)]
    assert (recipe.images.min_pixels, recipe.images.max_pixels) == (512 * 512, 1024 * 1024)
    assert recipe.sharding.zero == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.path=''", "in `model`: path is empty"),
        (
            "model={attention: flash_attention_2, dtype: float32}",
            "in `model`: attention flash_attention_2 cannot run",
        ),
        ("model.freeze=[vision_tower, merger, language_model]", "in `model`: freeze names all three parts"),
        (
            "model={freeze: [language_model], lora: {}}",
            "in `model`: freeze names language_model, but lora would",
        ),
        ("model.lora.r=0", "in `model.lora`: r = 0"),
        ("model.lora.dropout=1", "in `model.lora`: dropout = 1.0; expected 0 ≤ dropout < 1"),
        ("model.lora.target_modules=[]", "in `model.lora`: target_modules is empty"),
        ("images.min_pixels=2000000", "in `images`: min_pixels = 2000000, max_pixels = 1048576"),
        (
            "images={min_pixels: 100, max_pixels: 448}",
            "in `images`: max_pixels = 448 is less than one visual token",
        ),
        ("prompt.notation=vmh", "in `prompt`: notation = 'vmh'; known notations: qwen2_vl, vhm"),
        ("prompt.wording.vga=x {question}", "prompt.wording.vga: no such task"),
        ("data.train=[{path: a}, {path: b, limit: 0}]", "in `data.train.1`: limit = 0"),
        (
            "data.train=[{path: a, task: vga}]",
            "in `data.train.0`: task: found 'vga', expected one of grounding, vqa",
        ),
        ("data.train=[{path: a, format: csv}]", "in `data.train.0`: format = 'csv'; known formats: "),
        ("data.tasks=[]", "in `data`: tasks is empty"),
        ("data.tasks=[vqa, x]", "in `data`: tasks: found 'x'"),
        ("sharding.offload=true", "in `sharding`: offload needs DeepSpeed"),
        ("sharding.zero=4", "`sharding.zero`: found 4 (int), expected one of 0, 1, 2, 3"),
        ("sharding.zero=true", "`sharding.zero`: found true (bool)"),
        ("tracking.report_to=[all]", "in `tracking`: report_to names 'all'"),
    ],
)
def test_impossible_sections_are_refused(write, override, expected):
    assert expected in message(config.load, write("model: {path: hub/id}"), Shared, [override])


def test_what_may_go_together_is_not_refused(write):
    path = write("model: {path: hub/id}")
    recipe = config.load(path, Shared, ["model={freeze: [language_model], lora: {target_modules: [qkv]}}"])
    assert recipe.model.lora.target_modules == ["qkv"]
    every = ["model={freeze: [vision_tower, merger, language_model], lora: {target_modules: [qkv]}}"]
    assert config.load(path, Shared, every).model.freeze == ["vision_tower", "merger", "language_model"]


def test_every_shared_key_is_documented():
    for section in (ModelSection, DataSection, ImageSection, PromptSection, ShardingSection, TrackingSection):
        assert [row.key for row in config.describe(section) if not row.doc] == []


def test_trackers_are_known_to_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) <= set(INTEGRATION_TO_CALLBACK)


def test_recipes_load_without_torch():
    code = "import sys, vlm.config, vlm.recipe; sys.exit(bool({'torch', 'trl'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
