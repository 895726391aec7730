"""Preference data by recipe: read → leave out duplicates → compare or judge → ranked lists.

The run folder:

    judged.jsonl        one row per finished row, as it is finished; never asked again
    failures.jsonl      rows that failed in the last start, and why; the next start asks them again
    preferences.jsonl   the preferences, for rewards/score to train on; made from all that is finished each time
    report.json         counts
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewards.prefer import dedup, judge, pairs, rows, truth
from rewards.prefer.judge import Ratings
from rewards.prefer.recipe import DedupSection, PreferRecipe
from rewards.prefer.rows import Item
from rewards.score.training.preferences import line
from stage.endpoint import cost
from stage.endpoint.asking import FAILURES, Answers
from stage.endpoint.client import Usage, key_of
from stage.guards import lock
from stage.recipe import config
from stage.runs import Run
from vlm.common.errors import RecipeError, UserError
from vlm.common.files import replacing
from vlm.common.processes import processes

logger = logging.getLogger(__name__)

PREFERENCES, REPORT = "preferences.jsonl", "report.json"


@dataclass(slots=True)
class Work:
    """The rows by what is to be done with them."""

    rows: int
    duplicates: dedup.Dedup
    same: int
    "Rows all of whose candidates are one text: there is nothing to prefer."
    closed: list[Item]
    open: list[Item]


def prepare(recipe: PreferRecipe, duplicates: DedupSection) -> Work:
    """Read all rows, checked, leave out duplicates, and sort by kind. Raises: DataError, RecipeError."""
    items = rows.collect(recipe.data, recipe.on_fault)
    left = dedup.deduplicate(items, duplicates)
    several = [item for item in left.items if len(item.candidates) > 1]
    closed = [item for item in several if item.sample.task in recipe.closed.rewards]
    work = Work(
        len(items),
        left,
        len(left.items) - len(several),
        closed,
        [item for item in several if item.sample.task not in recipe.closed.rewards],
    )
    if work.open and recipe.judge is None:
        raise RecipeError(
            f"judge is missing, and {len(work.open)} rows are open questions (the first: {work.open[0].key}, task "
            f"{work.open[0].sample.task}); name an endpoint in `judge`, or a comparison in closed.rewards"
        )
    return work


def begun(recipe: PreferRecipe, work: Work) -> Answers[list[Ratings]]:
    """The ratings of the open rows that an earlier start has finished."""
    found = judge.answers(recipe)
    if not recipe.overwrite and work.open and found.path.exists():
        found.read(work.open, judge.kept)
    return found


@lock.released
def run(recipe: PreferRecipe) -> dict[str, Any]:
    """Make the preference data; returns the report, which also lies in the run folder."""
    if processes() > 1:
        raise UserError(
            f"preference data is made by one process, and {processes()} were launched; start it with "
            "`python launch/prefer.py …`, and raise judge.concurrency to ask more at a time"
        )
    folder = Path(recipe.output)
    lock.hold(folder)
    comparisons = truth.comparisons(recipe.closed)
    work = prepare(recipe, recipe.dedup)
    truth.check(comparisons, work.closed)
    answers = begun(recipe, work)
    todo = [item for item in work.open if item.key not in answers.done]
    if todo and recipe.judge is not None:
        key_of(recipe.judge)  # a missing key is found before the folder is touched
        print(found := judge.estimate(todo, recipe.judge, recipe.cost), flush=True)
        cost.refuse_above(found, recipe.cost, recipe.judge.called)
    again = answers.path.exists() and not recipe.overwrite
    record = Run.create(folder, config.to_dict(recipe), overwrite=recipe.overwrite, resume=again)
    if recipe.overwrite:
        for name in (judge.JUDGED, FAILURES, PREFERENCES, REPORT):
            (folder / name).unlink(missing_ok=True)
    if answers.done:
        logger.info("continuing: %d of %d open rows are judged", len(answers.done), len(work.open))
    usage = Usage()
    with answers:
        if todo:
            asyncio.run(judge.rate_all(recipe, todo, answers, usage))
    report = write(recipe, work, answers.done, comparisons, folder)
    report |= {"failed": answers.failed, **used(usage, recipe)}
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    for name, value in report.items():
        print(f"{name}: {value}")
    if answers.failed:
        logger.warning("%d rows failed, see %s; the same command asks them again", answers.failed, answers.failures)
    else:
        record.finish(**report)
    return report


def used(usage: Usage, recipe: PreferRecipe) -> dict[str, Any]:
    """What this start used, as the endpoint reported it."""
    return asdict(usage) | {"cost": cost.price(usage.input_tokens, usage.output_tokens, recipe.cost)}


def write(recipe: PreferRecipe, work: Work, done: dict, comparisons: dict, folder: Path) -> dict[str, Any]:
    """Write preferences.jsonl, whole or not at all, rows in the data's order of kind; returns the counts."""
    counts = {"preferences": 0, "rows_without_preference": 0}
    with replacing(folder / PREFERENCES) as file:

        def put(item: Item, values: list[float], ratings: list | None, min_gap: float) -> None:
            found = pairs.records(item, values, ratings, recipe.lists, min_gap)
            counts["preferences"] += len(found)
            counts["rows_without_preference"] += not found
            file.writelines(line(preference, folder.absolute()) for preference in found)

        for item in work.closed:
            put(item, truth.values(item, comparisons[item.sample.task]), None, recipe.closed.min_gap)
        for item in work.open:
            if item.key in done:
                put(item, list(map(pairs.mean, done[item.key])), done[item.key], recipe.min_gap)
    return {
        "rows": work.rows,
        "image_duplicates": work.duplicates.image_duplicates,
        "text_duplicates": work.duplicates.text_duplicates,
        "rows_of_one_text": work.same,
        "closed": len(work.closed),
        "judged": len(done),
        **counts,
    }


def plan(recipe: PreferRecipe) -> None:
    """Print what would be done and cost (`--dry-run`); nothing is sent, nothing written."""
    comparisons = truth.comparisons(recipe.closed)
    if missing := [source.path for source in recipe.data if not Path(source.path).exists()]:
        print(f"note: {', '.join(missing)} not here; without the rows there is nothing to estimate")
        return
    by_clip = [part for part in (recipe.dedup.images, recipe.dedup.texts) if part is not None and part.clip]
    if by_clip:
        print("note: a dry run loads no CLIP, so duplicates are counted with the rest")
    work = prepare(recipe, DedupSection() if by_clip else recipe.dedup)
    truth.check(comparisons, work.closed)
    print(
        f"{work.rows} rows; duplicates by image {work.duplicates.image_duplicates}, by text "
        f"{work.duplicates.text_duplicates}; {work.same} with one text only"
    )
    print(f"{len(work.closed)} closed questions, compared with the truth")
    if recipe.judge is None:
        return
    done = begun(recipe, work).done
    if done:
        print(f"{len(done)} open questions are judged already")
    found = judge.estimate([item for item in work.open if item.key not in done], recipe.judge, recipe.cost)
    print(f"{recipe.judge.model} at {recipe.judge.address}, {recipe.judge.concurrency} requests at a time")
    print(found)
    cost.refuse_above(found, recipe.cost, recipe.judge.called)
