"""Signs of collapse by hand-made histories, and when they are told."""

import json
import logging
import math
from types import SimpleNamespace

import pytest

from stage.runs import Run
from stage.tracking.alerts import Alerts, Watch
from stage.tracking.attach import TrackingCallback
from stage.tracking.section import AlertSection, TrackingSection
from stage.tracking.signs import SIGNS, WITNESSES, History, beyond_chance

FOUR = AlertSection(window=4, patience=1)
GOOD = [1.0, 1.2, 1.0, 1.2]


def seen(sign: str, limits: AlertSection = FOUR, **values: list[float]) -> str | None:
    history = History()
    for name, column in values.items():
        for value in column:
            history.add({name.replace("__", "/"): value})
    return SIGNS[sign].shows(history, limits)


def test_a_difference_is_more_than_chance_from_three_standard_errors_on():
    """Variance of 0, 2, 0, 2 is 4/3: of a mean 1/3, of two means' difference 2/3; three of its roots are 2.449."""
    spread = [0.0, 2.0, 0.0, 2.0]
    assert beyond_chance(spread, [value + 2.5 for value in spread]) == pytest.approx(2.5)
    assert beyond_chance(spread, [value - 2.5 for value in spread]) == pytest.approx(-2.5)
    assert beyond_chance(spread, [value + 2.4 for value in spread]) == 0
    assert beyond_chance([1.0] * 4, [1.001] * 4) == pytest.approx(0.001)


def test_the_reward_has_lost_a_third_of_its_best():
    """The best window's mean is 1.1, after a poor start; 0.7 of it is 0.77."""
    start = [0.1] * 6
    assert seen("reward", reward=[*start, *GOOD, 0.75, 0.77, 0.76, 0.78]) == (
        "the mean reward is 0.765, after 1.1 at its best"
    )
    assert seen("reward", reward=[*start, *GOOD, 0.77, 0.79, 0.78, 0.8]) is None
    assert seen("reward", reward=[*GOOD, 0.1, 0.1, 0.1]) is None  # no second window yet
    assert seen("reward", reward=[-1.0] * 4 + [-3.0] * 4) is None  # no share of a negative reward
    # as deep a fall, but the rewards differ so much anyway: standard error of the difference 0.67
    assert seen("reward", reward=[0.0, 2.0, 0.0, 2.0, 0.0, 1.0, 0.0, 1.0]) is None


def test_only_recent_best_counts():
    assert seen("reward", reward=[1.0] * 8 + [0.5] * 492) is not None
    assert seen("reward", reward=[1.0] * 8 + [0.5] * 500) is None


def test_the_entropy_is_a_fifth_of_what_it_was():
    assert seen("entropy", entropy=[2.0] * 4 + [0.3] * 4) == "the entropy is 0.3, after 2 at first"
    assert seen("entropy", entropy=[2.0] * 4 + [0.5] * 4) is None
    assert seen("entropy", entropy=[2.0, 2.0, 0.1, 0.1]) is None  # the first window is the last


def test_completions_are_three_times_as_long_or_a_third():
    def length(*values):
        return seen("length", completions__mean_length=[100.0] * 4 + [float(v) for v in values])

    assert length(301, 301, 301, 301) == "completions have 301 tokens, after 100 at first"
    assert length(33, 33, 33, 33) == "completions have 33 tokens, after 100 at first"
    assert length(299, 299, 299, 299) is None and length(34, 34, 34, 34) is None


@pytest.mark.parametrize(
    ("sign", "name", "limit", "text"),
    [
        ("clipped", "completions/clipped_ratio", 0.5, "60% of the completions are cut off"),
        ("kl", "kl", 1.0, "the KL to the reference is 1.1 nats a token"),
        ("zero_spread", "frac_reward_zero_std", 0.8, "in 90% of the groups all completions have the same reward"),
    ],
)
def test_means_above_a_limit(sign, name, limit, text):
    values = [limit + 0.3, limit - 0.1, limit + 0.1, limit + 0.1]  # mean: 0.1 above
    history = History()
    for value in values:
        history.add({name: value})
    assert SIGNS[sign].shows(history, FOUR) == text
    assert SIGNS[sign].shows(history, AlertSection(window=5)) is None
    history.add({name: limit - 0.3})  # the mean of the last four is 0.05 below
    assert SIGNS[sign].shows(history, FOUR) is None


def test_learned_reward_up_and_a_rule_down():
    up, down, flat = [1.0] * 4 + [2.0] * 4, [0.6] * 4 + [0.5] * 4, [0.5] * 8
    told = "over 4 logs the learned score went from 1 to 2 while reward_raw/format went from 0.6 to 0.5"
    assert seen("divergence", score__mean=up, reward_raw__format=down) == told
    assert seen("divergence", score__mean=up, reward_raw__format=flat) is None
    assert seen("divergence", score__mean=down, reward_raw__format=down) is None  # both fall: no exploit
    for name in ("rewards__score__mean", "reward_raw__vqa_count", "eval_reward_raw__format", "loss"):
        assert seen("divergence", score__mean=up, **{name: down}) is None
    for name in ("rewards__iou__mean", "captions_gold"):
        assert seen("divergence", score__mean=up, **{name: down}) is not None


def test_a_slow_divergence_shows_over_a_longer_time():
    """0.01 a window is less than 0.03; over four windows it is more."""
    steps = [number for number in range(5) for _ in range(4)]
    found = seen("divergence", score__mean=[float(n) for n in steps], rewards__iou__mean=[0.5 - n / 100 for n in steps])
    assert found.startswith("over 16 logs the learned score went from 0 to 4 while rewards/iou/mean went from 0.5")


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_can_be_switched_off(sign):
    bad = {
        "reward": GOOD + [0.1] * 4, "entropy": GOOD + [0.1] * 4, "completions/mean_length": GOOD + [9.0] * 4,
        "completions/clipped_ratio": [1.0] * 8, "kl": [9.0] * 8, "frac_reward_zero_std": [1.0] * 8,
        "score/mean": [0.0] * 4 + [1.0] * 4, "reward_raw/format": [1.0] * 4 + [0.5] * 4,
    }  # fmt: skip
    history = History()
    for number in range(8):
        history.add({name: values[number] for name, values in bad.items()})
    assert SIGNS[sign].shows(history, FOUR)
    assert not SIGNS[sign].shows(history, AlertSection(window=4, **{sign: None}))


def test_what_is_no_number_is_not_counted():
    history = History()
    history.add({"kl": None, "reward": math.nan, "entropy": "inf", "loss": math.inf, "on": True, "step": 3})
    assert dict(history.values) == {"step": [3.0]}
    history.add({"rewards/a/mean": 1.0, "rewards/a/std": 1.0})
    assert history.like(WITNESSES) == ["rewards/a/mean"]


def test_a_sign_is_told_after_patience_and_again_only_after_it_was_gone():
    """Window 2, patience 3: clipped completions from step 2 on make means of 0.5 at step 2 (not above), 1 from 3."""
    watch = Watch(AlertSection(window=2, patience=3))
    told = {}
    column = [0.0] + [1.0] * 6 + [0.0] * 3 + [1.0] * 4
    for step, value in enumerate(column, 1):
        for alert in watch.see(step, {"completions/clipped_ratio": value}):
            told[step] = (alert.sign, alert.since)
    # means: >0.5 at 3..7, 0.5 at 8, 0 at 9 and 10 (gone for two at 9), 0.5 at 11, 1 at 12, 13, 14
    assert told == {5: ("clipped", 3), 14: ("clipped", 12)}


def test_a_gap_in_the_streak_begins_anew():
    watch = Watch(AlertSection(window=2, patience=2))
    found = [watch.see(step, {"kl": value}) for step, value in enumerate([9.0, 9.0, -9.0, 9.0, 9.0, 9.0], 1)]
    # means: 9 at 2, 0 at 3 and 4, 9 at 5 and 6
    assert [bool(alerts) for alerts in found] == [False] * 5 + [True] and found[5][0].since == 5


def test_a_resumed_run_tells_nothing_twice_and_forgets_what_it_will_do_again(tmp_path, caplog):
    """The same logs with a stop at any step give the same file."""
    logs = [{"step": step, "kl": 5.0, "completions/clipped_ratio": float(step > 4)} for step in range(1, 12)]
    limits = AlertSection(window=2, patience=2)

    def go(folder, stops):
        folder.mkdir()
        run = Run(folder)
        done = 0
        for stop, back in [*stops, (11, 11)]:
            alerts = Alerts(run, limits)
            alerts.begin(done, logs[:done])
            for row in logs[done:stop]:
                alerts.see(row["step"], row)
            done = back  # the checkpoint that the next one goes on from
        rows = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
        return [(row["step"], row["sign"], row["since"], row["text"]) for row in rows]

    with caplog.at_level(logging.WARNING, "stage.tracking"):
        whole = go(tmp_path / "whole", [])
    assert [row[:3] for row in whole] == [(3, "kl", 2), (7, "clipped", 6)]
    assert [record.message for record in caplog.records] == [
        f"{SIGNS[sign].title}. {text}" for _, sign, _, text in whole
    ]
    for number, (stop, back) in enumerate([(2, 2), (3, 3), (3, 2), (7, 5), (9, 7), (11, 6)]):
        assert go(tmp_path / str(number), [(stop, back)]) == whole


def test_the_callback_is_the_main_process_alone(tmp_path):
    recipe = SimpleNamespace(tracking=TrackingSection(alerts=AlertSection(window=2, patience=1)), stage="grpo")
    callback = TrackingCallback(Run(tmp_path), recipe)
    for main in (False, True):
        state = SimpleNamespace(is_world_process_zero=main, global_step=0, log_history=[])
        callback.on_train_begin(None, state, None)
        for step in (1, 2):
            state.global_step = step
            callback.on_log(None, state, None, logs={"kl": 3.0})
        assert (tmp_path / "alerts.jsonl").exists() is main
    none = TrackingCallback(Run(tmp_path), SimpleNamespace(tracking=TrackingSection(alerts=None), stage="sft"))
    none.on_train_begin(None, state, None)
    none.on_log(None, state, None, logs={"kl": 3.0})
    assert len((tmp_path / "alerts.jsonl").read_text().splitlines()) == 1


def test_titles_are_as_short_as_wandb_takes_them_and_each_has_advice():
    switches = {name for name in vars(AlertSection()) if name not in ("window", "patience")}
    assert switches == SIGNS.keys()
    assert all(len(sign.title) <= 64 and sign.advice.endswith(".") for sign in SIGNS.values())
