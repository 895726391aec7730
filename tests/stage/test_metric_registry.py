"""The registry of metrics against what runs log, what recipes hold, and the page that is made from it."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest

import rewards
from samples import TASKS
from stage.metrics import GROUPS, METRICS, Range, find, turns
from stage.metrics.finding import PHASES, pattern
from stage.metrics.page import page, where
from tests.support.processes.commands import ROOT, run
from tests.support.runs import logged_runs

pytestmark = pytest.mark.xdist_group("metrics")
UNREACHABLE = {  # where this machine and metrics.jsonl end
    "throughput/mfu": "cuda",
    "memory/peak_gib": "cuda",
    "memory/reserved_gib": "cuda",
    "vllm/logp_gap/images": "vllm",
    "vllm/logp_gap/text": "vllm",
    "sampling/sampling_logp_difference/mean": "vllm",
    "sampling/sampling_logp_difference/max": "vllm",
    "sampling/importance_sampling_ratio/min": "vllm",
    "sampling/importance_sampling_ratio/mean": "vllm",
    "sampling/importance_sampling_ratio/max": "vllm",
    "profiling/Time taken: <method>": "dashboard",
    "global_step": "dashboard",
}
WORDS = {"gated", "score", "iou", "task/kind", "input_ids", "--dry-run", "completions/", "time/…"}
WORDS |= {"terminated", "mean", *PHASES, "zoom", "image_zoom_in", "no_zoom", "regions"}
"""What entries have in backticks beside keys, options, metrics and files."""


@pytest.fixture(scope="module")
def logged(tiny_model, demo_data, tmp_path_factory):
    """Rows of metrics.jsonl by stage, of runs of all of them."""
    out = tmp_path_factory.mktemp("logged")
    bonus, vespo = ("training.loss_type=cispo", "training.entropy_coef=0.01"), ("training.loss_type=vespo",)
    losses = [logged_runs.grpo_rows(tiny_model, demo_data, out / changes[0], *changes) for changes in (bonus, vespo)]
    return {
        "sft": logged_runs.supervised(tiny_model, demo_data, out / "sft"),
        "score": logged_runs.preferences(tiny_model, out / "score"),
        "grpo": [
            *logged_runs.rewarded(tiny_model, demo_data, out / "grpo"),
            *losses[0],
            *losses[1],
            *logged_runs.conversed(tiny_model, demo_data, out / "turns"),
        ],
    }


def kind(row) -> str:
    """Of a row: "step", "eval" or "end"."""
    return "end" if "train_loss" in row else "eval" if any(name.startswith("eval_") for name in row) else "step"


def test_everything_logged_is_registered(logged):
    found = {stage: {name for row in rows for name in row} for stage, rows in logged.items()}
    assert {stage: len(names) > 20 for stage, names in found.items()} == dict.fromkeys(("sft", "score", "grpo"), True)
    assert not [(stage, name) for stage, names in found.items() for name in names if find(name, stage) is None]


def test_everything_registered_is_logged(logged):
    """As a number, in each stage and each kind of row that the entry claims."""
    seen = defaultdict(set)
    for stage, rows in logged.items():
        for row in rows:
            for name in (name for name, value in row.items() if value is not None):
                seen[stage, kind(row)].add(name.removeprefix("eval_"))
    missing = {
        (metric.name, stage, where)
        for metric in METRICS
        for stage in metric.stages
        for where in metric.rows
        if not any(find_in(metric, name, stage) for name in seen[stage, where])
    }
    assert {name for name, *_ in missing} == {m.name for m in METRICS if m.needs} == UNREACHABLE.keys()
    assert {m.name: m.needs for m in METRICS if m.needs} == UNREACHABLE
    for name in ("tokens/{}", "tokens/{}_ideal", "padding/{}"):
        assert {name.format(phase) for phase in PHASES} <= seen["grpo", "step"]


def find_in(metric, name, stage) -> bool:
    """Whether a logged name, without eval_, is this metric's and no other's."""
    return any(find(f"{prefix}{name}", stage) is metric for prefix in ("", "eval_"))


def test_phases_add_up_to_the_step(logged):
    """As the page says: generation's parts and the update are the whole of step_time."""
    steps = [row for row in logged["grpo"] if "step_time" in row]
    phases = [{name: value for name, value in row.items() if name.startswith("time/")} for row in steps]
    assert len(steps) == 4 and set().union(*phases) == {m.name for m in METRICS if m.name.startswith("time/")}
    for row, parts in zip(steps, phases, strict=True):
        assert sum(parts.values()) == pytest.approx(row["step_time"])


def test_the_tiny_runs_are_judged(logged):
    """Readings whose verdict is known: nothing failed, and no probe moved."""
    (row,) = (row for row in logged["grpo"] if "score/failed" in row)
    for name in ("guards/skipped_steps", "reward_faults/letters", "score/failed", "score/masked_count"):
        assert row[name] == 0 and find(name).healthy.holds(row[name])
    assert find("score/probe_drift").healthy.holds(row["score/probe_drift"])
    assert find("kl").healthy is None and row["kl"] == pytest.approx(0, abs=1e-6)  # the policy is the reference still


def test_conversations_are_counted(logged):
    """Of four completions of a prompt (`logged_runs.TALKS`): calls 1, 0, 1, 1; one is refused, one of two regions holds
    the truth, one calls too often. Entropy of (1/4, 3/4). Rewards of those that zoom are 0.3 and 0 (no format), of the
    others 0.3."""
    rows = [(kind(row), row) for row in logged["grpo"] if "turns/mean" in row or "eval_turns/mean" in row]
    assert sorted(of for of, _ in rows) == ["eval", "step"]
    for of, row in rows:
        found = {name: row[f"{'eval_' * (of == 'eval')}{name}"] for name in (m.name for m in turns.TURNS.metrics)}
        assert found == pytest.approx(
            {
                "turns/mean": 1.75, "turns/calls": 0.75, "turns/over": 0.25, "turns/depth_entropy": 0.562335,
                "turns/failed": 1 / 3, "zoom/share": 0.5, "zoom/holds": 0.5, "zoom/gain": -0.15,
            }
        )  # fmt: skip
        assert not find("turns/over").healthy.holds(row[f"{'eval_' * (of == 'eval')}turns/over"])


def test_dashboards_names(monkeypatch):
    """As transformers and TRL write them."""
    from transformers.integrations.integration_utils import rewrite_logs
    from trl.extras import profiling

    told = {}
    monkeypatch.setattr(profiling, "wandb", SimpleNamespace(run=1, log=told.update), raising=False)
    monkeypatch.setattr(profiling, "is_wandb_available", lambda: True)
    with profiling.ProfilingContext("GRPOTrainer._prepare_inputs", ["wandb"]):
        pass
    (name,) = told
    assert find(name).needs == "dashboard"
    assert list(rewrite_logs({"kl": 0, "eval_kl": 0})) == ["train/kl", "eval/kl"]
    assert find("train/kl") is find("eval/kl") is find("kl") is not None


@pytest.mark.parametrize(
    ("logged_name", "entry"),
    {
        "reward_raw/vqa": "reward_raw/<task>",
        "reward_raw/vqa/count": "reward_raw/<task>",
        "reward_raw/vqa/count_count": "reward_raw/<task>_count",
        "eval_reward_raw/vqa_count": "reward_raw/<task>_count",
        "reward_raw/format": "reward_raw/format",
        "reward_raw/none_count": "reward_raw/none_count",
        "reward_raw/chess": None,
        "rewards/my/own/mean": "rewards/<reward>/mean",
        "eval_shuffled/pair_accuracy": "shuffled/pair_accuracy",
        "eval_colours/pair_accuracy": "<source>/pair_accuracy",
        "eval_image_gain[relevance]": "image_gain[<dimension>]",
        "image_gain": None,
        "eval_step_time": None,
        "runtime": None,
        "eval_runtime": "runtime",
        "train_runtime": "train_runtime",
        "train/train_loss": "train_loss",
        "score/corr_length": "score/corr_length",
        "score/corr_iou": "score/corr_<rule>",
        "tokens/update_ideal": "tokens/<phase>_ideal",
        "tokens/lunch": None,
        "my_reward/depth": None,
        "": None,
    }.items(),
)
def test_finding(logged_name, entry):
    found = find(logged_name)
    assert (found and found.name) == entry


def test_one_name_may_mean_two_things():
    assert find("score/mean", "grpo") is not find("score/mean", "score")
    assert find("score/mean", "sft") is None
    names = [(metric.name, stage) for metric in METRICS for stage in metric.stages]
    assert len(names) == len(set(names))


def test_every_task_is_known():
    assert all(pattern("reward_raw/<task>").fullmatch(f"reward_raw/{task}") for task in TASKS)


@pytest.mark.parametrize(
    ("healthy", "inside", "outside", "text"),
    [
        (Range(0, 0), [0], [1, -1e-9, math.nan], "0"),
        (Range(0, 0.5), [0, 0.5], [0.51, -0.1, math.inf], "0 to 0.5"),
        (Range(low=0.5, open=True), [0.51, math.inf], [0.5, 0.4], "> 0.5"),
        (Range(high=2), [2, -math.inf], [2.1], "≤ 2"),
        (Range(low=0), [0], [-1], "≥ 0"),
        (Range(high=1, open=True), [0.9], [1], "< 1"),
        (Range(0, 0.25, open=True), [0.1], [0, 0.25], "between 0 and 0.25"),
    ],
)
def test_ranges(healthy, inside, outside, text):
    assert all(map(healthy.holds, inside)) and not any(map(healthy.holds, outside))
    assert str(healthy) == text


@pytest.mark.parametrize("bounds", [{}, {"low": 1, "high": 0}, {"low": 1, "high": 1, "open": True}])
def test_ranges_that_hold_nothing_are_refused(bounds):
    with pytest.raises(ValueError):
        Range(**bounds)


def test_the_page_is_up_to_date():
    made = run([sys.executable, "-m", "stage.metrics"]).stdout
    assert made == page(GROUPS)
    assert made == (ROOT / "docs/metrics.md").read_text(encoding="utf-8"), "python -m stage.metrics > docs/metrics.md"


@pytest.fixture(scope="module")
def keys() -> dict[str, set[str]]:
    """Of each stage's recipe, without places in lists; TRL's under `training` too."""
    from trl import GRPOConfig, RewardConfig, SFTConfig

    from rewards.score.training.recipe import ScoreRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe
    from stage.recipe.keys import describe

    found = {}
    for stage, recipe, trl in (
        ("sft", SFTRecipe, SFTConfig), ("grpo", GRPORecipe, GRPOConfig), ("score", ScoreRecipe, RewardConfig)
    ):  # fmt: skip
        own = {entry.key.replace(".<n>", "") for entry in describe(recipe)}
        found[stage] = own | {f"training.{field.name}" for field in dataclasses.fields(trl)}
    return found


def test_no_entry_refers_to_itself():
    texts = [(m.name, text.lower()) for m in METRICS for text in (m.why, m.advice, m.when)]
    assert [name for name, text in texts if text.startswith((f"as `{name}`", f"read `{name}`", f"see `{name}`"))] == []


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_entries_name_only_what_exists(group, keys):
    """Each word in backticks: a key of its stages' recipes, an option of a reward, a metric, a file, a reward."""
    texts = [(group.about, group.metrics[0])]
    texts += [(text, m) for m in group.metrics for text in (m.meaning, m.why, m.advice, m.when)]
    for word, metric in ((word, metric) for text, metric in texts for word in re.findall(r"`([^`]+)`", text)):
        reward, colon, option = word.partition(":")
        place = where(word, metric)
        if colon:
            assert option in rewards.options_of(reward), word
        elif place:
            assert all(word in keys[stage] for stage in metric.stages), word
        elif word.endswith((".py", ".md")):
            assert (ROOT / word).is_file(), word
        elif "<" in word:
            assert word in {f"{'eval_' * (m.rows == ('eval',))}{m.name}" for m in METRICS}, word
        else:
            assert find(word) is not None or word in WORDS, word
        assert place is None or (ROOT / place).is_file()
