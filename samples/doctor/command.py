"""The data doctor as a command: progress, the report's files, the exit code."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from samples.doctor.examine import examine
from samples.doctor.report import Report
from samples.doctor.subject import Subject, subject
from vlm.common.console import EXIT_USER_ERROR, log_to_stderr, report, say
from vlm.common.errors import RecipeError, UserError
from vlm.pictures import images

FIT, NOT_FIT, INTERRUPTED = 0, 1, 130


def command(recipe_of: Callable[..., Any], given: Namespace, subject_of: Callable[[Any], Subject] = subject) -> int:
    """Examine, show and write down; returns the exit code (0 fit, 1 not fit, 2 wrong recipe, 130 Ctrl-C).

    recipe_of: `recipe_of(path, overrides=())` loads a recipe. given: the launcher's options. subject_of: what of a
    recipe is examined.
    """
    log_to_stderr()
    try:
        recipe = recipe_of(given.recipe, given.overrides)
        if given.workers < 1:
            raise RecipeError(f"--workers {given.workers}: expected at least 1")
        if given.against is not None:
            other = recipe_of(given.against)
            if type(other.data) is not type(recipe.data):
                raise RecipeError(
                    f"--against {given.against}: a recipe of stage {other.stage}, whose data are rows of another kind "
                    f"than those of stage {recipe.stage}; name one of the same kind"
                )
            recipe.data.eval += other.data.eval
        others = 0 if given.against is None else len(other.data.eval)
        if not recipe.data.train and not recipe.data.eval:
            raise RecipeError(f"{given.recipe}: data.train and data.eval are empty; there is nothing to examine")
        images.use(recipe.images)
        folder = given.out or Path(recipe.output) / "doctor"
        folder.mkdir(parents=True, exist_ok=True)
        found = watched(replace(subject_of(recipe), others=others), folder, given.workers)
        write(found, folder, f"Data · {Path(given.recipe).stem}", given.strict)
    except UserError as error:
        report(error)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        say("interrupted; there is no report")
        return INTERRUPTED
    return FIT if found.fit(given.strict) else NOT_FIT


def watched(patient: Subject, folder: Path, workers: int) -> Report:
    """Examine with a progress bar on a terminal, and silence elsewhere."""
    from tqdm.auto import tqdm

    with tqdm(unit=" images", disable=None, file=sys.stderr, dynamic_ncols=True, mininterval=0.5) as bar:

        def told(rows: int, decoded: int, pictures: int) -> None:
            bar.set_description_str(f"{rows:,} rows", refresh=False)
            bar.total = pictures
            bar.update(decoded - bar.n)

        return examine(patient, folder, workers, told)


def write(found: Report, folder: Path, title: str, strict: bool) -> None:
    """report.json and data.png; the summary goes to the terminal."""
    from rich.console import Console

    from samples.doctor.figure import draw
    from samples.doctor.view import render

    (folder / "report.json").write_text(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n")
    draw(found, folder / "data.png", title)
    console = Console()
    render(found, console, strict)
    console.print(f"report: {folder}", markup=False, highlight=False)
