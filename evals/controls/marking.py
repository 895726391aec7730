"""Training rows that a model answers without their picture:  python launch/data.py RECIPE --blind MODEL

Each row's question is asked without its pictures, by the recipe's own prompt, once and greedily, or several times at
temperature 1. What is right is judged by the exact rule of the row's task:

    vqa, classification    equal after `vlm.answers.normalise`
    choice                 the answer names the right option, and no other
    grounding              IoU ≥ 0.5, mean over several boxes
    detection              F1 ≥ 0.5 in the picture, objects at IoU 0.5
    segmentation           IoU ≥ 0.5
    others                 none: such rows are not marked

A row counts as blind where the share of its answers that are right reaches a threshold. Chance counts, too: of
questions answered by yes or no a model that knows nothing has half, and greedily it has them all where its guess is the
truth. The share of the most common answer, and chance for choices, stand beside each number.

    blind.jsonl                     a mark for each row (`samples.mixture.marks`), written when all are asked
    blind.json                      shares by file, task and question type
    blind/answers-<asked>.*.jsonl   each answer as it comes: the same command goes on where it was stopped, with any
                                    number of processes; <asked> changes with all that answers depend on
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from evals import predictions
from evals.asking.answering import Row, sized
from evals.controls.pictures import unpictured
from evals.generate import answerer, check
from evals.recipe import EvalRecipe
from evals.scoring import metrics
from evals.scoring.reading import Reading
from samples import Sample, kinds_of
from samples.facts import PLACES
from samples.mixture import tables
from samples.mixture.marks import folder_of, prompt_key, row_key
from samples.mixture.record import short
from samples.reading import Check
from stage.endpoint.kept import asked_of, why
from stage.guards import lock
from stage.parallel.journal import Part, encoded, fingerprint, records, state_of_checkpoint
from stage.parallel.team import Team
from stage.planning import decoding
from stage.recipe import config
from stage.recipe.sections import StageRecipe
from vlm import answers
from vlm.common.errors import DataError, RecipeError
from vlm.common.files import replace as replace_file
from vlm.common.files import replacing
from vlm.pictures.resizing import seen
from vlm.shapes import sight_of

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)
MARKS, SUMMARY, FOLDER = "blind.jsonl", "blind.json", "blind"
HIT = 0.5
"""IoU from which a box is right."""
SHARE = 0.75
"""Right answers of a row's, from which it counts as blind."""
TAGGED = 0.5
"""Below this share of answers with tags, where they are asked for, the numbers say little."""


@dataclass(frozen=True)
class Marked:
    """A training row."""

    key: str
    file: str
    "Its source's path."
    row: int
    "Its number among the rows that pass the source's filters, from 1."
    truth: Sample
    asked: Sample
    "As the model is asked."
    unmarked: str
    "Why it cannot be marked; empty where it can."


def asking(recipe: StageRecipe, model: str, folder: Path, draws: int, overrides: Sequence[str] = ()) -> EvalRecipe:
    """The recipe that asks the rows of a training recipe. Raises: RecipeError, also as `config.build`."""
    if recipe.stage not in ("sft", "grpo"):  # type: ignore[attr-defined]  # of every stage's own recipe
        raise RecipeError(f"--blind marks training rows; found a recipe of stage {recipe.stage}, expected sft or grpo")  # type: ignore[attr-defined]
    if draws < 1:
        raise RecipeError(f"--blind-draws {draws}: expected at least 1")
    data = recipe.data.model_dump(include={"on_fault", "tasks", "cache"})
    every = {"percent": None, "repeat": 1, "ratio": None}
    data["eval"] = [source.model_dump() | every for source in recipe.data.train]
    longest = recipe.argument("max_completion_length") if recipe.stage == "grpo" else 512  # type: ignore[attr-defined]
    values = {
        "model": {"path": model} | recipe.model.model_dump(include={"dtype", "attention", "trust_remote_code"}),
        "output": str(folder / FOLDER),
        "images": recipe.images.model_dump() | {"random_resize": None},
        "prompt": recipe.prompt.model_dump(),
        "data": data,
        "inside": "text" if recipe.prompt.style == "direct" else "answer",
        "generation": {"temperature": 0.0 if draws == 1 else 1.0, "max_new_tokens": longest},
        "seed": recipe.seed,
        "pictures": 0,
    }
    found = config.build(values, EvalRecipe, overrides, "--blind")
    if draws > 1 and found.generation.temperature == 0:
        raise RecipeError(f"--blind-draws {draws} with generation.temperature = 0: all draws would be the same answer")
    return found


@lock.released
def mark(recipe: EvalRecipe, folder: Path, draws: int, share: float, checked: Check | None = None) -> dict[str, Any]:
    """Ask all rows that are not answered yet, and write marks and summary, which is returned (empty in other processes
    than the main one). recipe: of `asking`. share: from which a row is blind. checked: as in `samples.read`.

    Raises: DataError for faulty rows as training does; UserError where rows got no answer.
    """
    if not 0 < share <= 1:
        raise RecipeError(f"--blind-share {share:g}: expected a share of the answers, above 0 and at most 1")
    check(recipe)
    place, team = Path(recipe.output), Team.join()
    lock.hold(place)
    rows = list(rows_of(recipe, checked))
    name = f"answers-{fingerprint(*asked_by(recipe))}"
    have = {(record["key"], record["draw"]) for record in records(place, name)}
    team.wait()  # all have read what is there before any writes
    todo = {row.key: row for row in rows if not row.unmarked}
    left = [(row, [n for n in range(draws) if (row.key, n) not in have]) for row in todo.values()]
    left = [(row, numbers) for row, numbers in left if numbers]
    if have and left:
        logger.info("continuing: %d of %d rows are answered", len(todo) - len(left), len(todo))
    if left:
        _ask(recipe, left, draws, place, name, team)
    team.wait()
    if not team.main:
        return {}
    said = _answers(place, name, draws)
    marked = [(row, *_judged(row, said.get(row.key), recipe)) for row in rows]
    missing = [row for row, right, reason in marked if right is None and not reason]
    if missing:
        raise DataError(
            f"{place}: no answer to {len(missing)} rows, such as {_name(missing[0])}; every process must see the same "
            "folder, and the same command asks what is left"
        )
    lines = [_line(row, right, reason, share, draws, recipe) for row, right, reason in marked]
    with replacing(folder / MARKS) as file:
        for line in lines:
            file.write(encoded(line) + b"\n")
    found = summary(recipe, draws, share, [row for row, _, _ in marked], lines, said)
    replace_file(folder / SUMMARY, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return found


def rows_of(recipe: EvalRecipe, checked: Check | None = None) -> Iterator[Marked]:
    """The rows of the recipe's sources that pass `tasks` and `limit`."""
    for section in recipe.data.eval:
        folder = folder_of(section.path)
        for number, sample in enumerate(tables.stored(section, recipe.data, recipe.seed, checked), 1):
            reason = "has no picture" if not sample.images else ""
            if sample.task in metrics.OPEN:
                reason = f"task {sample.task} has no exact rule"
            yield Marked(f"{row_key(sample, folder):016x}", section.path, number, sample, _asked(sample), reason)


def _asked(sample: Sample) -> Sample:
    """The row up to its last question."""
    turns = list(sample.messages)
    while turns and turns[-1]["role"] != "user":
        turns.pop()
    return unpictured(replace(sample, messages=turns))


def asked_by(recipe: EvalRecipe) -> list[Any]:
    """What answers depend on, but for the rows."""
    if recipe.endpoint is not None:
        return [asked_of(recipe)]
    how = recipe.generation.model_dump(exclude={"batch_size", "backend", "tensor_parallel"})
    pixels = recipe.images.model_dump(exclude={"limit", "cache"})
    model = [state_of_checkpoint(recipe.model.path, recipe.model.revision), recipe.model.dtype]
    return [model, how, prompt_key(recipe.prompt), pixels, recipe.seed]


def _ask(
    recipe: EvalRecipe, left: Sequence[tuple[Marked, list[int]]], draws: int, place: Path, name: str, team: Team
) -> None:
    from tqdm.auto import tqdm

    asked = answerer(recipe)
    size = decoding.batch_size(recipe, (row.asked for row, _ in left), group=draws, loaded=asked.loaded)
    mine: list[Row] = []
    keys: dict[int, str] = {}
    for row, numbers in left[team.rank :: team.size]:
        mine += [(row.asked, number) for number in numbers]
        keys[id(row.asked)] = row.key
    with Part(place, name, team.rank) as part:
        if not mine:
            return
        drawn = asked.draw(sized(recipe, size), mine)
        for (sample, number), text in tqdm(
            drawn, total=len(mine), desc="without pictures", mininterval=2.0, disable=not team.main
        ):
            refused = {} if (reason := why(text)) is None else {"refused": reason}
            part.add({"key": keys[id(sample)], "draw": number, "completion": str(text)} | refused)


@dataclass
class Said:
    """The answers to a row, and why a server refused one of them."""

    texts: list[str]
    refused: str = ""


def _answers(place: Path, name: str, draws: int) -> dict[str, Said]:
    """Key → its answers, of rows that have all of them."""
    found: dict[str, dict[int, str]] = {}
    refused: dict[str, str] = {}
    for record in records(place, name):
        if record["draw"] < draws:
            found.setdefault(record["key"], {})[record["draw"]] = record["completion"]
            if "refused" in record:
                refused[record["key"]] = record["refused"]
    whole = {key: texts for key, texts in found.items() if len(texts) == draws}
    return {key: Said([texts[n] for n in range(draws)], refused.get(key, "")) for key, texts in whole.items()}


def _judged(row: Marked, said: Said | None, recipe: EvalRecipe) -> tuple[float | None, str]:
    """(share of the answers that are right, None where there is none; why)."""
    if row.unmarked or said is None:
        return None, row.unmarked
    if said.refused:
        return None, f"refused by the server: {said.refused}"
    sight = sight_of(recipe)
    reading = Reading.of(recipe)
    right = [metrics.judge(_prediction(row.truth, text, sight, recipe), reading) for text in said.texts]
    return fmean(_right(one) for one in right), ""


def _right(one: metrics.Judgement) -> bool:
    share = one.f1 if one.f1 is not None else one.iou
    return bool(one.correct) if share is None else share >= HIT


def _prediction(truth: Sample, text: str, sight: Any, recipe: EvalRecipe) -> predictions.Prediction:
    resized = seen(truth.size, sight.among(len(truth.images)))
    return predictions.from_sample(truth, text, resized=resized, form=recipe.prompt.masks)


def _line(
    row: Marked, right: float | None, reason: str, share: float, draws: int, recipe: EvalRecipe
) -> dict[str, Any]:
    """A line of the file of marks."""
    who = recipe.model.path if recipe.endpoint is None else recipe.endpoint.model
    line: dict[str, Any] = {"key": row.key, "file": row.file, "row": row.row}
    line |= {"source": row.truth.source, "id": row.truth.id, "task": row.truth.task}
    line |= {} if row.truth.kind is None else {"kind": row.truth.kind}
    line |= {"share": right, "draws": draws, "blind": None if right is None else right >= share}
    line |= {"why": reason} if reason else {}
    return line | {"model": who, "prompt": prompt_key(recipe.prompt)}


def _name(row: Marked) -> str:
    return f"{row.truth.source}/{row.truth.id}"


def summary(
    recipe: EvalRecipe,
    draws: int,
    share: float,
    rows: Sequence[Marked],
    lines: Sequence[dict[str, Any]],
    said: dict[str, Said],
) -> dict[str, Any]:
    """For blind.json: what was asked how, and shares by file, task and question type ("" for all types)."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number, row in enumerate(rows):
        for kind in ("", *kinds_of(row.truth.kind)):
            groups.setdefault((row.file, row.truth.task, kind), []).append(number)
    parts = []
    for (file, task, kind), numbers in groups.items():
        asked = [number for number in numbers if lines[number]["share"] is not None]
        part: dict[str, Any] = {"file": file, "task": task, "kind": kind, "rows": len(numbers), "asked": len(asked)}
        if asked:
            part["right"] = fmean(lines[number]["share"] for number in asked)
            part["blind"] = sum(lines[number]["blind"] for number in asked)
            part |= _guesses([rows[number].truth for number in asked])
        parts.append(part)
    unmarked: dict[str, Counter[str]] = {}
    for line in lines:
        if "why" in line:
            unmarked.setdefault(line["file"], Counter())[line["why"].partition(":")[0]] += 1
    texts = [text for one in said.values() for text in one.texts]
    found: dict[str, Any] = {
        "model": recipe.model.path if recipe.endpoint is None else recipe.endpoint.model,
        "prompt": {"key": prompt_key(recipe.prompt)} | recipe.prompt.model_dump(),
        "answers": recipe.generation.spoken(),
        "draws": draws,
        "share": share,
        "rows": len(lines),
        "asked": sum(line["share"] is not None for line in lines),
        "blind": sum(line["blind"] is True for line in lines),
    }
    if recipe.inside == "answer" and texts:
        found["tagged"] = fmean(answers.parse(text).well_formed for text in texts)
    return found | {"parts": parts, "unmarked": {file: dict(counts) for file, counts in unmarked.items()}}


def _guesses(rows: Iterable[Sample]) -> dict[str, float]:
    """What guessing has: always the most common answer, and for choices a letter at random."""
    rows = list(rows)
    found: dict[str, float] = {}
    if rows[0].task == "choice":
        found["chance"] = fmean(1 / len(row.choices or ["?"]) for row in rows)
        told: list[Any] = [answers.option(row.answer or "", row.choices or []) for row in rows]
    else:
        told = [answers.normalise(row.answer or "") for row in rows]
    if rows[0].task not in PLACES:
        found["most_common"] = Counter(told).most_common(1)[0][1] / len(rows)
    return found


def table(found: dict[str, Any]) -> Table:
    """The shares for the terminal, in percent."""
    from rich.table import Table

    out = Table(title=f"Without pictures, by {found['model']}", title_justify="left")
    for name in ("file", "task", "type", "rows", "asked", "right", "blind", "most common answer", "chance"):
        out.add_column(name, justify="left" if name in ("file", "task", "type") else "right", overflow="fold")

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    for part in found["parts"]:
        counts = [f"{part['rows']:,}", f"{part['asked']:,}"]
        blind = f"{part['blind']:,} ({percent(part['blind'] / part['asked'])})" if part["asked"] else ""
        shares = [percent(part.get("right")), blind, percent(part.get("most_common")), percent(part.get("chance"))]
        out.add_row(short(part["file"]), part["task"], part["kind"], *counts, *shares)
    return out


def said_of(found: dict[str, Any], folder: Path) -> Iterator[str]:
    """Lines below the table."""
    each = "its one answer" if found["draws"] == 1 else f"{100 * found['share']:g}% of {found['draws']} answers"
    yield f"{found['blind']:,} of {found['asked']:,} rows are blind: {each} right without the picture"
    for file, counts in found["unmarked"].items():
        for reason, count in counts.items():
            yield f"note: {short(file)}: {count:,} rows are not marked, and stay: {reason}"
    if found.get("tagged", 1.0) < TAGGED:
        yield (
            f"note: only {100 * found['tagged']:.0f}% of the answers have the tags that prompt.style r1 asks for, and "
            "others count as wrong: take a model that writes them, or ask directly (prompt.style=direct)"
        )
    yield f"marks: {folder / MARKS}; to leave the rows out: data.drop_blind={folder / MARKS}"
