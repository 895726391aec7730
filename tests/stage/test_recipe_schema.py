"""What editors and `--keys` are told of recipes: equal to the code, and held against the recipes of the repository.

The validator is the package `jsonschema`; the files are read by PyYAML's loader with YAML 1.2's scalars, as editors do.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from evals.recipe import EvalRecipe
from rewards.curate.recipe import CurateRecipe
from rewards.prefer.recipe import PreferRecipe
from rewards.score.service.recipe import ServeRecipe
from rewards.score.training.recipe import ScoreRecipe
from rewards.select.recipe import BonRecipe
from rl.recipe import GRPORecipe
from sft.recipe import SFTRecipe
from stage.recipe import config, stored
from stage.recipe.arguments import STORED
from stage.recipe.editors import json_schema
from stage.recipe.keys import describe, page
from stage.recipe.ranges import RANGES
from stage.recipe.sections import StageRecipe
from stage.recipe.yaml_nodes import parse
from studies.matrix.recipe import MatrixRecipe

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    "sft": SFTRecipe, "grpo": GRPORecipe, "score": ScoreRecipe, "serve": ServeRecipe, "eval": EvalRecipe,
    "bon": BonRecipe, "curate": CurateRecipe, "prefer": PreferRecipe, "ablation": MatrixRecipe,
}  # fmt: skip
LAUNCHERS = {stage: {"ablation": "ablate"}.get(stage, stage) for stage in CLASSES}
RECIPES = sorted(path for folder in ("", "demo", "score") for path in (ROOT / "recipes" / folder).glob("*.yaml"))
SHARED = "demo/base.yaml"
"""No recipe of its own."""


def plain(path: Path) -> dict:
    return parse(path.read_text(), path.name).plain()


def schema_of(path: Path) -> Path:
    """The schema that the recipe's first line names."""
    first = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named, f"{path}: {first}"
    return (path.parent / named[1]).resolve()


@functools.cache
def validator(schema: Path) -> jsonschema.Draft7Validator:
    found = json.loads(schema.read_text())
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


def faults(path: Path, recipe: dict) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(schema_of(path)).iter_errors(recipe)]


def test_the_stored_arguments_are_those_of_the_installed_classes():
    """Else: make schema, and read the difference; new keys may need a line in stage/recipe/ranges.py."""
    assert json.loads(STORED.read_text()) == stored.installed()


def test_ranges_are_of_keys_that_exist():
    found = json.loads(STORED.read_text())
    keys = {key for part in found.values() for key in part}
    keys |= {f"{name}.{key}" for name, part in found.items() for key in part}
    assert set(RANGES) <= keys


@pytest.mark.parametrize("stage", CLASSES)
def test_the_schemas_in_the_repository_are_the_code(stage):
    """Else: make schema."""
    assert (ROOT / f"recipes/schema/{stage}.json").read_text() == json_schema(CLASSES[stage]) + "\n"


def test_launchers_print_them():
    for stage in ("grpo", "ablation"):
        command = [sys.executable, ROOT / f"launch/{LAUNCHERS[stage]}.py", "--schema"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout == (ROOT / f"recipes/schema/{stage}.json").read_text()
    assert (ROOT / "recipes/schema/base.json").read_text() == json_schema(StageRecipe, whole=False) + "\n"
    assert {path.stem for path in (ROOT / "recipes/schema").iterdir()} == {*CLASSES, "base"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_every_recipe_names_its_schema_and_is_valid(path):
    assert faults(path, plain(path)) == []
    if str(path).endswith(SHARED):
        assert schema_of(path).stem == "base"
    else:  # the stage that it has after its bases
        assert schema_of(path).stem == config.load_any(path, CLASSES.values()).stage


@pytest.mark.parametrize("stage", [stage for stage in CLASSES if stage != "ablation"])
def test_a_whole_recipe_as_saved_is_valid(stage, tmp_path):
    """Every key with its default, as in a run folder."""
    path = next(path for path in RECIPES if schema_of(path).stem == stage)
    config.save(config.load(path, CLASSES[stage]), tmp_path / "saved.yaml")
    assert faults(path, plain(tmp_path / "saved.yaml")) == []


PLANTED = [
    # recipe, override, where a validator finds it
    ("r1.yaml", "training.learning_rate=high", "$.training.learning_rate"),
    ("r1.yaml", "training.learning_rate=-1", "$.training.learning_rate"),
    ("r1.yaml", "training.learning_rat=1e-6", "$.training"),
    ("r1.yaml", "training.max_steps=0", "$.training.max_steps"),
    ("r1.yaml", "training.top_p=2", "$.training.top_p"),
    ("r1.yaml", "training.loss_type=foo", "$.training.loss_type"),
    ("r1.yaml", "training.output_dir=x", "$.training"),
    ("r1.yaml", "training.mask_truncated_completions=nope", "$.training.mask_truncated_completions"),
    ("r1.yaml", "training.num_generations=1", "$.training.num_generations"),
    ("r1.yaml", "training=5", "$.training"),
    ("r1.yaml", "model.dtype=bf16", "$.model.dtype"),
    ("r1.yaml", "model.lora.rank=8", "$.model.lora"),
    ("r1.yaml", "modle.path=x", "$"),
    ("r1.yaml", "stage=sft", "$.stage"),
    ("r1.yaml", "images.max_pixels=big", "$.images.max_pixels"),
    ("r1.yaml", "rewards=[{weight: 1}]", "$.rewards[0]"),
    ("r1.yaml", "rewards=gated", "$.rewards"),
    ("r1.yaml", "data.train=[{path: a, limit: many}]", "$.data.train[0].limit"),
    ("r1.yaml", "sharding.zero=4", "$.sharding.zero"),
    ("sft.yaml", "training.loss_type=grpo", "$.training.loss_type"),
    ("sft.yaml", "model.path=null", "$.model.path"),
    ("eval.yaml", "generation.temperature=hot", "$.generation.temperature"),
    ("score/serve.yaml", "port=web", "$.port"),
    ("bon.yaml", "selectors=[best]", "$.selectors[0]"),
    ("curate.yaml", "by=luck", "$.by"),
    ("prefer.yaml", "judge.rating=apart", "$.judge.rating"),
    ("ablation.yaml", "seeds=three", "$.seeds"),
]


@pytest.mark.parametrize(("recipe", "override", "where"), PLANTED, ids=[f"{r}-{o}" for r, o, _ in PLANTED])
def test_planted_mistakes_fail_in_the_editor_and_here(recipe, override, where):
    path = ROOT / "recipes" / recipe
    values, (key, _, text) = plain(path), override.partition("=")
    *above, last = key.split(".")
    inner = values
    for name in above:
        inner[name] = inner.get(name) or {}
        inner = inner[name]
    inner[last] = parse(text, "override").plain()
    assert [fault for fault in faults(path, values) if fault.startswith(where + ":")]
    with pytest.raises(config.RecipeError):
        config.load(path, CLASSES[schema_of(path).stem], [override])


def test_missing_keys_fail_unless_a_base_may_state_them():
    path = ROOT / "recipes/r1.yaml"
    values = plain(path)
    for key, where in (("output", "$"), ("model", "$")):
        less = {name: value for name, value in values.items() if name != key}
        assert faults(path, less) == [f"{where}: '{key}' is a required property"]
        assert faults(path, less | {"base": "other.yaml"}) == []
    assert faults(path, values | {"model": {"dtype": "bfloat16"}}) == ["$.model: 'path' is a required property"]


def test_what_yaml_writes_another_way_is_valid():
    """Words for booleans, numbers for texts, null over a base: the schema takes what the code takes."""
    path = ROOT / "recipes/r1.yaml"
    values = plain(path) | {"overwrite": "yes", "prompt": None, "base": "other.yaml"}
    values["model"] = {"path": "m", "revision": 1234567, "lora": None}
    values["training"] = {"mask_truncated_completions": "no", "scale_rewards": "off", "max_steps": None}
    assert faults(path, values) == []


@pytest.mark.parametrize("stage", [stage for stage in CLASSES if stage != "ablation"])
def test_the_first_page(stage):
    """Fits a tall terminal, is in the order of use, and has each key that all shipped recipes of the stage state."""
    cls = CLASSES[stage]
    lines = page(cls).splitlines()
    assert len(lines) <= 62 and max(map(len, lines)) <= 200
    assert lines[0].startswith("base: ") and lines[-1].endswith("those with WORD in the name")
    known, first = {row.key for row in describe(cls)}, cls.first.split()
    assert set(first) <= known and len(set(first)) == len(first)
    stated = [
        set(stated_keys(plain(path)))
        for path in RECIPES
        if schema_of(path).stem == stage and path.name != "captions.yaml"
    ]
    wanted = {key for key in set.intersection(*stated) if not key.startswith("base")}
    assert wanted <= set(first), wanted - set(first)
    assert f"and {len(known) - len(first)} more" in lines[-1]


def stated_keys(value, key: str = ""):
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from stated_keys(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from stated_keys(inner, f"{key}.<n>")
    else:
        yield key


def test_keys_by_word_and_all():
    assert page(GRPORecipe, "lora").splitlines()[0] == "model.lora: LoraSection or null; default null"
    assert page(GRPORecipe, "nonsense") == "no key has 'nonsense' in its name"
    everything = page(GRPORecipe, "all")
    assert "training.logging_steps: int ≥ 1 or float > 0 and < 1; default 1\n" in everything  # ours; TRL's is 10
    assert "training.save_strategy: one of no, steps, epoch, best; default 'no'\n" in everything
    assert "training.output_dir" not in everything
    assert {row.key for cls in CLASSES.values() for row in describe(cls) if not row.doc} == set()


def test_nothing_heavy_is_imported_for_them():
    code = (
        "import sys, rl.recipe, sft.recipe, rewards.score.training.recipe, stage.recipe.config, stage.recipe.editors;"
        "sys.exit(sorted({'torch', 'trl', 'transformers', 'datasets'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env=os.environ).returncode == 0


def test_docs_recipes_table_is_true():
    """docs/recipes.md: each row of the table, on the command line."""
    lines = (ROOT / "docs/recipes.md").read_text().splitlines()
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    assert len(rows) >= 14
    for written, key, meaning in rows:
        override = f"{key}={written}"
        if meaning == "refused":
            with pytest.raises(config.RecipeError):
                config.load(ROOT / "recipes/demo/grpo.yaml", GRPORecipe, [override])
            continue
        found = config.load(ROOT / "recipes/demo/grpo.yaml", GRPORecipe, [override])
        value = config.to_dict(found)
        for name in key.split("."):
            value = value[name]
        assert json.dumps(value) == meaning, override


def test_docs_recipes_message_is_what_is_said(tmp_path):
    """docs/recipes.md: two mistakes in a file, and what is said of them."""
    text = (ROOT / "docs/recipes.md").read_text()
    (said,) = re.findall(r"```\nerror: (recipes/mine.*?)\n```", text, re.S)
    recipe = [
        "stage: grpo",
        "output: o",
        "model: {path: m}",
        "data:",
        "  train: [{path: d}]",
        "rewards: [{use: iou}]",
        "seed: 1",
    ]
    recipe += [
        "training:",
        "  learning_rat: 1",
        "  num_generations: 8",
        "  per_device_train_batch_size: 8",
        "  top_p: 2",
    ]
    (tmp_path / "mine.yaml").write_text("\n".join(recipe))
    with pytest.raises(config.RecipeError) as caught:
        config.load(tmp_path / "mine.yaml", GRPORecipe)
    assert str(caught.value).replace(str(tmp_path), "recipes") == said
