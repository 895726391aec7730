"""What trackers are told by the recipe, and a tracker that is not there."""

import importlib.util
import json
import os

import pytest

from rl.recipe import GRPORecipe
from stage import cli
from stage.recipe import config
from stage.tracking import alerts, samples, trackers
from stage.tracking.attach import label
from stage.tracking.section import TRACKERS, AlertSection, TrackingSection
from tests.support.runs.example_recipe import message
from vlm.common.errors import RecipeError
from vlm.sections import ModelSection


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_loads(monkeypatch):
    there = {"wandb"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in there or None)
    recipe = GRPORecipe(
        model=ModelSection(path="nowhere"), output="out", tracking=TrackingSection(report_to=["wandb", "trackio"])
    )
    with pytest.raises(RecipeError, match=r"trackio, which is not installed: pip install trackio; .*report_to=\[wandb"):
        trackers.check_installed(recipe.tracking)
    with pytest.raises(RecipeError, match="pip install comet-ml"):
        trackers.check_installed(TrackingSection(report_to=["comet_ml"]))
    with pytest.raises(RecipeError, match="pip install tensorboard;"):
        trackers.check_installed(TrackingSection(report_to=["tensorboard"]))
    there.add("tensorboardX")  # which does as well
    trackers.check_installed(TrackingSection(report_to=["wandb", "tensorboard"]))


@pytest.fixture
def anew():
    """wandb as a process finds it at its start: it reads its environment once."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def test_wandb_online_needs_an_account_before_anything_loads(monkeypatch, tmp_path, anew):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = GRPORecipe(model=ModelSection(path="nowhere"), output="out", tracking=TrackingSection(report_to=["wandb"]))
    with pytest.raises(RecipeError, match=r"no account here: run `wandb login`.* tracking.mode=offline"):
        cli.check_machine(recipe)
    monkeypatch.setenv("RANK", "1")  # the main process says it
    cli.check_machine(recipe)
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WANDB_MODE", "offline")  # where the recipe has none
    cli.check_machine(recipe)
    with pytest.raises(RecipeError, match="no account here"):
        trackers.check_account(TrackingSection(report_to=["wandb"], mode="online"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
    trackers.check_account(TrackingSection(report_to=["wandb"], mode="online"))


@pytest.mark.parametrize(
    ("mode", "variable", "found"),
    [("offline", "online", "offline"), (None, "offline", "offline"), (None, None, "online")],
)
def test_the_recipe_s_mode_goes_before_the_environment_s(monkeypatch, mode, variable, found):
    monkeypatch.setattr(os, "environ", {"WANDB_MODE": variable} if variable else {})
    trackers.announce(TrackingSection(report_to=["wandb"], mode=mode), "out", "grpo")
    assert os.environ["WANDB_MODE"] == found


def test_tags_of_the_axes():
    section = TrackingSection(tags=["demo", "a, b"], axes={"reward": "score", "cold": False, "beta": 0.1, "lora": None})
    assert trackers.tags(section) == ["demo", "a b", "reward:score", "cold:false", "beta:0.1", "lora:null"]
    (tag,) = trackers.tags(TrackingSection(tags=["x" * 70]))
    assert tag == "x" * 63 + "…"


@pytest.mark.parametrize(
    ("axes", "cell"),
    [
        ({}, None),
        ({"start": "sft", "score": True, "seed": 3}, "start=sft, score=true"),
        ({"seed": 3}, "matrix"),  # seeds alone: all runs of the group are one cell
    ],
)
def test_runs_that_differ_by_the_seed_alone_are_one_cell(axes, cell):
    assert TrackingSection(axes=axes, group="matrix").cell == cell


def test_columns_to_group_by():
    tracking = TrackingSection(group="m", axes={"start": "sft", "seed": 1})
    recipe = GRPORecipe(model=ModelSection(path="nowhere"), output="out", seed=1, tracking=tracking)
    found = trackers.labels(recipe)
    assert found == {
        "recipe": config.to_dict(recipe), "axes": {"start": "sft", "seed": 1}, "cell": "start=sft", "group": "m",
        "stage": "grpo",
    }  # fmt: skip


def test_one_run_of_wandb_has_one_id_however_often_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    tracking = TrackingSection(report_to=["wandb"])
    trackers.identify(tracking, tmp_path, resumed=True)  # from another run's checkpoint: a run of its own
    first = os.environ["WANDB_RUN_ID"]
    trackers.identify(tracking, tmp_path, resumed=True)
    assert os.environ["WANDB_RUN_ID"] == first and os.environ["WANDB_RESUME"] == "allow"
    assert json.loads((tmp_path / "tracking.json").read_text()) == {"wandb": first}
    trackers.identify(tracking, tmp_path, resumed=False)
    assert os.environ["WANDB_RUN_ID"] != first
    trackers.identify(TrackingSection(), tmp_path / "none", resumed=False)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tracking.report_to=[wandb, neptun]", "in `tracking`: report_to names 'neptun'; known: wandb, tensorboard"),
        ("tracking.axes={a: [1]}", "in `tracking`: axes.a = [1]; expected a number or a text"),
        ("tracking.alerts.window=1", "in `tracking.alerts`: window = 1, patience = 3; expected at least 2"),
        ("tracking.alerts.entropy=1.5", "in `tracking.alerts`: entropy = 1.5; expected a share"),
        ("tracking.alerts.length=1", "in `tracking.alerts`: length = 1.0; expected a number above 1"),
        ("tracking.samples.pixels=0", "in `tracking.samples`: rows = 16, every = 10, pixels = 0"),
    ],
)
def test_sections_that_cannot_be(override, expected):
    values = {"model": {"path": "hub/id"}, "output": "out"}
    assert expected in message(config.build, values, GRPORecipe, [override])


def test_what_may_be_switched_off():
    values = {"model": {"path": "hub/id"}, "output": "out"}
    made = config.build(values, GRPORecipe, ["tracking={samples: null, alerts: {kl: null, reward: null}}"]).tracking
    assert made.samples is None and made.alerts == AlertSection(kl=None, reward=None)


def test_wandb_that_is_disabled_is_left_alone(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "run", None)
    samples.send("wandb", [{"step": 1}], tmp_path)
    alerts.tell("wandb", alerts.Alert(3, "kl", 2, "Far", "Since …"))
    label("wandb", {})


def test_every_tracker_has_a_module_to_look_for():
    assert all(TRACKERS.values())
