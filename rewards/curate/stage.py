"""Curation: every row is scored once, the best are written out as they were, plus `score`.

    <output>/kept/<name>      the kept rows, in the order and format of the file they come from
    <output>/scores/          all scores (`rewards.curate.store`); a killed run continues from them
    <output>/table.md, scores.png, examples.png, examples.jsonl

The corpus is read twice, row by row: once to score (each process its share), once to write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewards.curate import keep, pictures, report
from rewards.curate.corpus import Source, exchange, write
from rewards.curate.recipe import CurateRecipe
from rewards.curate.scoring import Shard, journal
from rewards.curate.store import Scores
from rewards.score.scorer import Scorer
from rewards.select import scorers
from rewards.select.recipe import ClipSection, ScorerSection
from samples.mixture.drawing import DryFaults
from samples.readers.rows import RowFault
from stage.guards import lock
from stage.parallel.journal import Part, fingerprint, state_of_file
from stage.parallel.team import Team
from stage.planning.control import ControlTokens, tokens_of
from stage.recipe import config
from stage.runs import FINISHED, Run
from vlm.common.errors import DataError

logger = logging.getLogger(__name__)


@lock.released
def run(recipe: CurateRecipe, load: Callable[[], Scorer] | None = None) -> report.Report | None:
    """Curate by a resolved recipe; the report, or None in processes other than the main one.

    load: gives the scorer; by default the recipe's.
    """
    team = Team.join()
    folder = Path(recipe.output)
    lock.hold(folder, main=team.main)
    tokens = texts_of(recipe, fetch=True)
    sources = [Source(section, tokens) for section in recipe.data.train]
    continued = (folder / "recipe.yaml").exists() and not (folder / FINISHED).exists() and not recipe.overwrite
    record = Run.create(folder, config.to_dict(recipe), overwrite=recipe.overwrite, resume=continued, main=team.main)
    name = scored_by(recipe)
    done = Scores.load(journal(folder), name, len(sources))
    if done.scored():
        logger.info("continuing: %d rows are scored", done.scored())
    load = load or (lambda: scorers.load(recipe.by, recipe.scorer, recipe.clip, recipe.seed))
    with Part(journal(folder), name, team.rank) as part:
        shard = Shard(recipe, sources, part, done, team, load)
        shard.check()
        shard.run()
    team.wait()
    if not team.main:
        return None
    scores = Scores.load(journal(folder), name, len(sources))
    chosen = select(recipe, sources, scores, folder)
    record.finish(rows=chosen.total("rows"), scored=chosen.total("scored"), kept=chosen.total("kept"))
    return chosen


def scored_by(recipe: CurateRecipe) -> str:
    """Name of the journal; another one where the scorer, the data or what is read of it differs."""
    who = scorers.identity(recipe.by, recipe.scorer, recipe.clip, recipe.seed)
    files = []
    for section in recipe.data.train:
        shown = section.reading.text if section.reading else None
        files.append({**section.model_dump(), "shown": shown, "content": state_of_file(section.path)})
    return f"scores-{fingerprint(who, files, recipe.data.on_fault, recipe.data.tasks, recipe.notation)}"


def select(recipe: CurateRecipe, sources: Sequence[Source], scores: Scores, folder: Path) -> report.Report:
    """Choose, write the kept rows and the report."""
    values = [scores.values(index) for index in range(len(sources))]
    masks = keep.choose(values, recipe.keep)
    top, low = keep.extremes(values, recipe.examples)
    wanted: dict[tuple[int, int], Any] = dict.fromkeys([*top, *low])
    paths = kept_paths(sources, folder / "kept")
    for index, source in enumerate(sources):
        paths[index].parent.mkdir(parents=True, exist_ok=True)
        passed = second_pass(index, source, values[index], masks[index], wanted, recipe.notation)
        count = write(paths[index], passed, source.rows.is_list)
        if count != masks[index].sum():
            raise DataError(f"{source.path}: changed while it was read ({masks[index].sum()} rows kept, {count} found)")
    lines = [
        report.Line.of(source.section, paths[index], scores.faults[index], values[index], masks[index])
        for index, source in enumerate(sources)
    ]
    out = report.Report(lines, recipe, [wanted[place] for place in top], [wanted[place] for place in low])
    save(out, values, masks, folder)
    return out


def save(found: report.Report, values: Sequence[np.ndarray], masks: Sequence[np.ndarray], folder: Path) -> None:
    """Write table.md, scores.png and, where the recipe asks for examples, examples.png and examples.jsonl."""
    from rich.console import Console

    text = report.markdown(found)
    (folder / "table.md").write_text(text, encoding="utf-8")
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    pictures.histogram(found, values, masks, folder / "scores.png")
    if found.best:
        pictures.examples(found, folder / "examples.png")
        rows = (
            {"end": end, "score": example.score, "where": example.where, "messages": example.exchange.messages}
            for end, listed in (("best", found.best), ("worst", found.worst))
            for example in listed
        )
        write(folder / "examples.jsonl", rows, as_list=False)


def second_pass(
    index: int,
    source: Source,
    values: np.ndarray,
    mask: np.ndarray,
    wanted: dict[tuple[int, int], Any],
    notation: str,
) -> Iterator[dict[str, Any]]:
    """The kept rows with their score; on the way, fills in those rows of `wanted` (the examples) that come by."""
    for number, row in source:
        if (index, number) in wanted:
            sample = source.sample(number, row)
            score = float(values[number - 1])
            wanted[index, number] = report.Example(score, source.where(number), exchange(sample, notation))
        if number <= len(mask) and mask[number - 1] and not isinstance(row, RowFault):
            yield row | {"score": float(values[number - 1])}


def kept_paths(sources: Sequence[Source], folder: Path) -> list[Path]:
    """Where each source's kept rows go: under its own name, which the published layouts look for images by."""
    paths: list[Path] = []
    for source in sources:
        path, number = folder / source.path.name, 1
        while path in paths:
            number += 1
            path = folder / str(number) / source.path.name
        paths.append(path)
    return paths


def texts_of(recipe: CurateRecipe, fetch: bool = False) -> ControlTokens:
    """The scorer's control tokens, which rows must not spell out; none for a scorer that reads no texts."""
    scorers_of: dict[str, ScorerSection | ClipSection] = {"score": recipe.scorer, "clip": recipe.clip}
    section = scorers_of.get(recipe.by)
    if section is None or section.path is None:
        return ControlTokens(())
    return tokens_of(section, recipe.notation, fetch)


def checked_count(recipe: CurateRecipe, source: Source) -> int:
    """Rows of a source. Raises: DataError for a faulty row, unless the recipe skips them."""
    count = 0
    for number, row in source:
        count += 1
        if recipe.data.on_fault == "skip":
            continue
        try:
            source.sample(number, row)
        except RowFault as fault:
            if fault.kind not in DryFaults.OF_PICTURES:
                raise DataError(f"{source.where(number)}, {fault}") from fault
    return count


def plan(recipe: CurateRecipe) -> None:
    """Print how much would be scored and kept (`--dry-run`)."""
    from rich.console import Console

    console, total, kept, tokens = Console(), 0, 0, texts_of(recipe)
    if recipe.by == "score":
        scorers.look(recipe.scorer)
    for section in recipe.data.train:
        if Path(section.path).exists():
            count = checked_count(recipe, Source(section, tokens))
        elif section.limit is not None:
            count = section.limit
        else:
            console.print(f"note: {section.path} is not here; its rows are not counted", markup=False)
            continue
        total += count
        if recipe.keep.threshold is None and recipe.keep.per_source:
            kept += keep.quota(count, recipe.keep)
    if recipe.keep.threshold is None and not recipe.keep.per_source and total:
        kept = keep.quota(total, recipe.keep)
    said = f"rows that score at least {recipe.keep.threshold:g}" if recipe.keep.threshold is not None else str(kept)
    console.print(f"{total} rows to score by {recipe.by}; kept, if no row is faulty: {said}")
