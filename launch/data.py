"""Data doctor:  python launch/data.py recipes/r1.yaml [key.sub=value …] [--against recipes/eval.yaml]

Takes a recipe of SFT, GRPO, evaluation, best-of-N, curation or a score model. Writes report.json, data.png and
faults.jsonl. With `--blind MODEL` nothing is examined: MODEL is asked the training rows (SFT, GRPO) without their
pictures, and the rows that it answers are marked in blind.jsonl, for `data.drop_blind` (docs/data.md). With
`--frequencies FILE` neither: the words of the training captions are counted, for the reward `caption`.
Exit code: 0 the data is fit; 1 it is not (faulty rows, unreadable images, an image in training and evaluation);
2 the recipe is wrong, or a file that it names is not there; 130 Ctrl-C.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else `sft` would be launch/sft.py


def recipe_of(path: str, overrides: Sequence[str] = ()):
    """The recipe in `path`, of the stage that it names."""
    from evals.recipe import EvalRecipe
    from rewards.curate.recipe import CurateRecipe
    from rewards.score.training.recipe import ScoreRecipe
    from rewards.select.recipe import BonRecipe
    from rl.recipe import GRPORecipe
    from sft.recipe import SFTRecipe
    from stage.recipe import config
    from vlm.common.console import say

    found = config.load_any(path, [SFTRecipe, GRPORecipe, EvalRecipe, BonRecipe, CurateRecipe, ScoreRecipe], overrides)
    for doubt in found.settle(fetch=True):
        say(f"note: {doubt}")
    return found


def subject_of(recipe):
    """What of a recipe is examined: questions, or preferences."""
    from rewards.curate.stage import texts_of
    from rewards.score.training import examined, planned
    from samples.doctor.subject import subject
    from stage.planning import control

    if recipe.stage == "score":
        return examined.subject(recipe, planned.text_check(recipe))
    found = subject(recipe)
    found.check = texts_of(recipe) if recipe.stage == "curate" else control.of_recipe(recipe)
    return found


def blind(given) -> None:
    """Mark the training rows that a model answers without their picture."""
    from rich.console import Console

    from evals.controls import marking
    from stage.cli import check_machine
    from stage.planning import control
    from stage.recipe.together import check_engines
    from vlm.common.console import say
    from vlm.common.processes import is_main_process
    from vlm.pictures import images

    recipe = recipe_of(given.recipe, given.overrides)
    folder = given.out or Path(recipe.output) / "doctor"
    asking = marking.asking(recipe, given.blind, folder, given.blind_draws, given.asking)
    for doubt in asking.settle(fetch=True):
        say(f"note: {doubt}")
    check_engines(asking)
    images.use(asking.images)
    check_machine(asking)
    found = marking.mark(asking, folder, given.blind_draws, given.blind_share, control.of_recipe(recipe, fetch=True))
    if is_main_process():
        console = Console()
        console.print(marking.table(found))
        for line in marking.said_of(found, folder):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def frequencies(given) -> None:
    """Count in how many documents the n-grams of the training captions are (`rewards.rules.frequencies`)."""
    from rewards.rules.frequencies import of_samples, write
    from samples import mixture
    from vlm.common.console import say

    recipe, rows = recipe_of(given.recipe, given.overrides), []
    mixture.count(recipe.data, "train", recipe.seed, rows.append).show()
    found = of_samples(rows, f"{given.recipe}, data.train")
    write(given.frequencies, found)
    human = "unknown: no picture has two" if found.consensus is None else f"{found.consensus:.3f}"
    say(
        f"{given.frequencies}: {found.documents:,} documents, {len(found.counts):,} n-grams; CIDEr-D of one caption "
        f"against the others of its picture: {human}"
    )


def main() -> int:
    # not at the top: the processes that decode images import this file, too, and need none of it
    from vlm.common import telemetry

    telemetry.quiet()

    from samples.doctor.command import command

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="changes to the recipe")
    parser.add_argument("--against", metavar="RECIPE", help="another recipe, whose data.eval must not be in training")
    parser.add_argument("--out", type=Path, help="folder of the report; by default `doctor` in the recipe's output")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that decode images")
    parser.add_argument("--strict", action="store_true", help="warnings count as faults")
    parser.add_argument("--blind", metavar="MODEL", help="mark training rows that MODEL answers without their picture")
    parser.add_argument(
        "--blind-draws", type=int, default=1, metavar="N", help="answers a row at temperature 1; 1: greedy"
    )
    parser.add_argument(
        "--blind-share",
        type=float,
        default=0.75,
        metavar="S",
        help="a row is blind from this share of right answers on",
    )
    parser.add_argument(
        "--asking", action="append", default=[], metavar="KEY=VALUE", help="how MODEL is asked, as in recipes/eval.yaml"
    )
    parser.add_argument(
        "--frequencies", type=Path, metavar="FILE", help="write the document frequency of the training captions there"
    )
    given = parser.parse_intermixed_args()
    if given.recipe is None:
        parser.error("a recipe is needed, e.g. recipes/r1.yaml")
    if given.blind is not None or given.frequencies is not None:
        from stage.cli import guarded

        if given.blind is not None and given.frequencies is not None:
            parser.error("--blind and --frequencies are two commands; give one of them")
        return guarded(lambda: frequencies(given) if given.blind is None else blind(given))
    return command(recipe_of, given, subject_of)


if __name__ == "__main__":
    from vlm.common.console import terminal

    with terminal():
        sys.exit(main())
