"""A reward that fails, hangs or is slow: what becomes of its rows, and of the run.

    rewards:
      - {use: judge.py:ask, timeout: 60, retries: 2}

`guard` puts `Guarded` around every reward of a recipe (around each task's, inside of `gated`). A healthy reward notices
nothing: one call for the batch, its values as they are.

- A call that raises is made again for each row alone, so that one bad row costs no other its reward, and for a bad row
  again `retries` times. A row that still fails is None, never 0, and so are the other rows of its group: beside other
  rewards TRL would count a single missing one as 0 (`rewards.score.reward.faults`). NaN and infinities are failures,
  too, but not tried again.
- `alone: false` for a reward that compares the rows of a batch: then the batch is called again, or lost, as a whole.
- `timeout`: seconds for one call. It then runs in a thread of its own. Python cannot end a thread: a call that takes
  longer is abandoned, runs on unseen, and may hold what it holds; the warning says so. Calls of one reward may then
  overlap. Without a time-out (the default) a call runs where it always has, for as long as it takes; the watchdog
  (`stage.guards.watchdog`) says where it hangs.
- `slow`: seconds after which a call still running is named, with its rows and, in a thread of its own, its line.
- Past `max_failures` of the last `failure_window` rows the run ends, with a checkpoint and the last cause
  (`rewards.score.reward.stopping`); so it does where a whole generation batch failed, or all rows that a reward was
  ever asked for. A UserError of the reward ends it at once: it is the recipe's or the data's fault. So do values of
  a wrong length or form (`rewards.values`), and an error after which the GPU computes no more
  (`stage.guards.broken_gpu`).

Logged: `reward_faults/<name>`, rows of a call that failed (mean over the processes), before their groups are masked.

Not guarded: `score`, which does all this itself; asynchronous rewards, whose loop is TRL's (`awaited`: their values are
checked, and a failure ends the run), and modules. What a reward
logs (`log_metric`, `log_extra`) in a call that failed is dropped. With several processes every one makes each call.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rewards.gated import Gated, ungated
from rewards.registry import Reward, _name, collective
from rewards.rules.rows import of_rows
from rewards.score.reward.faults import Failures
from rewards.score.reward.score import Score
from rewards.values import WrongValues, plain, unusable
from stage.checkpoints.stateful import Stateful
from stage.guards import broken_gpu
from stage.guards.progress import phase
from stage.parallel import agreement
from vlm.common.errors import RecipeError, UserError
from vlm.common.plugins import places
from vlm.common.plugins.timed import Overdue, timed
from vlm.pictures.unreadable import row_name

logger = logging.getLogger(__name__)

NAMED = 4
"""Rows in a message."""


@dataclass(frozen=True)
class Limits:
    """The keys of a recipe's reward, by their names there."""

    timeout: float | None = None
    slow: float | None = 60.0
    retries: int = 1
    alone: bool = True
    max_failures: float = 0.1
    failure_window: int = 256

    @classmethod
    def of(cls, section: Any) -> Limits:
        """section: a recipe's reward (`rl.recipe.RewardSection`)."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})


class Guarded:
    """See the module's docstring. Called by TRL, or by `gated`, like the reward within."""

    def __init__(
        self, reward: Reward, name: str, limits: Limits, run: Callable[..., Any] = timed, whole: bool = True
    ) -> None:
        """run: `timed`, or what stands for it in a test. whole: it is called with whole generation batches, not with
        those rows of a batch that are of its task."""
        self.reward, self.limits, self.run = reward, limits, run
        self.__name__ = _name(reward)  # TRL's metrics stay as they are
        self.name = name
        self.failures = Failures(limits.max_failures, limits.failure_window, name, whole)

    @property
    def collective(self) -> bool:
        """With several processes: a group may lie in two, and is masked in both."""
        return collective(self.reward) or agreement.size() > 1

    def __call__(
        self,
        completions: Sequence[Any] = (),
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        columns["completions"] = completions
        count, notes = len(completions), Notes(len(completions))
        values: list[float | None] = []
        causes: dict[int, str] = {}
        if count or collective(self.reward):
            values, causes = self._values(columns, count, notes)
        notes.hand_on(log_metric, log_extra)
        if log_metric is not None:
            log_metric(f"reward_faults/{self.name}", float(len(causes)))
        keys = self._keys(columns, count)
        parts = agreement.gather(([keys[row] for row in causes], count))
        failed = {key for part, _ in parts for key in part}
        masked = {row for row, key in enumerate(keys) if key in failed}
        asked, lost = sum(those for _, those in parts), sum(len(part) for part, _ in parts)
        self.failures.of_batch(asked, lost, len(failed), columns.get("trainer_state"))
        self.failures.add(len(causes), count - len(causes), next(iter(causes.values()), ""))
        return [None if row in masked else value for row, value in enumerate(values)]

    def _values(self, columns: dict[str, Any], count: int, notes: Notes) -> tuple[list[float | None], dict[int, str]]:
        """(values, cause by row that failed)."""
        try:
            return _checked(self._call(columns, range(count), notes), range(count))
        except UserError:
            raise
        except Exception as cause:  # whatever a user's reward raises: which rows it is for, the calls below find
            if collective(self.reward):
                raise  # the others would wait for a second call
            broken_gpu.check(cause)
            found, bug = self._told(cause, columns, range(count))
            logger.warning("reward %s: a call for %d rows failed (%s)", self.name, count, found, exc_info=bug)
        if count == 1 or not self.limits.alone:
            return self._again(columns, range(count), notes, self.limits.retries, found)
        values: list[float | None] = []
        causes: dict[int, str] = {}
        for row in range(count):
            one, why = self._again(columns, [row], notes, self.limits.retries + 1, found)
            values += one
            causes |= why
        return values, causes

    def _again(
        self, columns: dict[str, Any], rows: Sequence[int], notes: Notes, tries: int, cause: str
    ) -> tuple[list[float | None], dict[int, str]]:
        """`_values` of these rows, in this many tries; causes by row of the batch."""
        for _ in range(tries):
            try:
                return _checked(self._call(columns, rows, notes), rows)
            except UserError:
                raise
            except Exception as error:  # as above
                broken_gpu.check(error)
                cause, _ = self._told(error, columns, rows)
        return [None] * len(rows), dict.fromkeys(rows, cause)

    def _call(self, columns: dict[str, Any], rows: Sequence[int], notes: Notes) -> list[float | None]:
        """The reward's own values for these rows, within the limits. Raises what it raises, and Overdue."""
        attempt = Notes(notes.count)
        part = of_rows(columns, rows)
        part |= {"log_metric": attempt.metric, "log_extra": lambda column, found: attempt.extra(column, rows, found)}

        def slow(where: str) -> None:
            told = f"{self.limits.slow:g} s and still running{f', at {where}' if where else ''}"
            logger.warning("reward %s: %s; %s", self.name, told, self._named(columns, rows))

        with phase(f"rewards ({self.name})"):
            values = self.run(
                lambda: plain(self.reward(**part), len(rows), self.who), self.limits.timeout, self.limits.slow, slow
            )
        notes.take(attempt)
        return values

    @property
    def who(self) -> str:
        """The reward, as messages name it."""
        return described(self.reward, self.name)

    def _told(self, error: Exception, columns: Mapping[str, Any], rows: Sequence[int]) -> tuple[str, Exception | None]:
        """(what happened, where, to which rows; the error where it is a bug of ours, whose traceback must be seen)."""
        place = "" if isinstance(error, Overdue) else places.raised(error, self.reward)
        told = f"{type(error).__name__}: {error}{f', at {place}' * bool(place)} ({self._named(columns, rows)})"
        return told, error if places.ours(place) else None

    def _named(self, columns: Mapping[str, Any], rows: Sequence[int]) -> str:
        if columns.get("source") is None or columns.get("id") is None:
            return f"row {', '.join(str(row) for row in rows[:NAMED])} of the batch"
        named = [row_name({"source": columns["source"][row], "id": columns["id"][row]}) for row in rows]
        different = list(dict.fromkeys(named))
        more = len(different) - NAMED
        return ", ".join(different[:NAMED]) + (f" and {more} more" if more > 0 else "")

    def _keys(self, columns: Mapping[str, Any], count: int) -> list[str]:
        """The group of each row; the same in every process."""
        given = [columns.get(name) for name in ("source", "id", "copy")]
        if given[1] is None:
            return [repr((columns.get("prompts") or range(count))[row]) for row in range(count)]
        return [repr([values and values[row] for values in given]) for row in range(count)]

    def state_dict(self) -> dict[str, Any]:
        inner = self.reward.state_dict() if isinstance(self.reward, Stateful) else None
        return {"reward": inner, "failures": self.failures.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["reward"] is not None:
            self.reward.load_state_dict(state["reward"])
        self.failures.load_state_dict(state["failures"])


class Notes:
    """What a reward logs in a call, kept until the call has gone well."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.metrics: list[tuple[str, float]] = []
        self.columns: dict[str, list[Any]] = {}

    def metric(self, name: str, value: float) -> None:
        self.metrics.append((name, value))

    def extra(self, column: str, rows: Sequence[int], values: Sequence[Any]) -> None:
        if len(values) != len(rows):  # what is only shown costs no reward
            logger.warning("log_extra %r: %d values for %d rows; left out", column, len(values), len(rows))
            return
        held = self.columns.setdefault(column, [None] * self.count)
        for row, value in zip(rows, values, strict=True):
            held[row] = value.tolist() if hasattr(value, "tolist") else value  # Arrow takes no tensors

    def take(self, other: Notes) -> None:
        self.metrics += other.metrics
        for column, values in other.columns.items():
            held = self.columns.setdefault(column, [None] * self.count)
            for row, value in enumerate(values):
                held[row] = held[row] if value is None else value

    def hand_on(self, log_metric: Any, log_extra: Any) -> None:
        for name, value in self.metrics if log_metric is not None else ():
            log_metric(name, value)
        for column, values in self.columns.items() if log_extra is not None else ():
            log_extra(column, values)


def guard(reward: Reward, limits: Limits) -> Reward:
    """The reward, guarded; in a `gated` each task's is (the object stays, for others look into it).

    Raises: RecipeError where limits are stated for a reward that cannot have them.
    """
    if isinstance(reward, Gated):
        for task, inner in reward.task_rewards.items():
            if not isinstance(inner, Score):
                reward.task_rewards[task] = Guarded(inner, task, limits, whole=False)
        return reward
    if not (own := own_way(reward)):
        return Guarded(reward, _name(reward), limits)
    if limits != Limits():
        raise RecipeError(f"reward {_name(reward)!r}: {own}; leave timeout, slow, retries, alone and max_failures out")
    return awaited(reward) if asynchronous(reward) else reward


def awaited(reward: Reward) -> Reward:
    """An asynchronous reward, its values checked: one that raises or is not finite ends the run with a message."""
    name = _name(reward)

    async def ask(completions: Sequence[Any] = (), **columns: Any) -> list[float | None]:
        try:
            values = plain(await reward(completions=completions, **columns), len(completions), described(reward, name))
        except UserError:
            raise
        except Exception as cause:  # whatever a user's reward raises
            broken_gpu.check(cause)
            place = places.raised(cause, reward)
            raise WrongValues(
                f"{described(reward, name)} raised {type(cause).__name__}: {cause}, at {place}; an asynchronous "
                "reward is not asked again: let it catch what may happen, and return None where it knows nothing"
            ) from cause
        for row, value in enumerate(values):
            if why := unusable(value):
                raise WrongValues(f"{described(reward, name)}: {why}, for completion {row}; expected a finite number")
        return values

    ask.__name__ = name  # TRL's metrics
    ask.unchecked = reward  # type: ignore[attr-defined]
    if isinstance(reward, Stateful):
        ask.state_dict, ask.load_state_dict = reward.state_dict, reward.load_state_dict  # type: ignore[attr-defined]
    return ask  # type: ignore[return-value]


def unchecked(reward: Reward) -> Reward:
    """The asynchronous reward inside of an `awaited` one; any other as it is."""
    return getattr(reward, "unchecked", reward)


def described(reward: Reward, name: str) -> str:
    """A reward in a message, with the line that defines it. name: its task, inside of `gated`, or its own."""
    own, place = _name(reward), places.defined(reward)
    task = f"'gated', tasks.{name}, " if name != own else ""
    return f"reward {task}{own!r}{f' ({place})' * bool(place)}"


def guarded_in(rewards: Iterable[Reward]) -> list[Guarded]:
    """Those among `rewards`, and inside of `gated` ones, for `rewards.score.reward.stopping.StopOnFailures`."""
    return [reward for reward in ungated(rewards) if isinstance(reward, Guarded)]


def own_way(reward: Reward) -> str:
    """Why a reward is left as it is, or nothing."""
    if isinstance(reward, Score):
        return "it has limits of its own among its options (service, max_failures, …)"
    if is_module(reward):
        return "TRL calls modules in its own way"
    return "it is asynchronous, and limits its own waiting (asyncio.wait_for)" if asynchronous(reward) else ""


def is_module(reward: Any) -> bool:
    """Whether it is torch's; where nobody has imported torch, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(reward, torch.nn.Module)


def asynchronous(reward: Reward) -> bool:
    """Whether a call gives a coroutine, as TRL tells."""
    called = reward.func if isinstance(reward, functools.partial) else reward
    return inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(getattr(called, "__call__", None))  # noqa: B004


def _checked(values: list[float | None], rows: Sequence[int]) -> tuple[list[float | None], dict[int, str]]:
    """(values, cause by row) where NaN and infinities are failures."""
    causes = {row: why for row, value in zip(rows, values, strict=True) if (why := unusable(value))}
    return [None if row in causes else value for row, value in zip(rows, values, strict=True)], causes
