"""What the project promises on paper exists: recipes load, pins are exact, the README's commands are real."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "recipes").rglob("*.yaml"))
ACCELERATE = [name for name in RECIPES if name.startswith("recipes/accelerate/")]
BASES = {  # what recipes name in `base:`
    (ROOT / name).parent.joinpath(base).resolve().relative_to(ROOT).as_posix()
    for name in RECIPES
    if (base := yaml.safe_load((ROOT / name).read_text()).get("base"))
}
STAGES = {
    "sft": "sft.recipe:SFTRecipe",
    "grpo": "rl.recipe:GRPORecipe",
    "eval": "evals.recipe:EvalRecipe",
    "score": "rewards.score.training.recipe:ScoreRecipe",
    "serve": "rewards.score.service.recipe:ServeRecipe",
    "prefer": "rewards.prefer.recipe:PreferRecipe",
    "bon": "rewards.select.recipe:BonRecipe",
    "curate": "rewards.curate.recipe:CurateRecipe",
    "ablation": "studies.matrix.recipe:MatrixRecipe",
}


def stage_of(path: Path) -> str | None:
    """The `stage:` of a recipe, its own or that of the recipe it is based on; None when neither says."""
    content = yaml.safe_load(path.read_text())
    if "stage" in content or "base" not in content:
        return content.get("stage")
    return stage_of(path.parent / content["base"])


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ACCELERATE])
def test_recipe_loads(name, monkeypatch):
    from stage.recipe import config

    monkeypatch.chdir(ROOT)
    stage = stage_of(ROOT / name)
    if stage is None:  # what several stages share is read with each recipe that builds on it
        assert name in BASES, f"{name} has no `stage:`, and no recipe is based on it"
        return
    module, cls = STAGES[stage].split(":")
    recipe = config.load(ROOT / name, getattr(importlib.import_module(module), cls))
    assert recipe.stage == stage


def test_a_recipe_of_another_stage_names_its_launcher():
    """Only the stage is wrong: no word of the keys that the other launcher does not know."""
    from sft.recipe import SFTRecipe
    from stage.recipe import config
    from stage.recipe.schema import LAUNCHERS
    from vlm.common.errors import RecipeError

    assert LAUNCHERS.keys() == STAGES.keys()
    assert all((ROOT / f"launch/{launcher}.py").is_file() for launcher in LAUNCHERS.values())
    for name, found, launcher in (("r1", "grpo", "grpo"), ("ablation", "ablation", "ablate")):
        with pytest.raises(RecipeError) as caught:
            config.load(ROOT / f"recipes/{name}.yaml", SFTRecipe)
        line = (ROOT / f"recipes/{name}.yaml").read_text().splitlines().index(f"stage: {found}") + 1
        expected = f"`stage`: found {found!r} (str), expected sft; start it with launch/{launcher}.py"
        assert str(caught.value) == f"{ROOT}/recipes/{name}.yaml, line {line}: {expected}"
    with pytest.raises(RecipeError, match=r"expected sft; did you mean sft\?$"):
        config.load(ROOT / "recipes/sft.yaml", SFTRecipe, ["stage=sfft"])


@pytest.mark.parametrize("name", ACCELERATE)
def test_accelerate_config_loads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(ROOT / name)).to_dict()
    written = yaml.safe_load((ROOT / name).read_text())
    # It fills in defaults and refuses keys it does not know; what is written must come through as it is.
    assert {key: loaded.get(key) for key in written} == written


def test_recipes_of_the_paper_and_the_demo_exist():
    assert {"recipes/r1.yaml", "recipes/zero.yaml", "recipes/demo/sft.yaml", "recipes/demo/grpo.yaml"} <= set(RECIPES)
    assert "recipes/accelerate/zero3.yaml" in ACCELERATE


def test_pins_are_exact_where_a_range_would_hurt():
    dependencies = PROJECT["project"]["dependencies"]
    assert {"trl==1.16.0", "torch==2.13.0"} <= set(dependencies)
    everything = dependencies + [d for extra in PROJECT["project"]["optional-dependencies"].values() for d in extra]
    assert not [d for d in everything if re.match(r"torch(vision|audio)", d)], "no CPU build of torchvision exists"
    assert all(re.search(r"[<>=]=", d) for d in everything), "each dependency says from which version on"


def test_installed_versions_satisfy_the_project():
    from importlib.metadata import version

    from packaging.requirements import Requirement

    dev = PROJECT["project"]["optional-dependencies"]["dev"]
    wanted = [Requirement(text) for text in PROJECT["project"]["dependencies"] + dev]
    wrong = {r.name: version(r.name) for r in wanted if not r.specifier.contains(version(r.name), prereleases=True)}
    assert not wrong


def test_each_package_is_found_and_nothing_else_is():
    from setuptools import find_packages

    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(ROOT), include=find["include"])
    assert {name.split(".")[0] for name in found} == {
        "vlm",
        "samples",
        "stage",
        "rewards",
        "sft",
        "rl",
        "evals",
        "studies",
        "demo",
    }
    code = {
        p.parent.relative_to(ROOT).as_posix() for top in found if "." not in top for p in ROOT.glob(f"{top}/**/*.py")
    }
    missing = code - {name.replace(".", "/") for name in found}
    assert not missing, f"without __init__.py these would be left out of the distribution: {missing}"


def test_make_says_what_is_wrong_with_an_old_python(tmp_path):
    """In an empty copy: the interpreter is looked at before anything is created or downloaded."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(tmp_path), "lint", f"PYTHON={old}"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "error: Nadir needs Python 3.11 or newer; found: Python 3.9.1." in done.stderr
    assert not (tmp_path / ".venv").exists()


def readme_code() -> str:
    """The fenced code blocks and the inline code of README.md, as one text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fence = r"^```[^\n]*\n(.*?)^```"
    blocks = re.findall(fence, text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(fence, "", text, flags=re.DOTALL | re.MULTILINE))
    return "\n".join(blocks + inline)


def test_readme_names_only_what_exists():
    code = readme_code()
    targets = set(re.findall(r"\bmake ([a-z][\w-]*)", code))
    rules = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets <= rules
    paths = set(re.findall(r"(?<![\w./-])((?:launch|recipes|demo|benchmarks)/[\w./-]+\.(?:py|ya?ml))", code))
    assert any(p.startswith("launch/") for p in paths) and any(p.startswith("recipes/") for p in paths)
    assert not [p for p in sorted(paths) if not (ROOT / p).exists()]
    modules = set(re.findall(r"python -m ((?:demo|vlm|samples|stage|rewards|sft|rl|evals|studies)[\w.]*)", code))
    assert not [m for m in sorted(modules) if not (ROOT / (m.replace(".", "/") + ".py")).exists()]


def test_readme_pictures_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text) + re.findall(r'<img[^>]*src="([^"]+)"', text)
    assert pictures and not [p for p in pictures if not p.startswith("http") and not (ROOT / p).exists()]


def test_readme_recipe_for_own_data_works(tmp_path):
    """The five lines of "Bring your own data", on a folder in DIOR-RSVG's layout."""
    from rl.recipe import GRPORecipe
    from samples.mixture import draw
    from stage.recipe import config
    from tests.support import layouts

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```yaml\n(base: .*?)```", text, re.DOTALL)
    assert len(lines.splitlines()) == 5
    layouts.build(tmp_path / "data")
    path = tmp_path / "dior.yaml"
    path.write_text(lines.replace("base: ", f"base: {ROOT}/").replace("data/DIOR", f"{tmp_path}/data/DIOR"))
    recipe = config.load(path, GRPORecipe)
    rows = draw(recipe.data, "train", recipe.seed).samples
    # train.txt: the objects 0 and 3 of all annotations
    assert [(sample.task, sample.id) for sample in rows] == [("grounding", "0"), ("grounding", "3")]
    assert all(sample.boxes and sample.size == (40, 20) for sample in rows)
