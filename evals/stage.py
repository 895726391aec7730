"""Evaluation: generate → `predictions.jsonl` → metrics, a table, and a picture grid."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from evals import predictions, ranks
from evals.asking import turns
from evals.asking.answering import Answering, sized
from evals.benchmarks import find
from evals.comparing import compare
from evals.controls import CONTROLS, lists
from evals.generate import answerer, check
from evals.recipe import EvalRecipe
from evals.scoring import chains, masks, metrics
from evals.scoring.reading import Reading
from evals.scoring.report import Coverage, Scores, as_dict
from samples import Sample, mixture
from samples.columns import ByTask, Columns
from stage.endpoint.client import Usage
from stage.endpoint.cost import Call, price
from stage.endpoint.kept import Kept, why
from stage.endpoint.questions import calls, estimated
from stage.endpoint.sections import EndpointSection
from stage.guards import lock
from stage.guards.disk import spared
from stage.origins import comparing
from stage.parallel.team import Team
from stage.planning import control, decoding
from stage.planning.lengths import Lengths
from stage.recipe import config
from stage.runs import DATA, FINISHED, RECORD, Run
from vlm.common.errors import RecipeError, UserError
from vlm.common.processes import is_main_process
from vlm.families import Sight
from vlm.loading import family_of
from vlm.pictures.drawing import Picture, grid
from vlm.pictures.resizing import seen
from vlm.shapes import sight_of
from vlm.tools.toolbox import Toolbox

logger = logging.getLogger(__name__)
FAULTY = "faulty rows (data.on_fault: skip)"
UNRECORDED = "not recorded (no record.json); what the recipe leaves open may be the checkpoint's generation_config.json"


def unique(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, refused where two would have the same key in predictions.jsonl."""
    names: set[tuple[str, str]] = set()
    for sample in samples:
        refuse_namesake(sample, names)
    return list(samples)


def refuse_namesake(sample: Sample, names: set[tuple[str, str]]) -> None:
    """Add the sample's name to `names`. Raises: UserError where it is there."""
    if (sample.source, sample.id) in names:
        raise UserError(
            f"data.eval: two questions are called {sample.source}/{sample.id}; give rows distinct ids, each source "
            "a `name:`, or leave one of the sources out"
        )
    names.add((sample.source, sample.id))


def started(recipe: EvalRecipe, folder: Path) -> list[predictions.Prediction]:
    """Predictions of an evaluation by the same recipe, to be continued: an interrupted one, or a finished one that is
    to have further controls.

    Raises: UserError where the folder's predictions are by another recipe.
    """
    file = folder / "predictions.jsonl"
    if recipe.overwrite or not file.exists():
        return []
    if (folder / FINISHED).exists() and not further(recipe, folder):  # Run.create refuses it
        return []
    if changes := changed(folder, recipe):
        raise UserError(
            f"{file} was begun with another recipe (different: {', '.join(sorted(changes))}); write overwrite=true, or "
            "choose another output"
        )
    return predictions.resume(file)


def further(recipe: EvalRecipe, folder: Path) -> list[str]:
    """The recipe's controls of which a folder's record.json knows nothing."""
    known = comparing.stored(folder, RECORD).get("controls", {})
    return [name for name in recipe.controls if name not in known]


def changed(folder: Path, recipe: EvalRecipe) -> set[str]:
    """The keys that matter in which the recipe of a run folder differs from this one."""
    earlier = config.load(folder / "recipe.yaml", EvalRecipe)
    neutral = {"overwrite", "pictures", "images.limit", "images.cache", "gpus", "generation.batch_size", "cost"}
    neutral |= {"controls", "turns.timeout"}  # answers of controls lie in folders of their own
    neutral |= {f"endpoint.{key}" for key in EndpointSection.MANNER}
    different = config.difference(earlier, recipe)
    return {key for key in different if key not in neutral and key.partition(".")[0] not in neutral}


def agreed(recipe: EvalRecipe, folder: Path, drawn: mixture.Mixture, begun: bool) -> dict[str, Any]:
    """What the answers come from, for record.json, and "data" for data.json.

    Raises: UserError where an evaluation was begun with other rows, pictures, weights or judge.
    """
    found = {"data": comparing.of_mixtures({"eval": drawn}), **comparing.of_recipe(recipe)}
    if begun:
        before = {**comparing.stored(folder, RECORD), "data": comparing.stored(folder, DATA)}
        comparing.refuse(
            comparing.changes(before, found),
            (),
            f"the evaluation in {folder}",
            "Put them back, or write overwrite=true to ask everything again, or choose another output",
        )
    return found


CheckColumns = Callable[[ByTask], None]
Judge = Callable[[Sample, Sequence[str]], list[float] | None]
"""`judge(sample, completions)` → a value for each; None where it does not apply to the sample."""


def questions(recipe: EvalRecipe, samples: list[Sample]) -> list[Sample]:
    """What is asked, in order: the rows of `data.eval`, up to `limit`."""
    if recipe.benchmark is not None:
        benchmark = find(recipe.benchmark)
        classes = {sample.answer for sample in samples} if benchmark.classes else set()
        if benchmark.classes and len(classes) != benchmark.classes:
            logger.warning("%s: found %d classes, expected %d", recipe.benchmark, len(classes), benchmark.classes)
    return unique(samples)[: recipe.limit]


@lock.released
def run(
    recipe: EvalRecipe,
    judge: Judge | None = None,
    asked: Answering | None = None,
    check_columns: CheckColumns | None = None,
) -> Scores:
    """Evaluate; returns the report, which also lies in the run folder. Faulty data is found before weights load.

    One process or many (`evals.ranks`); all of them return. judge: of the recipe's `gold`, for open questions. asked:
    who answers, where one model serves several evaluations; None: the recipe's model. check_columns: refuses columns
    that the judge needs and no row has.
    """
    check(recipe)
    drawn = mixture.draw(recipe.data, "eval", recipe.seed, control.of_recipe(recipe, fetch=True))
    every = questions(recipe.model_copy(update={"limit": None}), list(drawn.samples))
    samples = every[: recipe.limit]
    if check_columns is not None:
        check_columns(Columns(samples).by_task)
    missed = left_out(drawn, len(every), len(samples))
    if missed and is_main_process():
        logger.warning("%s", Coverage(len(samples), missed))
    folder, team = Path(recipe.output), Team.join()
    lock.hold(folder)
    if (folder / FINISHED).exists() and not recipe.overwrite:  # what it has stays
        before = comparing.stored(folder, RECORD).get("controls", {})
        recipe = recipe.model_copy(update={"controls": list(dict.fromkeys([*before, *recipe.controls]))})
    listed, unasked = lists.lists(recipe, samples)
    kept = [Kept(one.folder, one.recipe) for one in listed if recipe.endpoint is not None]
    if recipe.overwrite:
        ranks.discard(folder)
        for each in kept:
            each.discard()
    elif team.main:
        for one in listed:
            ranks.gather(one.folder)
    team.wait()
    done = started(recipe, folder)
    drawn_how = drawing(recipe, len(done) if not (folder / RECORD).exists() else 0)
    origins = agreed(recipe, folder, drawn, bool(done)) if team.main else {}
    asked = asked or answerer(recipe)
    have = {prediction.key for prediction in done}
    todo = [(one, one.but(have if not one.name else answered(one.folder) if done else set())) for one in listed]
    size = comparing.stored(folder, RECORD).get("batch_size") if done else None
    if any(left for _, left in todo):
        size = decoding.batch_size(recipe, samples, before=size, loaded=asked.loaded)
    afford(todo)
    team.wait()  # all have read what is there before the main process writes
    if not done and not (folder / FINISHED).exists():
        ranks.discard(folder)  # answers of controls to questions that are asked anew
    record = Run.create(folder, config.to_dict(recipe), overwrite=recipe.overwrite, resume=bool(done))
    record.note_data(origins.pop("data", {}))
    record.note_mixtures({"eval": drawn})
    noted = drawn_how | origins | {"asked": len(samples), "left_out": missed}
    if recipe.controls:
        noted["controls"] = {one.name: {"asked": len(one.samples), "left_out": {**one.left_out}} for one in listed[1:]}
        noted["controls"] |= {name: {"not_asked": reason} for name, reason in unasked.items()}

    def note(smaller: int | None) -> None:
        nonlocal size
        size = smaller
        record.note_record(noted | {"batch_size": size})

    note(size)
    team.wait()
    if done:
        logger.info("continuing: %d of %d questions are answered", len(done), len(samples))
    for name, reason in unasked.items() if is_main_process() else ():
        logger.warning("control %s: not asked: %s", name, reason)
    for one, left in todo:
        if one.name and team.main:
            one.folder.mkdir(parents=True, exist_ok=True)
        team.wait()
        if size is not None and (mine := left[team.rank :: team.size]):
            path = ranks.part(one.folder, team)
            answer(sized(one.recipe, size), asked, mine, path, path.exists(), judge, note, one.truth, one.name)
        team.wait()
        if team.main:
            ranks.gather(one.folder, one.keys)
    team.wait()
    report = load_report(folder, recipe)
    if team.main:
        say_faults(predictions.read(folder / ranks.FILE))
        save(report, recipe, folder)
    spent: dict[str, Any] = {}
    if kept:
        used = sum((each.usage() for each in kept), Usage())
        spent = {"usage": asdict(used) | {"cost": price(used.input_tokens, used.output_tokens, recipe.cost)}}
        spent["refused"] = report.refused
    record.finish(**{name: metric.value for name, metric in report.metrics.items()}, **spent)
    return report


def answered(folder: Path) -> set[str]:
    """The questions that have an answer in a list's folder."""
    return {row.key for row in predictions.resume(folder / ranks.FILE)} if (folder / ranks.FILE).exists() else set()


def afford(todo: Sequence[tuple[lists.Listed, Sequence[Sample]]]) -> None:
    """Raises: UserError where all lists together may cost more than `cost.max_cost`: each says its own only."""
    recipe = todo[0][0].recipe
    if recipe.endpoint is not None and len(todo) > 1:
        sight = sight_of(recipe)
        said = estimated(recipe, ((calls(one.recipe, sample, sight), 1) for one, left in todo for sample in left))
        logger.info("with the controls %s: %s", ", ".join(one.name for one, _ in todo[1:]), said)


def load_report(folder: Path, recipe: EvalRecipe | None = None) -> Scores:
    """The report of an evaluation's run folder, computed afresh from its predictions.

    Raises: UserError where it holds none.
    """
    if not (folder / ranks.FILE).exists():
        raise UserError(f"{folder} holds no {ranks.FILE}; name the output folder of launch/eval.py")
    recipe = recipe or config.load(folder / "recipe.yaml", EvalRecipe)
    report, rows = scored(folder, recipe), predictions.read(folder / ranks.FILE)
    report.join(chains.chains(rows))
    report.sampling, report.coverage = sampling(folder), coverage(folder, len(report.asked))
    for name, about in comparing.stored(folder, RECORD).get("controls", {}).items():
        place = lists.folder(folder, name)
        if "not_asked" in about or not (place / ranks.FILE).exists():
            report.unasked[name] = about.get("not_asked", "not answered yet")
            continue
        report.controls[name] = one = scored(place, recipe)
        one.coverage = controlled(report.coverage, about, len(one.asked))
    if "no_zoom" in report.controls:
        report.join(chains.gained(report, report.controls["no_zoom"], rows))
    return report


def scored(folder: Path, recipe: EvalRecipe) -> Scores:
    """The numbers over the predictions of a folder."""
    rows = predictions.read(folder / ranks.FILE)
    report: Scores
    if recipe.benchmark is None:
        report = metrics.evaluate(rows, recipe.prompt.notation, recipe.inside, recipe.prompt.masks)
    else:
        report = find(recipe.benchmark).score(rows, Reading.of(recipe))
    report.asked = [row.key for row in rows]
    report.refused = {row.key: row.refused for row in rows if row.refused is not None}
    return report


def controlled(whole: Coverage | None, about: dict[str, Any], scored: int) -> Coverage:
    """What a control's numbers are over. whole: of the evaluation; about: the control's part of record.json."""
    unanswered = {"not answered yet": about["asked"] - scored} if about["asked"] > scored else {}
    missed = {} if whole is None else {why: n for why, n in whole.left_out.items() if why != "not answered yet"}
    return Coverage(scored, missed | about["left_out"] | unanswered)


def left_out(drawn: mixture.Mixture, prepared: int, asked: int) -> dict[str, int]:
    """Why questions of `data.eval` are not asked → how many. prepared: questions before `limit`; asked: after it."""
    lines = [line for part in drawn.parts for line in part.lines]
    found = {
        FAULTY: sum(part.faulty for part in drawn.parts),
        "not drawn (tasks, percent or ratio of data.eval)": sum(line.read - line.kept for line in lines),
        "beyond limit": prepared - asked,
    }
    return {why: count for why, count in found.items() if count}


def coverage(folder: Path, scored: int) -> Coverage | None:
    """What an evaluation's numbers are over, by its record.json; None where that does not say."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8")) if (folder / RECORD).exists() else {}
    if "asked" not in record:
        return None
    unanswered = {"not answered yet": record["asked"] - scored} if record["asked"] > scored else {}
    return Coverage(scored, record["left_out"] | unanswered)


def drawing(recipe: EvalRecipe, earlier: int = 0) -> dict[str, Any]:
    """record.json of an evaluation: how answers were drawn, by the keys of `generation:` and in words.

    earlier: answers that are there and of which this was not recorded.
    """
    said = recipe.generation.spoken()
    if earlier:
        said += f"; {earlier} answers: {UNRECORDED}"
    return {"sampling": said, "generation": recipe.generation.model_dump(), "seed": recipe.seed}


def sampling(folder: Path) -> str:
    """How an evaluation's answers were drawn, in words, by its record.json.

    One without it is older than that file: the checkpoint's generation_config.json then steered, too.
    """
    if not (folder / RECORD).exists():
        return UNRECORDED
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))["sampling"]


def answer(
    recipe: EvalRecipe,
    asked: Answering,
    samples: Sequence[Sample],
    path: Path,
    append: bool,
    judge: Judge | None = None,
    halved: Callable[[int], None] | None = None,
    truth: Callable[[Sample], Sample] | None = None,
    control: str = "",
) -> None:
    """Write predictions as they come; each batch is on disk before the next one starts. halved: as `complete` says.

    truth: of a control's question, the evaluation's own: what is right is its affair. Which picture was shown, and at
    which size the model saw it, stays the control's.
    """
    from tqdm.auto import tqdm

    pairs = asked.answer(recipe, samples, halved)
    sight = sight_of(recipe)
    with open(path, "a" if append else "w", encoding="utf-8", buffering=1) as file:
        for sample, text in tqdm(
            pairs, total=len(samples), desc=f"eval {control}".strip(), mininterval=2.0, disable=not is_main_process()
        ):
            true = sample if truth is None else truth(sample)
            judged = judge(true, [text]) if judge is not None and sample.task in metrics.OPEN else None
            among = len(sample.images or true.images)  # asked blind, the frame is that of its own pictures
            gold, resized = judged[0] if judged else None, seen(sample.size, sight.among(among))
            chain = turns.fields(text)
            how = recipe.prompt.masks
            row = predictions.from_sample(true, text, gold=gold, resized=resized, refused=why(text), form=how, **chain)
            row.image, row.images = predictions.first_image(sample), predictions.several(sample)
            file.write(predictions.line(row) + "\n")


def say_faults(rows: Sequence[predictions.Prediction]) -> None:
    """How many calls failed, by cause, and the first question of each."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        for fault in row.faults or ():
            kinds.setdefault(fault, []).append(row.key)
    for kind, keys in kinds.items():
        logger.warning("tools: %d calls failed (%s), the first of question %s", len(keys), kind, keys[0])


def save(report: Scores, recipe: EvalRecipe, folder: Path) -> None:
    """metrics.json, table.md and pictures.png; the table goes to the terminal too."""
    (folder / "metrics.json").write_text(json.dumps(as_dict(report), indent=2) + "\n")
    name = folder.name
    console, gains = Console(), compare.gains({name: [report]}, headlines(recipe))
    (folder / "table.md").write_text(compare.markdown({name: report}) + compare.listed(gains))
    console.print(compare.table({name: report}, title=recipe.benchmark))
    for line in gains:
        console.print(line, highlight=False, markup=False)
    if recipe.pictures:
        reading = Reading.of(recipe)
        if shown := pictures(predictions.read(folder / ranks.FILE), recipe.pictures, reading):
            with spared(folder / "pictures.png"):
                grid(shown, folder / "pictures.png", title=f"Held-out questions, answered by {name}")


def headlines(recipe: EvalRecipe) -> list[str]:
    """The metrics that comparisons show first."""
    own = [] if recipe.benchmark is None else [find(recipe.benchmark).headline]
    return list(dict.fromkeys([*own, *compare.COMPARED]))


def pictures(rows: list[predictions.Prediction], count: int, reading: Reading) -> list[Picture]:
    """`count` predictions spread evenly over the file's questions that have a picture on disk."""
    there = [(row, row.image) for row in rows if row.image is not None]
    step = max(1, len(there) // count)
    return [picture(row, image, reading) for row, image in there[::step][:count]]


def picture(row: predictions.Prediction, image: str, reading: Reading) -> Picture:
    """A prediction as a cell of the picture grid."""
    judged = metrics.judge(row, reading)
    said = reading.text(row)
    if judged.f1 is not None:
        shown = _detected(row, image, reading, judged.f1)
    elif row.task == "segmentation":
        shown = _masked(row, image, reading)
    else:
        read = reading.said(row) if said and row.boxes and row.size else None
        found = read.boxes if read is not None else None
        shown = Picture(
            image=image,
            question=row.prompt,
            truth=None if row.boxes else row.answer,
            answer=None if found else (said or "no answer in tags"),
            boxes=row.boxes or [],
            predicted=found,
            right=judged.iou >= 0.5 if judged.iou is not None else judged.correct,
            zoomed=[crop["box"] for crop in row.crops or () if crop["image"] == 0],
        )
    return replace(shown, further=(row.images or [])[1:], dates=row.dates or [])


def _masked(row: predictions.Prediction, image: str, reading: Reading) -> Picture:
    """Of segmentation: both masks, and their IoU; the text of the answer where it is no mask."""
    mask, overlap, said = masks.true_mask(row), masks.judged(row, reading), reading.mask(row)
    told = f"IoU {overlap.iou:.2f}: {overlap.true:,} pixels there, {overlap.said:,} said"
    return Picture(
        image=image,
        question=row.prompt,
        answer=None if said.readable else (reading.text(row) or "no answer in tags"),
        mask=mask,
        said=said.runs(mask["size"][::-1]) if said.readable else None,
        judged=told if said.readable else "no mask read",
        right=overlap.iou >= 0.5,
    )


def _detected(row: predictions.Prediction, image: str, reading: Reading, f1: float) -> Picture:
    """Of detection: all objects as they lie, what the model calls them, and F1 in this picture."""
    found = reading.detections(row)
    turned = row.quads is not None
    return Picture(
        image=image,
        question=", ".join(row.classes or ()),
        answer=None if found.objects else (reading.text(row) or "no answer in tags"),
        boxes=(row.quads if turned else row.boxes) or [],
        predicted=found.quads if turned else found.boxes,
        names=[one.label for one in found.objects],
        judged=f"F1 {f1:.2f}: {len(row.labels or ())} there, {len(found)} said",
        right=f1 >= 0.5,
    )


def tools_said(recipe: EvalRecipe, sight: Sight) -> Iterator[str]:
    """Lines of a dry run: which tools there are, how often they are answered, and what an answer adds."""
    toolbox = Toolbox.of(recipe.tools, recipe.turns, sight)
    if toolbox is None:
        return
    limit = recipe.turns.limit
    yield f"tools: {', '.join(toolbox.tools)}; up to {limit} call{'s' * (limit > 1)} of a question answered"
    for tool in toolbox.tools.values():
        known = f"up to {tool.tokens} visual tokens" if tool.tokens is not None else "as many tokens as it gives back"
        yield f"a turn of {tool.name} adds {known}"
    yield f"up to {recipe.generation.max_new_tokens} new tokens are for all turns of the model together"
    if recipe.benchmark is not None and recipe.zooms and (without := find(recipe.benchmark).unzoomed):
        yield f"asked without tools, as {recipe.benchmark} asks them: questions of type {', '.join(without)}"


def plan(recipe: EvalRecipe, check_columns: CheckColumns | None = None) -> None:
    """Print what would be asked (`--dry-run`); neither model nor data need be here yet: what is not is noted."""
    console = Console()
    if recipe.endpoint is None:
        try:
            family_of(recipe.model.path, recipe.model.revision)
        except RecipeError as error:
            console.print(f"note: {error}", markup=False, highlight=False)
    known = [source for source in recipe.data.eval if source.limit is not None or Path(source.path).exists()]
    for source in recipe.data.eval:
        if source not in known:
            console.print(f"note: {source.path} is not here; its questions are not counted", markup=False)
    columns, names, lengths, sight = Columns(), set[tuple[str, str]](), Lengths(recipe), sight_of(recipe)
    asked: list[tuple[list[Call], int]] = []

    def see(sample: Sample) -> None:
        columns.see(sample)
        lengths.see(sample)
        if recipe.endpoint is not None:
            asked.append((calls(recipe, sample, sight), 1 + len(recipe.controls)))
        if recipe.benchmark is None:  # it puts its questions together from rows that may share a name
            refuse_namesake(sample, names)

    there, tokens = recipe.data.model_copy(update={"eval": known}), control.of_recipe(recipe)
    counted = mixture.count(there, "eval", recipe.seed, see, tokens)
    counted.show()
    if check_columns is not None and len(known) == len(recipe.data.eval) and not counted.absent:
        check_columns(columns.by_task)
    count = counted.rows if recipe.limit is None else min(counted.rows, recipe.limit)
    for line in tools_said(recipe, sight):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for name in recipe.controls:
        again = f"control {name}: up to {count} questions again: {CONTROLS[name].meaning}"
        console.print(again, markup=False, highlight=False, soft_wrap=True)
    if recipe.endpoint is not None:
        where = f"{recipe.endpoint.model} at {recipe.endpoint.address}"
        console.print(f"{where}, {estimated(recipe, asked[: recipe.limit])}", markup=False, highlight=False)
        return
    low, high = sight.bounds()
    console.print(f"{count} questions")
    console.print(f"{low} to {high} visual tokens an image, up to {recipe.generation.max_new_tokens} new tokens each")
    unread = len(known) < len(recipe.data.eval) or counted.absent
    for line in decoding.said(recipe, lengths, count, unread):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
