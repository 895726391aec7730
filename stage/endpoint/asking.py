"""Asking about many rows at a time: each finished row is on disk before the next one is asked about.

    {"key": "captions/3", "fingerprint": "9f0c…", "pictures": "b21d…", "judge": {"model": …, …}, "ratings": …}

Here the endpoint's section is called `judge` and its answers are `ratings`. `failures.jsonl` beside the file lists what
failed: {"key": "captions/4", "error": "…"}; it is emptied by each start.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from stage.endpoint.client import Endpoint, EndpointError, Malformed, Refused, Unanswered, Usage
from stage.endpoint.cost import price
from stage.endpoint.sections import CostSection
from stage.parallel.journal import Journal, whole_lines
from vlm.common.errors import DataError, UserError

FAILURES = "failures.jsonl"
R = TypeVar("R")


class Named(Protocol):
    """What is asked about."""

    @property
    def key(self) -> str:
        """Its name; several requests about one question have one."""
        ...


class Row(Named, Protocol):
    """What `Answers` keep answers about."""

    @property
    def fingerprint(self) -> str:
        """Changes with what is asked: an answer to another question under the same key is not this row's."""
        ...

    @property
    def pictures(self) -> str:
        """Changes with the content of its picture files."""
        ...


Asked = TypeVar("Asked", bound=Named)


class Taking(Protocol):
    """What takes answers and failures as they come: `Answers`, or whoever keeps them elsewhere."""

    failures: Path

    def put(self, row: Any, answer: Any) -> None: ...

    def fail(self, row: Any, error: str) -> None: ...


class Answers(Generic[R]):
    """Both files; `put` and `fail` inside `with`. `done` is what is answered, by key; `failed` counts this start's.

    path: of the answers. called: the endpoint's section. asked: what answers depend on (model, request, …), kept
    beside each: with it changed, old and new answers would not be of one kind. result: what an answer is called.
    """

    def __init__(self, path: Path, called: str, asked: dict[str, Any], result: str):
        self.path, self.failures = path, path.with_name(FAILURES)
        self.called, self.asked, self.result = called, asked, result
        self.done: dict[str, R] = {}
        self.failed = 0

    def read(self, rows: Iterable[Row], parse: Callable[[Any, Any], R]) -> None:
        """Take up those of the rows that are finished. A last line that is torn, as after a kill, does not count.

        parse: (an answer as it is in the file, its row) → the answer; raises Malformed or ValueError.
        Raises: UserError where they were asked about otherwise than now, DataError for a line that no run has written.
        """
        wanted = {row.key: row for row in rows}
        for where, line in whole_lines(self.path):
            try:
                found = json.loads(line)
                row = wanted.get(found["key"])
                if row is None or row.fingerprint != found["fingerprint"]:  # other data now
                    continue
                if found.get("pictures") not in (None, row.pictures):
                    continue
                self._refuse_mixture(found[self.called])
                self.done[row.key] = parse(found[self.result], row)
            except (ValueError, LookupError, TypeError, AttributeError, Malformed) as error:
                raise DataError(
                    f"{where}: found {line[:60]!r} ({error}), expected a row as this stage wrote it; remove the line "
                    "to have it asked again"
                ) from error

    def _refuse_mixture(self, earlier: dict[str, Any]) -> None:
        changed = [
            f"{name} was {earlier.get(name)!r}, is {now!r}"
            for name, now in self.asked.items()
            if earlier.get(name) != now
        ]
        if changed:
            raise UserError(
                f"{self.path} holds {self.result} of another kind ({'; '.join(changed)}), which would not go with new "
                "ones; choose another output, or write overwrite=true to throw them away"
            )

    def __enter__(self) -> Answers[R]:
        self.failures.unlink(missing_ok=True)
        self._answered, self._failed = Journal(self.path), Journal(self.failures)
        return self

    def __exit__(self, *error: object) -> None:
        self._answered.close()
        self._failed.close()

    def put(self, row: Row, answer: R) -> None:
        self._answered.add(
            {
                "key": row.key,
                "fingerprint": row.fingerprint,
                "pictures": row.pictures,
                self.called: self.asked,
                self.result: answer,
            }
        )
        self.done[row.key] = answer

    def fail(self, row: Row, error: str) -> None:
        self.failed += 1
        self._failed.add({"key": row.key, "error": error})


async def ask_all(
    endpoint: Endpoint,
    rows: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[R]],
    answers: Taking,
    cost: CostSection,
    label: str,
    shown: bool = True,
) -> None:
    """Ask about the rows with the section's `concurrency` workers, and put what is finished into `answers`.

    ask: about one row; Unanswered, Malformed and DataError are that row's failure. Each worker has one request under
    way, so no more than that many are. label: of the progress bar. shown: whether there is one.
    Raises: EndpointError where no row will be answered, where `stop_after` rows in succession failed, or where
    `cost.max_cost` is reached.
    """
    from tqdm.auto import tqdm

    waiting, section = iter(rows), endpoint.section
    streak: set[object] = set()  # a question that is refused many times counts once: it may be the cause

    async def work() -> None:
        for row in waiting:  # the workers share it; nothing is awaited between taking a row and owning it
            stop_when_spent(cost, endpoint.usage)
            try:
                found = await ask(row)
            except (Unanswered, Malformed, DataError) as error:
                streak.add(row.key if isinstance(error, Refused) else object())
                answers.fail(row, str(error))
                if len(streak) >= section.stop_after:
                    raise EndpointError(
                        f"{len(streak)} rows in succession failed, the last ({row.key}) because: {error}. What is done "
                        f"is kept; see {answers.failures}, fix `{section.called}`, and start the same command again"
                    ) from error
            else:
                streak.clear()
                answers.put(row, found)
            progress.update()

    with tqdm(total=len(rows), desc=label, mininterval=2.0, disable=not shown) as progress:
        async with endpoint:
            workers = [asyncio.create_task(work()) for _ in range(min(section.concurrency, len(rows)))]
            try:
                await asyncio.gather(*workers)
            finally:  # one worker's error, or Ctrl-C, ends all
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)


def stop_when_spent(cost: CostSection, usage: Usage) -> None:
    """Asked before each row: replies already running may go beyond the limit by one a worker.

    Raises: EndpointError where the use that replies reported has reached `cost.max_cost`.
    """
    spent = price(usage.input_tokens, usage.output_tokens, cost)
    if cost.max_cost is not None and spent >= cost.max_cost:
        raise EndpointError(
            f"{spent:.2f} are spent by the endpoint's own count, and cost.max_cost is {cost.max_cost:g}. What is done "
            "is kept; the same command continues, with a limit of its own"
        )
