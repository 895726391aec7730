"""The gated composition: what it pays, what it logs, what it refuses."""

from __future__ import annotations

import math
import sys

import pytest

import rewards
from rewards.gated import gate
from tests.support.completions import BOX, LEFT_HALF, SIZE, Logs, grounded, r1
from vlm.common.errors import RecipeError


def gated_batch():
    """Two grounding rows, three VQA rows, one without reward; one of each kind fails the format."""
    completions = [grounded(LEFT_HALF), "no tags", r1("2"), r1("3"), "<answer>2</answer>", r1("a ship")]
    columns = {
        "task": ["grounding"] * 2 + ["vqa"] * 3 + ["open_ended"],
        "boxes": [[BOX], [BOX], None, None, None, None],
        "size": [SIZE] * 6,
        "answer": [None, None, "2", "2", "2", "a ship"],
    }
    return {"prompts": [""] * 6, "completions": completions, **columns}


def test_gated_by_hand():
    assert rewards.resolve("gated")(**gated_batch()) == pytest.approx([0.3 + 0.35, 0.0, 1.0, 0.3, 0.0, None])
    assert rewards.resolve("gated", format_share=0.1)(**gated_batch())[:4] == pytest.approx([0.55, 0.0, 1.0, 0.1])


def test_gated_logs_raw_components_whatever_passes_the_gate():
    logs = Logs()
    rewards.resolve("gated")(**gated_batch(), log_metric=logs.log_metric, log_extra=logs.log_extra)
    assert logs.means() == pytest.approx(
        {
            "reward_raw/format": 4 / 6,
            "reward_raw/grounding": (0.5 + 0.0) / 2,
            "reward_raw/grounding_count": 2,
            "reward_raw/vqa": (1 + 0 + 1) / 3,  # the last is right, and fails the gate
            "reward_raw/vqa_count": 3,
            "reward_raw/choice_count": 0,
            "reward_raw/detection_count": 0,
            "reward_raw/segmentation_count": 0,
            "reward_raw/classification_count": 0,
            "reward_raw/none_count": 1,
            "reward_unreadable/iou": 1 / 2,  # without tags there is no answer
            "reward_unreadable/exact_match": 0,
        }
    )
    assert logs.extra["reward_raw/format"] == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert logs.extra["reward_raw/task"] == [0.5, 0.0, 1.0, 0.0, 1.0, None]
    assert not any(math.isnan(value) for values in logs.metrics.values() for value in values)


def test_gated_means_over_two_processes_are_means_over_rows():
    """TRL sums what every process logged and divides by how often; the tasks are spread unevenly here."""
    whole, first, second = Logs(), Logs(), Logs()
    batch = gated_batch()
    reward = rewards.resolve("gated")
    reward(**batch, log_metric=whole.log_metric)
    reward(**{key: values[:3] for key, values in batch.items()}, log_metric=first.log_metric)
    reward(**{key: values[3:] for key, values in batch.items()}, log_metric=second.log_metric)
    for name, mean in whole.means().items():
        both = first.metrics[name] + second.metrics[name]
        assert sum(both) / len(both) == pytest.approx(mean / 2 if name.endswith("_count") else mean)


def test_gated_hands_each_task_its_own_rows(tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "SEEN = []\n"
        "def seen(prompts, completions, answer, completion_ids, trainer_state, weight=1.0, **columns):\n"
        "    SEEN.append((prompts, answer, completion_ids, trainer_state, sorted(columns)))\n"
        "    return [weight] * len(completions)\n"
    )
    reward = rewards.resolve("gated", tasks={"open_ended": {"use": f"{plugin}:seen", "weight": 0.5}, "vqa": None})
    state, logs = object(), Logs()
    batch = gated_batch() | {"prompts": list("abcdef"), "completion_ids": [[i] for i in range(6)]}
    values = reward(**batch, trainer_state=state, log_metric=logs.log_metric, log_extra=logs.log_extra)
    assert values[2:] == [None, None, None, pytest.approx(0.65)]
    ((prompts, answer, ids, seen_state, others),) = sys.modules[reward.task_rewards["open_ended"].func.__module__].SEEN
    assert (prompts, answer, ids, seen_state) == (["f"], ["a ship"], [[5]], state)
    assert others == ["boxes", "log_metric", "size", "task"]  # no log_extra: its columns need a value for every row
    assert logs.means()["reward_raw/open_ended"] == 0.5
    assert "reward_raw/vqa_count" not in logs.metrics


def test_gated_dispatch_overrides_applies_to_and_passes_the_notation():
    reward = rewards.resolve("gated", tasks={"caption": "exact_match"}, notation="vhm")
    values = reward(
        completions=[r1("a pier"), r1("[[100,100,600,600]]")],
        task=["caption", "grounding"],
        answer=["A pier.", None],
        boxes=[None, [BOX]],
        size=[SIZE, SIZE],
    )
    assert values == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": {"gruonding": "iou"}}, "unknown task 'gruonding'.*did you mean 'grounding'"),
        (
            {"tasks": {"vqa": "exact_mach"}},
            "tasks.vqa: unknown reward 'exact_mach'; did you mean 'exact_match'",
        ),
        ({"tasks": {"vqa": {"steps": "graduated"}}}, "tasks.vqa is .* expected a reward or"),
        ({"tasks": {"vqa": 3}}, "tasks.vqa is 3"),
        ({"tasks": ["iou"]}, "expected task: reward pairs"),
        ({"tasks": {"vqa": "gated"}}, "'gated' again"),
        (
            {"tasks": {"grounding": {"use": "iou", "steps": "gradual"}}},
            "tasks.grounding.*'steps' is 'gradual'",
        ),
        ({"notation": "qwen3"}, "tasks.grounding.*'notation' is 'qwen3'"),
        ({"format_share": 1.5}, r"expected a number in \[0, 1\]"),
        ({"formatshare": 0.5}, "no option 'formatshare'; did you mean 'format_share'"),
    ],
)
def test_gated_refuses_at_start(options, message):
    with pytest.raises(RecipeError, match=message):
        rewards.resolve("gated", **options)


def test_check_tasks():
    gated = rewards.resolve("gated")
    rewards.check_tasks([gated, rewards.format], ["vqa", "grounding", "choice"])
    with pytest.raises(RecipeError, match="no reward for task 'caption', which the data contains; add 'caption:"):
        rewards.check_tasks([rewards.format, gated], ["vqa", "caption"])


@pytest.mark.parametrize("value", ["1.5", "-0.1", "float('nan')"])
def test_gated_refuses_unbounded_task_rewards(tmp_path, value):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"def raw(completions, **columns):\n    return [{value}] * len(completions)\n")
    reward = rewards.resolve("gated", tasks={"vqa": f"{plugin}:raw"})
    with pytest.raises(RecipeError, match=r"the reward for task 'vqa' returned .* must be in \[0, 1\]"):
        reward(completions=[r1("a")], task=["vqa"], answer=["a"])


def test_gated_refuses_asynchronous_task_rewards(tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("async def later(completions, **columns):\n    return [1.0] * len(completions)\n")
    with pytest.raises(RecipeError, match="tasks.vqa is asynchronous"):
        rewards.resolve("gated", tasks={"vqa": f"{plugin}:later"})


def test_gated_needs_the_task_column():
    with pytest.raises(RecipeError, match="column 'task'"):
        rewards.resolve("gated")(completions=[r1("a")])


def test_gate():
    assert gate(0.0, 1.0) == 0.0
    assert gate(1.0, 0.0) == 0.3
    assert gate(1.0, 1.0) == 1.0
    assert gate(1.0, 0.5, format_share=0.5) == 0.75
