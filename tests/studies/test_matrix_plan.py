"""A matrix file → runs and stages: what they are called, what they change, what is shared."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage.recipe.yaml_nodes import dump_line, parse
from studies.matrix import changes, planning
from studies.matrix.changes import Change
from tests.support.runs import matrices
from tests.support.runs.matrices import plan
from vlm.common.errors import RecipeError, UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(matrices.folder(tmp_path))
    return tmp_path


def changed(stage) -> dict:
    return {change.key: change.value for change in stage.changes}


def test_the_roads(here):
    found = plan()
    labels = ["Zero-with", "Zero-without", "SFT", "R1-with", "R1-without"]
    assert [(run.label, run.seed) for run in found.runs] == [(label, seed) for seed in (0, 1) for label in labels]
    assert [run.values for run in found.runs[:4]] == [
        {"road": "Zero", "score": "with"},
        {"road": "Zero", "score": "without"},
        {"road": "SFT", "score": None},
        {"road": "R1", "score": "with"},
    ]
    stages = {
        "Zero-with": {"grpo": "Zero-with/seed-0/grpo", "eval": "Zero-with/seed-0/eval"},
        "Zero-without": {"grpo": "Zero-without/seed-0/grpo", "eval": "Zero-without/seed-0/eval"},
        "SFT": {"sft": "SFT/seed-0/sft", "eval": "SFT/seed-0/eval"},
        "R1-with": {"sft": "SFT/seed-0/sft", "grpo": "R1-with/seed-0/grpo", "eval": "R1-with/seed-0/eval"},
        "R1-without": {"sft": "SFT/seed-0/sft", "grpo": "R1-without/seed-0/grpo", "eval": "R1-without/seed-0/eval"},
    }
    assert {run.label: {n: s.key for n, s in run.stages.items()} for run in found.runs[:5]} == stages
    # 2 seeds × (1 SFT + 4 GRPO + 5 evaluations), each once
    assert len(found.stages) == len({stage.key for stage in found.stages}) == 20
    sft = found.runs[2].stages["sft"]
    assert [run.label for run in sft.runs] == ["SFT", "R1-with", "R1-without"]
    for stage in found.stages:
        assert all(found.stages.index(need) < found.stages.index(stage) for need in stage.needs)


def test_what_each_stage_changes(here):
    runs = {run.label: run.stages for run in plan().runs[5:]}  # of seed 1
    assert changed(runs["Zero-with"]["grpo"]) == {"seed": 1, "model.path": "base", "training.lr": 0.2}
    assert changed(runs["R1-with"]["grpo"]) == {
        "seed": 1,
        "model.path": "out/SFT/seed-1/sft/final",
        "training.lr": 0.2,
    }
    # the own lines of no_score.yaml, after those of the matrix
    assert changed(runs["R1-without"]["grpo"]) == {
        "seed": 1,
        "model.path": "out/SFT/seed-1/sft/final",
        "rewards": ["rules"],
        "training.lr": 0.3,
    }
    assert changed(runs["R1-without"]["eval"]) == {"model.path": "out/R1-without/seed-1/grpo/final"}
    assert changed(runs["SFT"]["eval"]) == {"model.path": "out/SFT/seed-1/sft/final"}
    recipe = runs["R1-without"]["grpo"].recipe
    assert recipe.rewards == ["rules"] and recipe.training == {"act": "finish", "lr": 0.3} and recipe.seed == 1


def test_an_axis_that_is_a_key(here):
    found = plan("axes=null", "axes={grpo.training.beta: [0, 0.01, null], grpo.seed: [7, 8]}", "seeds=[3]")
    betas = ["beta=0", "beta=0.01", "beta=null"]
    assert [run.label for run in found.runs] == [f"{b}-seed={s}" for b, s in itertools.product(betas, (7, 8))]
    assert changed(found.runs[3].stages["grpo"])["training.beta"] == 0.01
    # the matrix's seed gives way to the axis's
    assert [run.stages["grpo"].recipe.seed for run in found.runs] == [7, 8] * 3


def test_leave_out_and_skip(here):
    found = plan("leave_out=[{road: Zero, score: without}, {road: SFT}]", "axes.road.R1={skip: eval}", "seeds=[0]")
    assert {run.label: list(run.stages) for run in found.runs} == {
        "Zero-with": ["grpo", "eval"],
        "R1-with": ["sft", "grpo"],
        "R1-without": ["sft", "grpo"],
    }


def test_what_no_seed_reaches_is_one_run(here):
    found = plan("axes=null", "axes={road: {base: {eval: {model.path: base}}, R1: {}}}")
    assert [(run.label, run.seed, run.folder) for run in found.runs] == [
        ("base", None, "base/any-seed"),
        ("R1", 0, "R1/seed-0"),
        ("R1", 1, "R1/seed-1"),
    ]


def test_what_is_only_watched_is_the_same_work(here):
    """Logging and saving change no weight, as in a resume."""
    found = plan("axes=null", "axes={grpo.training.logging_steps: [1, 5]}", "seeds=[0]")
    assert [run.label for run in found.runs] == ["base"]


def test_earlier_work_is_found_under_another_label(here):
    """An axis is added, and a run before it shares its stage: the finished work stays where it is."""
    from stage import runs
    from stage.recipe import config

    before = plan("axes=null", "axes={}", "seeds=[0]")
    for stage in before.stages:
        runs.Run.create(stage.folder, config.to_dict(stage.recipe)).finish()
    assert [stage.key for stage in before.stages] == [f"base/seed-0/{name}" for name in ("sft", "grpo", "eval")]
    after = plan("seeds=[0]")
    assert {n: s.key for n, s in after.runs[3].stages.items()} == {s.name: s.key for s in before.stages}
    assert after.runs[2].stages["sft"].key == "base/seed-0/sft"


def test_other_work_in_its_place_is_refused_key_by_key(here):
    from stage import runs
    from stage.recipe import config

    stage = plan("seeds=[0]").runs[3].stages["grpo"]
    runs.Run.create(stage.folder, config.to_dict(stage.recipe)).finish()
    with pytest.raises(UserError) as refused:
        plan("seeds=[0]", "stages.grpo.set={training.lr: 0.5}")
    told = [line.strip() for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert told == ["out/R1-with/seed-0/grpo: training.lr was 0.2 and is 0.5"]
    plan("seeds=[0]", "stages.grpo.set={training.save_steps: 3, tracking.mode: offline}")  # these change no weight


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("axes.score.without={grpo: {trainin.lr: 1}}", "axis `score`, value `without`, stage `grpo`: unknown"),
        ("axes.score.without={grpo: {trainin.lr: 1}}", "did you mean `training`?"),
        ("axes.score.without={grop: {training.lr: 1}}", "`without`: there is no stage `grop`; did you mean `grpo`?"),
        ("axes.score.without={grpo: {seed: many}}", "stage `grpo`: `seed`: found 'many' (str), expected int"),
        ("axes.score.without={grpo: nowhere.yaml}", "cannot read the recipe nowhere.yaml"),
        ("axes.score.without={grpo: 3}", "found 3, expected recipe keys, the path of a recipe"),
        ("axes.road.R1={eval: {model.path: '{grop}/final'}}", "there is no stage `grop`; did you mean `grpo`?"),
        ("axes.road.R1={sft: {model.path: '{eval}/final'}}", "the stages need each other: eval → grpo → sft → eval"),
        ("axes.road.R1={skip: sft}", "road R1, score with, seed 0: skips sft, which its stages need"),
        ("axes.road.R1={skip: [sft, grpo, eval]}", "no stage can be the last"),
        ("axes={grpo.training.lr: [0.1, 0.1]}", "the value 'lr=0.1' is given twice"),
        ("axes={'a b': {x/y: {}}}", "axis `a b`: the value 'x/y' becomes a folder's name"),
        ("axes={lr: [1, 2]}", "axis `lr`: there is no stage `lr`"),
        ("axes={grpo: [1, 2]}", "a list of values belongs to a recipe key, such as `grpo.training.learning_rate`"),
        ("axes={seed: {a: {}}}", "seeds go into `seeds`"),
        ("leave_out=[{raod: Zero}]", "leave_out.0: there is no axis `raod`; did you mean `road`?"),
        ("leave_out=[{road: Zro}]", "the axis `road` has no value `Zro`; did you mean `Zero`?"),
        ("leave_out=[{seed: 0}]", "there is no axis `seed`"),
        ("stages.sft={launch: fak}", "stage `sft`: there is no launcher `fak`; did you mean `fake`?"),
        ("stages.sft={command: [ls]}", "in `stages.sft`: expected either `launch` with its `recipe`, or `command`"),
        ("stages.sft.set={trainin.lr: 1}", "stage `sft`: unknown key `trainin`"),
        ("seeds=[1, 1]", "expected different numbers from 0 on"),
        ("axis={}", "unknown key `axis`; did you mean `axes`?"),
    ],
)  # fmt: skip
def test_mistakes_are_named(here, override, expected):
    with pytest.raises(RecipeError) as refused:
        plan(override)
    assert expected in str(refused.value)


def test_an_overlay_must_lie_on_the_recipe(here):
    """With a base of its own in between, whose lines count too; on another recipe it would mean something else."""
    (here / "less.yaml").write_text("base: no_score.yaml\ntraining: {lr: 0.4}\n")
    found = changes.overlay(Path("less.yaml"), Path("base.yaml"), "x")
    assert [(one.key, one.value) for one in found] == [
        ("rewards", ["rules"]),
        ("training.lr", 0.3),
        ("training.lr", 0.4),
    ]
    (here / "other.yaml").write_text("stage: fake\nmodel: {path: x}\noutput: y\n")
    with pytest.raises(RecipeError, match="less.yaml changes base.yaml, which other.yaml is not based on"):
        changes.overlay(Path("less.yaml"), Path("other.yaml"), "x")


def test_later_changes_replace_earlier_ones():
    given = [
        ("data.train.0.path", "a"),
        ("model.path", "b"),
        ("data.train", [1]),
        ("model.lora", {}),
        ("data.train.0", 2),
    ]
    kept = changes.last(Change(key, value, "") for key, value in given)
    assert [(one.key, one.value) for one in kept] == [("model.path", "b"), *given[2:]]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(VALUES)
@settings(max_examples=80)
def test_an_override_says_any_value(value):
    text = dump_line(value)
    assert "\n" not in text and parse(text, "x", lines=False).plain() == value


@given(st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 3]), min_size=1, max_size=3), min_size=1, max_size=3), st.data())
@settings(max_examples=60)
def test_as_many_runs_as_there_are_different_works(numbers, data):
    """Axes whose values set keys to numbers, some of them equal: runs are the different settings, labels are unique,
    and a label's values are those of its settings."""
    names = [[f"v{i}" for i in range(len(values))] for values in numbers]
    everything = [
        dict(zip(map(str, range(len(names))), one, strict=True)) | {"seed": "0"} for one in itertools.product(*names)
    ]
    left = data.draw(st.lists(st.sampled_from(everything), min_size=1, unique_by=lambda one: tuple(one.values())))
    works: dict[tuple, list] = {}
    for one in left:
        work = tuple(numbers[int(axis)][int(one[axis][1:])] for axis in one if axis != "seed")
        works.setdefault(work, []).append(one)
    labels = [_label(group, left) for group in works.values()]
    assert len(set(labels)) == len(works)


def _label(group: list[dict], everything: list[dict]) -> str:
    values = planning.told(group, everything)
    values.pop("seed")
    for axis, value in values.items():
        if value is not None and "+" not in value:
            assert any(one[axis] == value for one in group)
    return planning.label(values, everything)
