"""Recipes are data: what a recipe from anywhere may not do, bombs included; and no secret stands in one."""

from __future__ import annotations

import re
import time

import pytest

from rewards import resolve
from rl.recipe import GRPORecipe
from stage.recipe import config, yaml_nodes
from stage.recipe.yaml_nodes import parse
from tests.support.processes.commands import ROOT
from vlm.common.errors import RecipeError
from vlm.common.redaction import holds_secret


def laughs(levels: int, width: int = 9) -> str:
    """The "billion laughs" of YAML: each level is a list of aliases to the one below, width ** levels values in all."""
    lines = ["a0: &a0 lol"]
    for level in range(1, levels + 1):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines)


def test_a_few_laughs_are_allowed():
    """The same construction in a size that is no bomb: 9 ** 3 leaves, counted by hand."""
    third = parse(laughs(3), "r.yaml").plain()["a3"]
    assert third == [[["lol"] * 9] * 9] * 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(9), f"found more than {yaml_nodes.MOST} values with aliases spelt out"),
        ("a: &a {x: 1}\n" + "b: [" + "*a, " * 9000 + "1]", "found more than"),
        ("[" * 1_000, "nested too deeply"),
        ("a: " + "{b: " * 70 + "1" + "}" * 70, "nested too deeply, expected at most 64 levels"),
        ("a: &a [*a]", "an alias is inside its own anchor"),
        ("seed: " + "9" * 5000, "found a number of 5000 characters"),
        ("a: !!python/object/apply:os.system ['touch ran']", "the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!python/name:os.system ''", "has no meaning in a recipe"),
        ("a: !include /etc/passwd", "the tag !include has no meaning"),
        ("a: !!binary aGk=", "has no meaning in a recipe"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_bombs_and_tags_are_refused_at_once(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")
    assert words in str(caught.value) and str(caught.value).startswith("r.yaml")
    assert time.process_time() - began < 5
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_an_end_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("base: /dev/zero\n")
    with pytest.raises(RecipeError, match="r.yaml, line 1: base: /dev/zero: found more than 1048576 bytes"):
        config.load(tmp_path / "r.yaml", GRPORecipe)


def test_an_override_is_no_way_around():
    with pytest.raises(RecipeError, match="found more than"):
        parse("{" + ", ".join(laughs(9).split("\n")) + "}", "command line", lines=False)


RECIPE = "stage: grpo\noutput: o\nmodel: {path: m}\ndata: {train: [{path: d}]}\nrewards: [{use: iou}]\n"
SHAPED = "hf_" + "aB3" * 10


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("training: {hub_token: abcd1234efgh}", "training.hub_token", "abcd1234efgh"),
        (f"output: runs/{SHAPED}", "output", SHAPED),
        ("model: {path: 'https://me:pass1234@hub.example/m'}", "model.path", "pass1234"),
        ("tracking: {tags: [from-the-environment-9]}", "tracking.tags.0", "from-the-environment-9"),
    ],
)
@pytest.mark.parametrize("place", ["file", "command line"])
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(tmp_path, monkeypatch, line, key, value, place):
    monkeypatch.setenv("WANDB_API_KEY", "from-the-environment-9")
    file, overrides = tmp_path / "r.yaml", []
    name, _, rest = line.partition(": ")
    if place == "file":
        file.write_text("\n".join(one for one in RECIPE.splitlines() if not one.startswith(name + ":")) + f"\n{line}\n")
    else:
        file.write_text(RECIPE)
        overrides = [f"{name}={rest}"]
    with pytest.raises(RecipeError, match="holds a secret, or what looks like one") as caught:
        config.load(file, GRPORecipe, overrides)
    assert f"`{key}`" in str(caught.value) and value not in str(caught.value)


def test_what_only_sounds_like_a_secret_is_allowed(tmp_path):
    """A tokenizer's own tokens, the name of a variable, and git's addresses without a password."""
    (tmp_path / "r.yaml").write_text(RECIPE + "prompt: {system: 'Count the tokens: password, https://a.example/@x'}\n")
    recipe = config.load(tmp_path / "r.yaml", GRPORecipe, ["tracking.project=secret-ships"])
    assert recipe.tracking.project == "secret-ships" and "password" in recipe.prompt.system
    assert not holds_secret("training.eos_token", "<|im_end|>")
    assert not holds_secret("judge.api_key", "JUDGE_API_KEY")
    assert not holds_secret("token_variable", "NADIR_SCORE_TOKEN")
    assert holds_secret("judge.request.api_key", "k3y-for-the-judge")


def test_reading_a_recipe_runs_nothing_that_it_names(tmp_path):
    """Code that a recipe names is run by who uses the recipe (`--dry-run` too), never by reading or comparing it."""
    trace = tmp_path / "it-ran"
    (tmp_path / "mine.py").write_text(f"open({str(trace)!r}, 'w')\ndef reward(completions, **columns): return []\n")
    (tmp_path / "r.yaml").write_text(RECIPE.replace("use: iou", f"use: '{tmp_path}/mine.py:reward'"))
    recipe = config.load(tmp_path / "r.yaml", GRPORecipe)
    config.save(recipe, tmp_path / "saved.yaml")
    assert config.difference(recipe, config.load(tmp_path / "saved.yaml", GRPORecipe)) == {} and not trace.exists()
    resolve(recipe.rewards[0].use)
    assert trace.exists(), "and this is who runs it"


def test_every_promise_names_tests_that_exist():
    """docs/security.md: each row of its tables ends with a test file and names in it."""
    rows = [line for line in (ROOT / "docs/security.md").read_text().splitlines() if line.startswith("| ")]
    promises = [line for line in rows if not line.startswith(("| promise", "| ---"))]
    assert len(promises) >= 15
    for line in promises:
        named = re.findall(r"`(test_\w+)(?:\.py)?`", line.split("|")[-2])
        files = {name: path for name in named for path in (ROOT / "tests").glob(f"*/{name}.py")}
        tests = [name for name in named if name not in files]
        written = "".join(path.read_text() for path in files.values())
        assert files and tests and all(f"def {name}(" in written for name in tests), line
