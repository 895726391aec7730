"""Rewards that raise, hang, or give what is no number: which rows lose their reward, and when the run ends."""

import asyncio
import inspect
import math
import threading
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rewards import resolve
from rewards.gated import Gated
from rewards.guarded import Guarded, Limits, guard, guarded_in
from rewards.score.reward.faults import ScoringFailed
from rewards.score.reward.score import Score, learned
from rewards.values import WrongValues
from vlm.common.errors import RecipeError, UserError
from vlm.common.plugins.timed import Overdue, timed


def rows(count, group=2, **more):
    """Columns of so many completions, in groups."""
    turns = [[{"role": "assistant", "content": str(n)}] for n in range(count)]
    names = [str(n // group) for n in range(count)]
    return {"completions": turns, "source": ["a.jsonl"] * count, "id": names, "copy": [0] * count, **more}


def number(completion):
    return int(completion[0]["content"])


class Fragile:
    """Raises where a batch has one of the bad rows; counts its calls and logs what it rewards."""

    __name__ = "fragile"

    def __init__(self, *bad, heals=math.inf):
        self.bad, self.heals, self.calls = set(bad), heals, []

    def __call__(self, completions, log_metric=None, log_extra=None, **columns):
        asked = [number(completion) for completion in completions]
        self.calls.append(asked)
        log_metric("seen", float(len(asked)))
        for n in asked:
            if n in self.bad and len(self.calls) <= self.heals:
                raise ValueError(f"no word for {n}")
        log_extra("asked", asked)
        return [n / 100 for n in asked]


def logged(guarded, **columns):
    """(values, [(metric, value)], {column: values}) of a call."""
    metrics, table = [], {}
    values = guarded(**columns, log_metric=lambda *found: metrics.append(found), log_extra=table.__setitem__)
    return values, metrics, table


def test_a_healthy_reward_notices_nothing():
    reward = Fragile()
    values, metrics, table = logged(Guarded(reward, "fragile", Limits()), **rows(4))
    assert values == [0.0, 0.01, 0.02, 0.03] and reward.calls == [[0, 1, 2, 3]]
    assert metrics == [("seen", 4.0), ("reward_faults/fragile", 0.0)] and table == {"asked": [0, 1, 2, 3]}


def test_one_row_in_a_hundred_raises():
    """It costs its own group its reward, as a missing term beside other rewards would be counted as 0, and no other."""
    reward = Fragile(41)
    guarded = Guarded(reward, "fragile", Limits(retries=2))
    values, metrics, table = logged(guarded, **rows(100))
    assert values == [None if n in (40, 41) else n / 100 for n in range(100)]
    assert reward.calls.count([41]) == 3 and len(reward.calls) == 1 + 99 + 3
    assert metrics[-1] == ("reward_faults/fragile", 1.0) and metrics.count(("seen", 1.0)) == 99
    assert table["asked"] == [None if n == 41 else n for n in range(100)]
    assert guarded.failures.total == 1


def test_a_row_that_succeeds_when_tried_again_has_its_reward():
    reward = Fragile(1, heals=3)  # the batch and the first try alone fail
    assert Guarded(reward, "fragile", Limits(retries=1))(**rows(3), log_metric=print, log_extra=print) == [
        0.0,
        0.01,
        0.02,
    ]
    assert reward.calls == [[0, 1, 2], [0], [1], [1], [2]]


def test_a_reward_that_compares_rows_is_never_called_with_one():
    reward = Fragile(1)
    guarded = Guarded(reward, "fragile", Limits(alone=False, retries=2, failure_window=100))
    guarded.failures.watched = True  # else the run would end: nothing of the batch has worked
    assert guarded(**rows(3)) == [None] * 3
    assert reward.calls == [[0, 1, 2]] * 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_a_failure(value):
    guarded = Guarded(lambda completions, **_: [value, 0.5, None, 1.0], "odd", Limits())
    assert guarded(**rows(4)) == [None, None, None, 1.0]
    assert guarded.failures.total == 1  # None is "does not apply"


def test_tensors_and_the_like_become_floats():
    for found in ([np.float32(0.5), None, True, torch.tensor(0.25)], (0.5, None, 1, Fraction(1, 4))):
        values = Guarded(lambda completions, found=found, **_: found, "any", Limits())(**rows(4))
        assert values == [0.5, None, 1.0, 0.25] and {type(value) for value in values} == {float, type(None)}
    for found in (torch.tensor([0.5, 0.0, 1.0, 0.25], requires_grad=True), np.array([0.5, 0, 1, 0.25], np.float16)):
        values = Guarded(lambda completions, found=found, **_: found, "any", Limits())(**rows(4))
        assert values == [0.5, 0.0, 1.0, 0.25] and {type(value) for value in values} == {float}
    steps = Guarded(lambda completions, **_: (number(one) / 4 for one in completions), "any", Limits())
    assert steps(**rows(4)) == [0.0, 0.25, 0.5, 0.75]


def test_what_float32_cannot_hold_is_a_failure():
    guarded = Guarded(lambda completions, **_: [1e39, 0.5, 1.0, 10**400], "large", Limits())
    assert guarded(**rows(4, group=1)) == [None, 0.5, 1.0, None]
    assert Guarded(lambda completions, **_: [3.4e38, -3.4e38], "large", Limits())(**rows(2)) == [3.4e38, -3.4e38]


WRONG = [
    ([1.0], "1 value"),
    ([], "0 values"),
    ([0.0] * 17, "17 values"),
    (0.5, "a float"),
    (None, "None"),
    ({n: 1.0 for n in range(16)}, "a dict, whose keys"),
    ({0.5, 1.0}, "a set"),
    ("0123456789012345", "a str"),
    (np.zeros((16, 1)), r"a ndarray of shape \(16, 1\)"),
    (torch.zeros(16, 1), r"a Tensor of shape \(16, 1\)"),
    (torch.tensor(1.0), r"a Tensor of shape \(\)"),
    ([[0.5]] * 16, r"a list \(\[0.5\]\) as its value 0"),
    ([0.5] * 15 + ["0.5"], r"a str \(0.5\) as its value 15"),
    ([torch.zeros(1)] * 16, "a Tensor .* as its value 0"),
    (lambda: iter([0.5] * 3), "3 values"),
]


@pytest.mark.parametrize(("found", "got"), WRONG, ids=[got for _, got in WRONG])
def test_a_wrong_length_or_form_is_a_bug_that_ends_the_run(found, got):
    """At the first call, with one: row by row `[1.0]` would be right."""
    calls = []

    def reward(completions, **_):
        calls.append(len(completions))
        return found() if callable(found) else found

    line = reward.__code__.co_firstlineno
    with pytest.raises(
        WrongValues, match=rf"reward 'reward' \(.*test_guarded_rewards.py:{line}\) returned {got}.* 16 completions; exp"
    ):
        Guarded(reward, "reward", Limits())(**rows(16))
    assert calls == [16]
    gated = guard(resolve("gated", tasks={"vqa": "format"}), Limits())
    gated.task_rewards["vqa"].reward = reward
    with pytest.raises(WrongValues, match=rf"reward 'gated', tasks.vqa, 'reward' \(.* returned {got}"):
        gated(**rows(16, task=["vqa"] * 16))


def test_a_reward_that_has_never_worked_ends_the_run_at_once(caplog):
    """At its first batch, also under a callback that ends runs after a checkpoint: there is nothing to save yet."""
    reward = Fragile(*range(8))
    guarded = Guarded(reward, "fragile", Limits(retries=0))
    guarded.failures.watched = True
    line = Fragile.__call__.__code__.co_firstlineno + 6
    with pytest.raises(
        ScoringFailed,
        match=rf"'fragile' failed on all 8 rows of a generation batch, and has not worked once. Cause: ValueError: no "
        rf"word for 0, at .*test_guarded_rewards.py:{line} \(a.jsonl: row '0'\)",
    ):
        guarded(**rows(8), trainer_state=SimpleNamespace(global_step=0))
    assert "Traceback" not in caplog.text  # it is the user's code: the line is enough


def test_a_whole_batch_that_fails_later_ends_the_run_after_a_checkpoint():
    state = SimpleNamespace(global_step=3)
    guarded = Guarded(Fragile(2, 3, 4, 5), "fragile", Limits(retries=0))
    guarded.failures.watched = True
    turns = rows(6)
    cut = {name: values[2:] for name, values in turns.items()}
    assert guarded(**turns, trainer_state=state)[:2] == [0.0, 0.01] and not guarded.failures.exceeded
    assert guarded(**{name: values[2:4] for name, values in turns.items()}, trainer_state=state) == [None] * 2
    assert not guarded.failures.exceeded  # one prompt: it may well be the row
    assert guarded(**cut, trainer_state=state) == [None] * 4 and guarded.failures.exceeded


def test_a_tasks_reward_is_judged_by_more_than_one_prompt():
    gated = guard(resolve("gated", tasks={"vqa": "format"}), Limits(retries=0))
    gated.task_rewards["vqa"].reward = Fragile(*range(8))
    vqa = gated.task_rewards["vqa"]
    vqa.failures.watched = True
    assert gated(**rows(2, task=["vqa"] * 2)) == [None, None] and not vqa.failures.exceeded
    with pytest.raises(ScoringFailed, match="each row that it was asked for"):
        vqa.failures.at_the_end()
    assert gated(**rows(4, task=["vqa"] * 4)) == [None] * 4 and vqa.failures.exceeded


def test_a_bug_of_ours_shows_its_traceback(caplog, monkeypatch):
    monkeypatch.setattr("vlm.answers._R1", None)
    gated = guard(resolve("format"), Limits(retries=0))
    with pytest.raises(ScoringFailed, match=r"AttributeError.*vlm/answers.py:\d+"):
        gated(**rows(2) | {"completions": ["<think>a</think><answer>b</answer>"] * 2})
    assert "Traceback" in caplog.text


def test_past_the_share_the_run_ends_with_the_cause():
    guarded = Guarded(Fragile(1, 3), "fragile", Limits(max_failures=0.1, failure_window=10, retries=0))
    with pytest.raises(ScoringFailed, match=r"failed on 2 of its last 10 rows.*0.1 · 10.*ValueError: no word for 1"):
        guarded(**rows(10))
    assert guarded.failures.exceeded
    watched = Guarded(Fragile(1, 3), "fragile", Limits(failure_window=10, retries=0))
    watched.failures.watched = True  # a callback ends the run, after a checkpoint
    assert watched(**rows(10))[:5] == [None] * 4 + [0.04]
    state = watched.state_dict()
    resumed = Guarded(Fragile(), "fragile", Limits(failure_window=10))
    resumed.load_state_dict(state)
    assert resumed.failures.total == 2 and not resumed.failures.exceeded  # it is resumed because that was mended


def test_the_users_own_errors_are_not_swallowed():
    def reward(completions, **_):
        raise UserError("a.png: no such file")

    with pytest.raises(UserError, match=r"a\.png"):
        Guarded(reward, "reward", Limits())(**rows(2))


# time


def test_a_call_that_hangs_is_abandoned_and_its_row_named(caplog):
    """Row 2 never answers. Nothing is measured: the wait ends when that row is being asked, or with the answer."""
    release, asked = threading.Event(), threading.Event()

    def reward(completions, **_):
        for completion in completions:
            if number(completion) == 2:
                asked.set()
                release.wait()
        return [1.0] * len(completions)

    def run(call, timeout, slow, tell):
        asked.clear()
        done = threading.Thread(target=call, daemon=True)
        done.start()
        while done.is_alive() and not asked.wait(0.01):
            pass
        if asked.is_set():
            raise Overdue(f"no answer in {timeout:g} s")
        return call()

    guarded = Guarded(reward, "judge", Limits(timeout=60.0, retries=0), run)
    assert guarded(**rows(6)) == [1.0, 1.0, None, None, 1.0, 1.0]
    release.set()
    assert "Overdue: no answer in 60 s (a.jsonl: row '1')" in caplog.text


def test_the_limit_is_kept_by_a_thread():
    """The real thing, on a call that would never end; what it raises comes back, too."""
    release = threading.Event()

    def never():
        return release.wait()

    with pytest.raises(Overdue, match=r"no answer in 0.05 s, at .*test_guarded_rewards.py:\d+; the call is abandoned"):
        timed(never, timeout=0.05)
    release.set()
    assert timed(lambda: threading.current_thread().name, timeout=60.0) == "plugin"
    assert timed(threading.current_thread) is threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        timed(lambda: 1 / 0, timeout=60.0)


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_slow_call_is_told_while_it_is_under_way(timeout):
    told = threading.Event()
    places = []

    def tell(where):
        places.append(where)
        told.set()

    assert timed(lambda: told.wait(60), timeout, 0.01, tell)  # goes on as soon as it was told of
    assert "test_guarded_rewards.py" in places[0]


def test_a_slow_call_names_its_rows(caplog):
    def run(call, timeout, slow, tell):
        tell("judge.py:31")
        return call()

    assert Guarded(Fragile(), "judge", Limits(slow=5.0), run)(**rows(6, group=1))[5] == 0.05
    assert "reward judge: 5 s and still running, at judge.py:31; a.jsonl: row '0'" in caplog.text
    assert "and 2 more" in caplog.text


# what is guarded


def test_gated_is_guarded_by_task(tmp_path):
    (tmp_path / "bad.py").write_text("def bad(completions, **_):\n    raise OSError('gone')\n")
    gated = resolve("gated", tasks={"vqa": f"{tmp_path}/bad.py:bad", "open_ended": {"use": "score", "model": "m"}})
    limits = Limits(max_failures=0.9, failure_window=4, retries=0)
    assert guard(gated, limits) is gated and isinstance(gated, Gated)
    assert [type(reward) for reward in learned([gated])] == [Score]
    asked = {"grounding", "vqa", "classification", "choice", "detection", "segmentation"}
    assert {reward.name for reward in guarded_in([gated])} == asked
    turns = [[{"role": "assistant", "content": f"<think>a</think><answer>{n}</answer>"}] for n in "BA"]
    columns = {"task": ["choice", "vqa"], "answer": ["B", "A"], "choices": [["a", "b"], None], "id": ["1", "2"]}
    values, metrics, _ = logged(gated, completions=turns, source=["x", "x"], boxes=[None] * 2, **columns)
    assert values == [1.0, None]  # the format alone is not paid where the task's reward failed
    assert ("reward_faults/vqa", 1.0) in metrics and ("reward_raw/none_count", 1.0) in metrics


def test_a_reward_inside_keeps_its_name_and_state():
    reward = resolve("format")
    assert Guarded(reward, "format", Limits()).__name__ == "format"

    class Counting(Fragile):
        def state_dict(self):
            return {"calls": len(self.calls)}

        def load_state_dict(self, state):
            self.calls = [None] * state["calls"]

    guarded = Guarded(Counting(), "fragile", Limits())
    guarded(**rows(2), log_metric=print, log_extra=print)
    other = Guarded(Counting(), "fragile", Limits())
    other.load_state_dict(guarded.state_dict())
    assert len(other.reward.calls) == 1


def test_what_has_limits_of_its_own_takes_no_others():
    score = Score(model="m")
    assert guard(score, Limits()) is score
    with pytest.raises(RecipeError, match="limits of its own among its options"):
        guard(score, Limits(timeout=3.0))

    async def ask(completions, **_):
        return [1.0] * len(completions)

    asked = guard(ask, Limits())
    assert inspect.iscoroutinefunction(asked) and asked.__name__ == "ask"
    assert asyncio.run(asked(**rows(2))) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda: [1.0], "returned 1 value for 2"),
        (lambda: [0.5, math.inf], "the value is inf, for completion 1"),
        (lambda: 1 / 0, r"raised ZeroDivisionError: division by zero, at .*test_guarded_rewards.py:\d+"),
    ],
)
def test_an_asynchronous_reward_fails_with_a_message(found, message):
    async def ask(completions, **_):
        return found()

    with pytest.raises(WrongValues, match=rf"reward 'ask' \(.*test_guarded_rewards.py:\d+\).*{message}"):
        asyncio.run(guard(ask, Limits())(**rows(2)))


def test_impossible_limits_are_refused():
    from rl.recipe import RewardSection

    for wrong in ({"timeout": 0.0}, {"slow": -1.0}, {"retries": -1}, {"max_failures": 1.0}, {"failure_window": 0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            RewardSection(use="gated", **wrong)
    assert Limits.of(RewardSection(use="gated")) == Limits()
