"""Asking about many rows at a time, each kept as soon as it is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rewards.prefer import cost
from rewards.prefer.endpoint import Endpoint, EndpointError, Unanswered, Usage
from rewards.prefer.journal import Journal, asked_as
from rewards.prefer.judge import Malformed, Ratings, rate
from rewards.prefer.recipe import PreferRecipe
from rewards.prefer.rows import Item
from vlm.common.errors import DataError


async def ask_all(
    recipe: PreferRecipe, items: Sequence[Item], journal: Journal, done: dict[str, list[Ratings]], usage: Usage
) -> None:
    """Rate the items with `judge.concurrency` workers; finished rows go into `journal` and `done`.

    Each worker has one request under way, so no more than that many are.
    Raises: EndpointError where no row will be answered, where `judge.stop_after` rows in succession failed, or where
    `cost.max_cost` is reached.
    """
    from tqdm.auto import tqdm

    waiting, streak, judge = iter(items), 0, asked_as(recipe)

    async def work() -> None:
        nonlocal streak
        for item in waiting:  # the workers share it; nothing is awaited between taking a row and owning it
            stop_when_spent(recipe, usage)
            try:
                ratings = await rate(endpoint, item, recipe.seed)
            except (Unanswered, Malformed, DataError) as error:
                streak += 1
                journal.fail(item, str(error))
                if streak >= recipe.judge.stop_after:
                    raise EndpointError(
                        f"{streak} rows in succession failed, the last ({item.key}) because: {error}. What was rated "
                        f"is kept; see {journal.failures}, mend `judge`, and start the same command again"
                    ) from error
            else:
                streak = 0
                journal.put(item, ratings, judge)
                done[item.key] = ratings
            progress.update()

    with tqdm(total=len(items), desc="prefer", mininterval=2.0) as progress:
        async with Endpoint(recipe.judge, usage=usage) as endpoint:
            workers = [asyncio.create_task(work()) for _ in range(min(recipe.judge.concurrency, len(items)))]
            try:
                await asyncio.gather(*workers)
            finally:  # one worker's error, or Ctrl-C, ends all
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)


def stop_when_spent(recipe: PreferRecipe, usage: Usage) -> None:
    """Asked before each row: replies already under way may go beyond the limit by one a worker.

    Raises: EndpointError where the use that replies reported has reached `cost.max_cost`.
    """
    limit, spent = recipe.cost.max_cost, cost.price(usage.input_tokens, usage.output_tokens, recipe.cost)
    if limit is not None and spent >= limit:
        raise EndpointError(
            f"{spent:.2f} are spent by the endpoint's own count, and cost.max_cost is {limit:g}. What was rated is "
            "kept; the same command goes on, with a limit of its own"
        )
