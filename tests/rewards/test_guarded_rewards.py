"""Rewards that raise, hang, or give what is no number: which rows lose their reward, and when the run ends."""

import math
import threading

import pytest
from pydantic import ValidationError

from rewards import resolve
from rewards.gated import Gated
from rewards.guarded import Guarded, Limits, guard, guarded_in
from rewards.score.reward.faults import ScoringFailed
from rewards.score.reward.score import Score, learned
from rewards.timed import Overdue, timed
from vlm.common.errors import RecipeError, UserError


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
    limits = Limits(alone=False, retries=2, failure_window=100)
    assert Guarded(reward, "fragile", limits)(**rows(3)) == [None] * 3
    assert reward.calls == [[0, 1, 2]] * 3


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_a_failure(value):
    guarded = Guarded(lambda completions, **_: [value, 0.5, None, 1.0], "odd", Limits())
    assert guarded(**rows(4)) == [None, None, None, 1.0]
    assert guarded.failures.total == 1  # None is "does not apply"


def test_wrong_number_of_values_is_a_failure():
    guarded = Guarded(lambda completions, **_: [1.0], "short", Limits(alone=False, failure_window=100))
    assert guarded(**rows(2)) == [None, None]


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
    assert timed(lambda: threading.current_thread().name, timeout=60.0) == "reward"
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
    assert {reward.name for reward in guarded_in([gated])} == {"grounding", "vqa", "classification", "choice"}
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

    assert guard(ask, Limits()) is ask


def test_impossible_limits_are_refused():
    from rl.recipe import RewardSection

    for wrong in ({"timeout": 0.0}, {"slow": -1.0}, {"retries": -1}, {"max_failures": 1.0}, {"failure_window": 0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            RewardSection(use="gated", **wrong)
    assert Limits.of(RewardSection(use="gated")) == Limits()
