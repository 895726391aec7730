"""Best-of-N: draw answers once → score them → judge them → curve, table and picks.

<output>/completions.jsonl   the drawn answers, one row per question
<output>/curve.csv, table.md, curve.png
<output>/judged.jsonl        each answer's quality and scores, for launch/scaling.py
<output>/picks.jsonl         which answer each selector takes out of all
<output>/parts/              what the processes wrote as they went; makes the run resumable
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rewards.score.scorer import Scorer
from rewards.select import bon, candidates, report, scorers
from rewards.select.candidates import Draw, key, mark
from rewards.select.recipe import BonRecipe
from rewards.select.selectors import agreement, readable, score_answers
from samples import Sample, mixture
from samples.columns import ByTask, Columns
from samples.readers.checks import CLOSED
from stage.endpoint.cost import Call
from stage.endpoint.kept import Kept, asked_of, spoken
from stage.endpoint.questions import calls, estimated
from stage.guards import lock
from stage.origins import comparing
from stage.parallel.journal import Part, fingerprint, records, state_of_checkpoint, state_of_file
from stage.parallel.team import Team
from stage.planning import control, decoding
from stage.planning.lengths import Lengths
from stage.recipe import config
from stage.runs import FINISHED, RECORD, Run
from vlm.common.best_of import sizes
from vlm.common.errors import DataError
from vlm.families import Sight
from vlm.pictures.resizing import seen
from vlm.shapes import sight_of

logger = logging.getLogger(__name__)

Judge = Callable[[Sample, Sequence[str]], tuple[str, list[float]] | None]
"""`judge(sample, completions)` → name of the metric and one value per completion; None where no metric applies."""
TRIED = "<think>-</think><answer>-</answer>"
"""A completion by which a judge is asked, before any is drawn, whether it can judge a question."""


@lock.released
def run(
    recipe: BonRecipe,
    draw: Callable[[int, Callable[[int], None]], Draw],
    judge: Judge,
    load: Callable[[str], Scorer] | None = None,
    check_columns: Callable[[ByTask], None] | None = None,
) -> list[report.Point]:
    """Best-of-N by a resolved recipe; returns the curve (empty in processes other than the main one).

    draw: given how many completions are drawn at a time, and who is told of a smaller number where memory runs out,
    loads the model and returns how completions of questions are drawn. judge: how good completions are.
    load: the scorer by its name; by default the recipe's. check_columns: refuses columns that the judge needs and no
    row has.
    """
    team = Team.join()
    data = mixture.draw(recipe.data, "eval", recipe.seed, control.of_recipe(recipe, fetch=True))
    samples = list(data.samples)
    candidates.check_unique(samples)
    if check_columns is not None:
        check_columns(Columns(samples).by_task)
    if unjudged := judge_all(samples, [[TRIED]] * len(samples), judge).count(None):
        logger.warning("%s", without_metric(unjudged, len(samples)))
    folder = Path(recipe.output)
    lock.hold(folder, main=team.main)
    continued = (folder / "recipe.yaml").exists() and not (folder / FINISHED).exists() and not recipe.overwrite
    before = comparing.stored(folder, RECORD).get("batch_size") if continued else None
    team.wait()  # all have read what is there before the main process writes
    record = Run.create(folder, config.to_dict(recipe), overwrite=recipe.overwrite, resume=continued, main=team.main)
    record.note_mixtures({"eval": data})

    def note(size: int | None) -> None:
        how = recipe.generation
        noted = {"sampling": how.spoken(), "generation": how.model_dump(), "seed": recipe.seed}
        record.note_record(noted | {"batch_size": size})

    path, parts = Path(recipe.completions or folder / "completions.jsonl"), folder / "parts"
    if recipe.completions is None:
        name, many = f"draws-{drawn_by(recipe)}", recipe.generation.samples
        todo = candidates.undrawn(samples, many, parts, name)
        size = decoding.batch_size(recipe, samples, many, before) if todo else before
        note(size)
        team.wait()  # all have read what is there before any draws
        if size is not None:
            candidates.draw_all(partial(draw, size, note), todo, parts, name, team)
        team.wait()
        if team.main:
            candidates.put_together(samples, many, parts, name, path)
        team.wait()
    completions, refused = candidates.read(path, samples)
    said = [[readable(text, recipe.inside) for text in texts] for texts in completions]
    load = load or (lambda name: scorers.load(name, recipe.scorer, recipe.clip, recipe.seed))
    scored: dict[str, list[np.ndarray]] = {}
    for selector in recipe.selectors:
        if selector in ("score", "clip"):
            who = scorers.identity(selector, recipe.scorer, recipe.clip, recipe.seed)
            name = f"{selector}-{fingerprint(who, recipe.inside, shown_as(recipe), state_of_file(path))}"
            scored[selector] = score_all(partial(load, selector), samples, said, parts, name, team)
    team.wait()
    if not team.main:
        return []
    judged = judge_all(samples, completions, judge)
    save_judged(samples, judged, scored, folder / "judged.jsonl")
    points = curve(recipe, samples, said, scored, judged)
    faulty, unjudged = sum(part.faulty for part in data.parts), judged.count(None)
    counts = {"faulty rows (data.on_fault: skip)": faulty, "without a metric (gold)": unjudged}
    told = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    whole = f"{len(samples) - unjudged} of {len(samples) + faulty} questions; left out: {told}"
    report.save(points, folder, recipe, [*([whole] if told else []), *([spoken(refused)] if refused else [])])
    save_picks(recipe, samples, said, scored, folder / "picks.jsonl")
    spent: dict[str, Any] = {"refused": refused} if refused else {}
    if recipe.endpoint is not None and recipe.completions is None:
        spent["usage"] = Kept(folder, recipe).used(recipe)
    record.finish(**{f"{p.metric}/{p.selector}@{p.n}": p.value for p in points if p.n == len(completions[0])}, **spent)
    return points


def shown_as(recipe: BonRecipe) -> list[str | None]:
    """How the rasters of each source are read: other pixels, other answers and scores."""
    return [source.reading.text if source.reading else None for source in recipe.data.eval]


def drawn_by(recipe: BonRecipe) -> str:
    """Changes when other answers would be drawn to the same questions (`candidates.mark`)."""
    settings = recipe.generation.model_dump(exclude={"batch_size", "tensor_parallel", "samples"})
    if recipe.endpoint is not None:
        settings["endpoint"] = asked_of(recipe)["endpoint"]
    model = state_of_checkpoint(recipe.model.path, recipe.model.revision)
    images = recipe.images.model_dump(exclude={"limit", "cache"})
    return fingerprint(model, recipe.model.dtype, images, shown_as(recipe), recipe.prompt, settings, recipe.seed)


def score_all(
    load: Callable[[], Scorer],
    samples: Sequence[Sample],
    said: Sequence[Sequence[str | None]],
    folder: Path,
    name: str,
    team: Team,
) -> list[np.ndarray]:
    """Scores (M,) of every question's answers, -inf where one cannot be read. This process scores its share."""
    from tqdm.auto import tqdm

    have = {record["key"] for record in records(folder, name)}
    todo = [n for n, s in enumerate(samples) if n % team.size == team.rank and mark(s) not in have]
    if todo:
        scorer = load()
        with Part(folder, name, team.rank) as part:
            for n in tqdm(todo, desc=name.partition("-")[0], disable=not team.main, mininterval=2.0):
                scores = score_answers(scorer, samples[n], said[n])
                row = [None if score == -math.inf else score for score in scores]
                part.add({"key": mark(samples[n]), "scores": row})
        scorers.note_truncation(scorer)
    team.wait()
    if not team.main:
        return []
    found = {record["key"]: record["scores"] for record in records(folder, name)}
    candidates.check_complete(samples, found, folder)
    rows = [[-math.inf if score is None else score for score in found[mark(sample)]] for sample in samples]
    return [np.array(row) for row in rows]


Judged = list[tuple[str, np.ndarray] | None]
"""Of each question: its metric and the quality (M,) of its answers, None where no metric applies."""


def judge_all(samples: Sequence[Sample], completions: Sequence[Sequence[str]], judge: Judge) -> Judged:
    """Raises: DataError where the judge gives what is no quality, or no question can be judged."""
    found: Judged = []
    for sample, texts in zip(samples, completions, strict=True):
        if (judged := judge(sample, texts)) is None:
            found.append(None)
            continue
        quality = np.array(judged[1], dtype=float)
        if quality.shape != (len(texts),) or not np.isfinite(quality).all():
            raise DataError(f"{key(sample)}: the judge gave {judged[1]!r}, expected a finite number per completion")
        found.append((judged[0], quality))
    without_metric(found.count(None), len(found))
    return found


def without_metric(unjudged: int, questions: int) -> str:
    """What is said of questions that cannot be judged. Raises: DataError where none can."""
    if unjudged == questions:
        raise DataError("no question can be judged: captions and open questions need `gold:` in the recipe")
    return f"{unjudged} of {questions} questions have no metric and are left out of the curve"


def save_judged(samples: Sequence[Sample], judged: Judged, scored: dict[str, list[np.ndarray]], path: Path) -> None:
    """judged.jsonl, a row a question:

    {"source": "caption", "id": "7", "metric": "open_ended/gold", "quality": [0.5, …], "scores": {"score": [1.2, …]}}

    A score is null where the answer cannot be read.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, (sample, found) in enumerate(zip(samples, judged, strict=True)):
            if found is None:
                continue
            scores = {
                name: [None if score == -math.inf else float(score) for score in rows[number]]
                for name, rows in scored.items()
            }
            row = {"source": sample.source, "id": sample.id, "metric": found[0], "quality": found[1].tolist()}
            file.write(json.dumps(row | {"scores": scores}) + "\n")


def curve(
    recipe: BonRecipe,
    samples: Sequence[Sample],
    said: Sequence[Sequence[str | None]],
    scored: dict[str, list[np.ndarray]],
    judged: Judged,
) -> list[report.Point]:
    """Every metric, selector and N."""
    ns, sight = sizes(len(said[0])), sight_of(recipe)
    values: dict[tuple[str, str, int], list[float]] = {}
    for number, (sample, found) in enumerate(zip(samples, judged, strict=True)):
        if found is None:
            continue
        metric, quality = found
        votes = "majority" in recipe.selectors
        agreed = _agreement(recipe, sample, said[number], sight) if votes else np.empty((0, 0))
        rng = np.random.default_rng([recipe.seed, number])
        for n in ns:
            for selector in recipe.selectors:
                if selector == "random":
                    value = float(quality.mean())
                elif selector == "majority":
                    value = bon.best_by_vote(agreed, quality, n, recipe.subsets, rng)
                else:
                    value = bon.best_by_score(scored[selector][number], quality, n)
                values.setdefault((metric, selector, n), []).append(value)
            values.setdefault((metric, report.ORACLE, n), []).append(bon.oracle(quality, n))
    return [report.Point.of(metric, selector, n, found) for (metric, selector, n), found in values.items()]


def save_picks(
    recipe: BonRecipe,
    samples: Sequence[Sample],
    said: Sequence[Sequence[str | None]],
    scored: dict[str, list[np.ndarray]],
    path: Path,
) -> None:
    """picks.jsonl: for each question the place, among all its completions, of the one each selector takes."""
    sight = sight_of(recipe)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, sample in enumerate(samples):
            rng, picks = np.random.default_rng([recipe.seed, number, 1]), dict[str, int]()
            for selector in recipe.selectors:
                if selector == "random":
                    picks[selector] = int(rng.integers(len(said[number])))
                elif selector == "majority":
                    votes = _agreement(recipe, sample, said[number], sight).sum(axis=1)
                    picks[selector] = int(np.argmax(votes >= votes.max() - bon.TIED))
                else:
                    picks[selector] = int(np.argmax(scored[selector][number]))
            file.write(json.dumps({"source": sample.source, "id": sample.id, "picks": picks}) + "\n")


def _agreement(recipe: BonRecipe, sample: Sample, said: Sequence[str | None], sight: Sight) -> np.ndarray:
    resized = seen(sample.size, sight.among(len(sample.images)))
    return agreement(sample, said, recipe.prompt.notation, resized, recipe.prompt.masks)


def plan(recipe: BonRecipe, judge: Judge, check_columns: Callable[[ByTask], None] | None = None) -> None:
    """Print what would be drawn and scored (`--dry-run`). judge, check_columns: as in `run`; of a task without
    closed answers the first question stands for all."""
    from rich.console import Console

    console, columns, names, lengths = Console(), Columns(), set[str](), Lengths(recipe)
    sight = sight_of(recipe)
    if "score" in recipe.selectors:
        scorers.look(recipe.scorer)
    judged, opened, asked = list[bool](), dict[str, bool](), list[tuple[list[Call], int]]()

    def see(sample: Sample) -> None:
        columns.see(sample)
        lengths.see(sample)
        candidates.refuse_namesake(sample, names)
        if recipe.endpoint is not None:
            asked.append((calls(recipe, sample, sight), recipe.generation.samples))
        if (known := opened.get(sample.task)) is None:
            unopened = sample.task == "grounding" and sample.size is None  # its boxes are read when it is sampled
            known = unopened or judge(sample, [TRIED]) is not None
            if sample.task not in CLOSED:
                opened[sample.task] = known
        judged.append(known)

    data = mixture.count(recipe.data, "eval", recipe.seed, see, control.of_recipe(recipe))
    data.show()
    if check_columns is not None and not data.absent:
        check_columns(columns.by_task)
    questions = data.rows
    if judged and (unjudged := judged.count(False)):
        console.print(f"note: {without_metric(unjudged, len(judged))}", highlight=False)
    drawn = questions * recipe.generation.samples
    how = f"up to {recipe.generation.max_new_tokens} new tokens each"
    console.print(f"{questions} questions × {recipe.generation.samples} answers = {drawn} completions, {how}")
    if recipe.completions is None and recipe.endpoint is not None:
        where = f"{recipe.endpoint.model} at {recipe.endpoint.address}"
        console.print(f"{where}, {estimated(recipe, asked)}", markup=False, highlight=False)
    elif recipe.completions is None:
        for line in decoding.said(recipe, lengths, questions, data.absent, recipe.generation.samples):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for selector in recipe.selectors:
        if selector in ("score", "clip"):
            console.print(f"{selector}: at most {drawn} exchanges to score (equal answers are scored once)")
