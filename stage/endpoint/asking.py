"""Asking about many rows at a time, each kept as soon as it is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from stage.endpoint.answers import Answers, Row
from stage.endpoint.client import Endpoint, EndpointError, Malformed, Unanswered, Usage
from stage.endpoint.cost import price
from stage.endpoint.sections import CostSection
from vlm.common.errors import DataError

R = TypeVar("R")
Asked = TypeVar("Asked", bound=Row)


async def ask_all(
    endpoint: Endpoint,
    rows: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[R]],
    answers: Answers[R],
    cost: CostSection,
    label: str,
) -> None:
    """Ask about the rows with the section's `concurrency` workers, and put what is finished into `answers`.

    ask: about one row; Unanswered, Malformed and DataError are that row's failure. Each worker has one request under
    way, so no more than that many are. label: of the progress bar.
    Raises: EndpointError where no row will be answered, where `stop_after` rows in succession failed, or where
    `cost.max_cost` is reached.
    """
    from tqdm.auto import tqdm

    waiting, streak, section = iter(rows), 0, endpoint.section

    async def work() -> None:
        nonlocal streak
        for row in waiting:  # the workers share it; nothing is awaited between taking a row and owning it
            stop_when_spent(cost, endpoint.usage)
            try:
                found = await ask(row)
            except (Unanswered, Malformed, DataError) as error:
                streak += 1
                answers.fail(row, str(error))
                if streak >= section.stop_after:
                    raise EndpointError(
                        f"{streak} rows in succession failed, the last ({row.key}) because: {error}. What is done is "
                        f"kept; see {answers.failures}, fix `{section.called}`, and start the same command again"
                    ) from error
            else:
                streak = 0
                answers.put(row, found)
            progress.update()

    with tqdm(total=len(rows), desc=label, mininterval=2.0) as progress:
        async with endpoint:
            workers = [asyncio.create_task(work()) for _ in range(min(section.concurrency, len(rows)))]
            try:
                await asyncio.gather(*workers)
            finally:  # one worker's error, or Ctrl-C, ends all
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)


def stop_when_spent(cost: CostSection, usage: Usage) -> None:
    """Asked before each row: replies already under way may go beyond the limit by one a worker.

    Raises: EndpointError where the use that replies reported has reached `cost.max_cost`.
    """
    spent = price(usage.input_tokens, usage.output_tokens, cost)
    if cost.max_cost is not None and spent >= cost.max_cost:
        raise EndpointError(
            f"{spent:.2f} are spent by the endpoint's own count, and cost.max_cost is {cost.max_cost:g}. What is done "
            "is kept; the same command continues, with a limit of its own"
        )
